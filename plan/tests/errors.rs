//! Bad input: each is refused with its line and what would help, and none makes the tool panic.

use carveout_plan::board::Board;
use carveout_plan::errors::Source;
use carveout_plan::solve::{Effort, plan};
use carveout_plan::trace::{Trace, replay};
use carveout_plan::{input, problem::Problem};
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use proptest::prelude::*;

const GOOD: &str = r#"exclusive = [["a", "b"]]

[[area]]
name = "video"

[[device]]
name = "camera"
area = "video"

[[case]]
name = "a"
buffers = [{ device = "camera", count = 2, size = "1M", direction = "from-device" }]

[[case]]
name = "b"
buffers = [{ device = "camera", count = 3, size = "640*480*2", align = "64K", direction = "both" }]

[[loan]]
area = "video"
kind = "movable"
size = "1M"
"#;

/// A board with 64 MiB at 0x60000000.
fn board() -> Board {
    let mut tree = DeviceTree::new();
    let cells = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let add = |node: &mut DeviceTreeNode, name: &str, value: Vec<u8>| {
        node.add_property(DeviceTreeProperty::new(name, value).unwrap());
    };
    add(&mut tree.root, "#address-cells", cells(&[1]));
    add(&mut tree.root, "#size-cells", cells(&[1]));
    let mut memory = DeviceTreeNode::new("memory@60000000").unwrap();
    add(&mut memory, "device_type", b"memory\0".to_vec());
    add(&mut memory, "reg", cells(&[0x6000_0000, 64 << 20]));
    tree.root.add_child(memory);
    Board::from_bytes("board.dtb", tree.to_dtb()).unwrap()
}

fn read(text: &str) -> Result<Problem, String> {
    input::read(&board(), &Source::new("use.toml", text)).map_err(|fault| fault.to_string())
}

/// The fault of the good file with one text in place of another.
fn fault(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    match read(&GOOD.replacen(old, new, 1)) {
        Err(fault) => fault,
        Ok(problem) => plan(&problem, Effort::Full).expect_err("a mistake").to_string(),
    }
}

#[test]
fn the_good_file_is_good() {
    let problem = read(GOOD).unwrap();
    assert_eq!(plan(&problem, Effort::Full).unwrap()[0].needed, 512);
}

#[test]
fn a_fault_names_file_line_what_and_help() {
    assert_eq!(
        fault("area = \"video\"\n\n[[case]]", "area = \"vide\"\n\n[[case]]"),
        "\
error: there is no area vide
 --> use.toml:8:8
  |
8 | area = \"vide\"
  |        ^^^^^^ named here
  |
  = help: those that there are: video"
    );
}

#[test]
fn each_mistake_is_refused_at_its_line() {
    for (old, new, line, what) in [
        ("exclusive", "exclusve", 1, "unknown field `exclusve`"),
        ("[[\"a\", \"b\"]]", "[[\"a\", \"c\"]]", 1, "there is no case c"),
        ("[[\"a\", \"b\"]]", "[[\"a\", \"a\"]]", 1, "a cannot exclude itself"),
        ("name = \"video\"", "name = \"vid eo\"", 4, "\"vid eo\" is no name of area"),
        ("name = \"video\"", "name = \"a-name-of-far-too-many-letters\"", 4, "the name is too long"),
        ("name = \"video\"", "name = \"video\"\nplace = \"tree\"", 4, "the tree has no area video"),
        ("name = \"video\"", "name = \"video\"\nplace = \"here\"", 5, "\"here\" is no place"),
        (
            "name = \"video\"",
            "name = \"video\"\nwithin = [\"2G\", \"1G\"]",
            5,
            "this is no range of whole frames below 4 GiB",
        ),
        ("name = \"camera\"", "name = \"camera\"\nmask = \"8G\"", 8, "a mask has 32 bits at most"),
        ("name = \"camera\"", "name = \"camera\"\nboundary = \"3K\"", 8, "3072 is no boundary"),
        ("name = \"camera\"", "name = \"camera\"\nnode = \"/soc/camera\"", 8, "board.dtb has no node /soc/camera"),
        ("name = \"camera\"", "name = \"camera\"\nwindows = []", 8, "0 windows"),
        ("name = \"b\"", "name = \"a\"", 15, "there are two of case a"),
        ("[[device]]", "[[area]]\nname = \"more\"\n\n[[device]]", 7, "nothing needs area more"),
        ("count = 2", "count = 0", 12, "0 buffers"),
        ("count = 2", "count = -1", 12, "invalid value"),
        ("size = \"1M\", dir", "size = \"1T\", dir", 12, "\"1T\" is no number of bytes"),
        ("size = \"1M\", dir", "size = 0, dir", 12, "a buffer of 0 bytes"),
        ("align = \"64K\"", "align = \"32M\"", 16, "33554432 is no alignment"),
        ("\"from-device\"", "\"sideways\"", 12, "unknown variant `sideways`"),
        ("kind = \"movable\"", "kind = \"static\"", 20, "unknown variant `static`"),
        ("name = \"video\"", "name = \"video\"\nlend = false", 20, "area video is never lent"),
        (
            "name = \"camera\"",
            "name = \"camera\"\nmask = \"0x5fffffff\"",
            13,
            "a buffer of camera has no place, even alone",
        ),
        (
            "name = \"camera\"",
            "name = \"camera\"\nboundary = \"512K\"",
            13,
            "a buffer of camera has no place, even alone",
        ),
        ("count = 2", "count = 60", 4, "area video has no place for all its buffers"),
    ] {
        let said = fault(old, new);
        assert!(said.starts_with(&format!("error: {what}")), "{said}\n\ndoes not say {what}");
        assert!(said.contains(&format!("use.toml:{line}:")), "{said}\n\nis not at line {line}");
        assert!(said.contains("= help: "), "{said}\n\nhelps nobody");
    }
}

#[test]
fn what_cannot_be_comes_with_the_nearest_changes() {
    let said = fault("count = 2", "count = 60");
    assert!(said.contains("60 MiB must lie apart: camera"), "{said}");
    assert!(said.contains("48 buffers of camera in place of 60 would fit"), "{said}");
    let text = GOOD.replacen("[[\"a\", \"b\"]]", "[]", 1).replacen("count = 2", "count = 47", 1).replacen(
        "count = 3",
        "count = 8",
        1,
    );
    let said = plan(&read(&text).unwrap(), Effort::Full).expect_err("51 MiB of 48").to_string();
    assert!(said.contains("it fits if a and b never run together"), "{said}");
}

#[test]
fn a_tree_that_is_none_is_refused() {
    for bytes in [&b""[..], b"/dts-v1/;", &[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 4]] {
        let said = Board::from_bytes("board.dtb", bytes.to_vec()).expect_err("no tree").to_string();
        assert!(said.starts_with("error: board.dtb: "), "{said}");
    }
}

#[test]
fn a_run_is_refused_at_the_line_that_says_nothing() {
    for (text, line, what) in [
        ("alloc,1,4096\nfre,1\n", 2, "this is no step of a run"),
        ("alloc,1,4096\nfree,2\n", 2, "buffer 2 is not held"),
        ("alloc,1,4096\nalloc,1,4096\n", 2, "buffer 1 is held already"),
        ("# a run\nalloc,1,0\n", 2, "\"0\" is no size of a buffer"),
        ("alloc,1,4096,5000\n", 1, "\"5000\" is no alignment"),
        ("alloc,1,1G\nalloc,2,4096\n", 2, "more than 1 GiB is held at a time"),
    ] {
        let said = Trace::read(&Source::new("run.csv", text)).expect_err("a mistake").to_string();
        assert!(said.starts_with(&format!("error: {what}")), "{said}");
        assert!(said.contains(&format!("run.csv:{line}:")), "{said}");
    }
    let said = Trace::read(&Source::new("run.csv", "# nothing\n")).expect_err("nothing").to_string();
    assert!(said.starts_with("error: run.csv allocates nothing"), "{said}");
}

/// Reads a file and plans it, if it can be planned.
fn survives(text: &str) {
    if let Ok(problem) = read(text) {
        let _ = plan(&problem, Effort::Quick);
    }
}

#[test]
fn each_beginning_of_a_file_is_survived() {
    (0..GOOD.len()).for_each(|end| survives(&GOOD[..end]));
}

proptest! {
    #[test]
    fn a_file_with_other_bytes_in_it_is_survived(at in 0..GOOD.len(), with in "[ -~\n]{1,4}") {
        let mut text = GOOD.to_owned();
        text.replace_range(at..(at + with.len()).min(GOOD.len()), &with);
        survives(&text);
    }

    #[test]
    fn a_run_of_any_text_is_survived(text in "((alloc|free),[0-9]{1,2}(,[0-9KM*x]{1,4}){0,2}\n){0,12}") {
        if let Ok(trace) = Trace::read(&Source::new("run.csv", text)) {
            let _ = replay(&trace).text();
        }
    }

    #[test]
    fn a_certificate_of_any_text_is_survived(text in "[\\[\\]{}\":,a-z0-9]{0,40}") {
        let problem = read(GOOD).expect("it is good");
        prop_assert!(carveout_plan::check::check(&problem, &text).is_err());
    }
}
