//! The four real inputs: their plans, the kernel's reading of them, and the table of the book.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use carveout_plan::board::Board;
use carveout_plan::certificate::certificate;
use carveout_plan::errors::Source;
use carveout_plan::problem::{Problem, bytes};
use carveout_plan::solve::{Effort, Packing, plan};
use carveout_plan::{check, input, nodes, table};
use serde_json::Value;

/// A change of a certificate, and what the checker says of it.
type Mistake<'a> = (&'a dyn Fn(&mut Value), &'a str);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns a board and its use cases.
fn read(tree: &str, cases: &str) -> (Board, Problem) {
    let board = Board::read(&root().join(tree)).unwrap_or_else(|fault| panic!("{fault}"));
    let text = std::fs::read_to_string(root().join(cases)).unwrap();
    let problem = input::read(&board, &Source::new(cases, text)).unwrap_or_else(|fault| panic!("{fault}"));
    (board, problem)
}

fn planned(name: &str) -> (Board, Problem, Vec<Packing>) {
    let (board, problem) = read(&format!("plan/cases/{name}.dts"), &format!("plan/cases/{name}.toml"));
    let packings = plan(&problem, Effort::Full).unwrap_or_else(|fault| panic!("{fault}"));
    (board, problem, packings)
}

#[test]
fn the_book_has_the_figures_of_the_four_inputs() {
    let book = std::fs::read_to_string(root().join("docs/src/plan.md")).unwrap();
    for name in ["phone", "raspberry", "zynq", "stm32mp1"] {
        let (_, problem, packings) = planned(name);
        let sum = |of: fn(&Packing) -> u32| bytes(packings.iter().map(|packing| u64::from(of(packing)) << 12).sum());
        let buffers: u32 = problem.sets.iter().map(|set| set.count).sum();
        let found = sum(|packing| packing.needed);
        let row =
            format!("| {} | {} | {found} | {} |", buffers, sum(|packing| packing.sum), sum(|packing| packing.bound));
        assert!(book.lines().any(|line| line.ends_with(&row)), "{name}: {row}");
    }
}

#[test]
fn the_kernel_makes_the_areas_of_each_plan() {
    for name in ["phone", "raspberry", "zynq", "stm32mp1"] {
        let (board, problem, packings) = planned(name);
        let tree = nodes::prove(&board, &problem, &packings, problem.kernel).unwrap_or_else(|fault| panic!("{fault}"));
        // With the areas in the tree, they are the tree's: the same plan comes of it.
        let text = problem.source.text.replace("\nplace = \"tree\"", "");
        let text = text.replace("[[area]]\n", "[[area]]\nplace = \"tree\"\n");
        let again = input::read(&tree, &Source::new(name, text)).unwrap_or_else(|fault| panic!("{fault}"));
        let again = plan(&again, Effort::Full).unwrap_or_else(|fault| panic!("{fault}"));
        let runs = |packings: &[Packing]| packings.iter().map(|packing| packing.runs.clone()).collect::<Vec<_>>();
        assert_eq!(runs(&again), runs(&packings), "{name}");
    }
}

#[test]
fn no_certificate_passes_with_a_mistake_in_it() {
    let (_, problem, packings) = planned("phone");
    let good = certificate(&problem, &packings);
    assert_eq!(check::check(&problem, &good.to_string()), Ok(51));
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        check::check(&problem, &value.to_string()).expect_err("a certificate with a mistake")
    };
    let number = |value: &Value| value.as_u64().unwrap();
    // Sets by their numbers: 0 the screen, 1 the preview, 2 the picture, 4 luma to encode, 9 firmware.
    let mistakes: [Mistake<'_>; 13] = [
        (&|value| value["certificate"] = "another".into(), "it is a"),
        (&|value| value["sets"].as_array_mut().unwrap().truncate(3), "it has 3 sets"),
        (&|value| value["sets"][1]["at"].as_array_mut().unwrap().truncate(7), "its set 1 is 7 x preview"),
        (&|value| value["sets"][1]["bytes"] = 4096.into(), "its set 1 is"),
        (&|value| value["sets"][1]["cases"] = serde_json::json!(["preview"]), "its set 1 is"),
        (&|value| value["sets"][1]["at"][0] = 0x5000_0000.into(), "is not in area video"),
        (&|value| value["sets"][1]["at"][0] = value["sets"][1]["at"][1].clone(), "overlap"),
        (&|value| value["sets"][2]["at"][0] = value["sets"][0]["at"][0].clone(), "is not in area video"),
        (
            &|value| value["sets"][9]["at"][0] = (number(&value["sets"][9]["at"][0]) + 4096).into(),
            "is not aligned to 0x20000",
        ),
        (&|value| value["areas"][0]["runs"][0]["base"] = 0x4000_0000.into(), "is not in area video"),
        (&|value| value["areas"][1]["runs"][0]["bytes"] = (64 << 20).into(), "is no run of whole frames of one area"),
        (&|value| value["areas"][0]["apart"] = serde_json::json!([0, 1, 1]), "the bound of area video does not hold"),
        (&|value| value["areas"][0]["needs"] = (1 << 30).into(), "the bound of area video does not hold"),
    ];
    for (change, says) in mistakes {
        let said = broken(change);
        assert!(said.contains(says), "{said:?} does not say {says:?}");
    }
}

#[test]
fn a_picture_has_a_box_for_each_slot_of_each_use_case() {
    let (_, mut problem, packings) = planned("zynq");
    problem.sets[0].name = "<b>&\"".to_owned();
    let drawn = carveout_plan::svg::picture(&problem, &packings);
    let (mut boxes, mut deep) = (0, 0);
    for event in svg::read(&drawn).unwrap() {
        match event {
            svg::parser::Event::Tag("rect", kind, _) if kind != svg::node::element::tag::Type::End => boxes += 1,
            svg::parser::Event::Tag("b", ..) => panic!("a name is no element"),
            svg::parser::Event::Tag("g", svg::node::element::tag::Type::Start, _) => deep += 1,
            svg::parser::Event::Error(error) => panic!("{error}"),
            _ => {}
        }
    }
    let slots: u32 = problem.sets.iter().map(|set| set.count * set.cases.len() as u32).sum();
    // The paper, and the area's length for each use case.
    assert_eq!(boxes, slots + 1 + (packings.len() * problem.cases.len()) as u32);
    assert_eq!(deep, packings.len());
}

#[test]
fn what_cannot_be_proven_says_how_far_it_may_be_from_the_best() {
    // Sixty sets of ten use cases: more arrangements than anybody tries.
    let mut seed = 7_u32;
    let mut below = |limit: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % limit
    };
    let mut text = String::from("exclusive = [");
    for a in 0..10 {
        for b in (a + 1)..10 {
            if below(5) < 3 {
                let _ = write!(text, "[\"c{a}\", \"c{b}\"], ");
            }
        }
    }
    text += "]\n[[area]]\nname = \"video\"\n[[device]]\nname = \"d\"\narea = \"video\"\n";
    for case in 0..10 {
        let _ = writeln!(text, "[[case]]\nname = \"c{case}\"\nbuffers = [");
        for _ in 0..6 {
            let (count, size, order) = (1 + below(4), 4096 * (1 + below(500)), below(8));
            let _ = writeln!(
                text,
                "{{ device = \"d\", count = {count}, size = {size}, align = {}, direction = \"both\" }},",
                4096 << order
            );
        }
        text += "]\n";
    }
    let board =
        Board::read(&root().join("boards/vexpress-a9/vexpress-a9.dts")).unwrap_or_else(|fault| panic!("{fault}"));
    let problem = input::read(&board, &Source::new("large.toml", text)).unwrap_or_else(|fault| panic!("{fault}"));
    let packings = plan(&problem, Effort::Full).unwrap_or_else(|fault| panic!("{fault}"));
    let packing = &packings[0];
    assert!(
        !packing.proven && packing.bound < packing.needed && packing.needed < packing.bound * 11 / 10,
        "{packing:?}"
    );
    assert!(carveout_plan::report::text(&problem, &packings).contains("are needed: a gap of "));
    assert!(check::check(&problem, &certificate(&problem, &packings).to_string()).is_ok());
}

#[test]
fn a_certificate_of_another_tree_is_refused() {
    let (_, problem, packings) = planned("phone");
    let certificate = certificate(&problem, &packings).to_string();
    let other = Problem { free: std::iter::once(0x40000..0x60000).collect(), ..problem };
    let said = check::check(&other, &certificate).unwrap_err();
    assert!(said.contains("is reserved, absent or not where it may lie"), "{said}");
}

#[test]
fn the_board_s_test_is_built_with_the_table_of_its_use_cases() {
    let (_, problem) = read("boards/vexpress-a9/vexpress-a9.dts", "plan/cases/vexpress.toml");
    let packings = plan(&problem, Effort::Full).unwrap_or_else(|fault| panic!("{fault}"));
    let file = root().join("tests/on-target/src/planned/table.rs");
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written, table::table(&problem, &packings), "carveout-plan --rust {}", file.display());
}
