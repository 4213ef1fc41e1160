//! The commands of docs/src/plan.md, as a reader types them: each does what the chapter says, and prints it.

use std::path::Path;
use std::process::Command;

/// A block of commands, with what the chapter says that they print.
struct Block {
    commands: Vec<String>,
    prints: Option<String>,
}

/// Returns the blocks of a chapter. What a block prints stands in a block of text right after it.
fn blocks(chapter: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = chapter.lines().peekable();
    let mut near = false;
    while let Some(line) = lines.next() {
        let kind = line.strip_prefix("```");
        let Some(kind) = kind else {
            near &= line.is_empty();
            continue;
        };
        let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match kind {
            "sh" => blocks.push(Block { commands: inside.iter().map(|&line| line.to_owned()).collect(), prints: None }),
            "text" if near => blocks.last_mut().expect("a block before").prints = Some(inside.join("\n") + "\n"),
            _ => {}
        }
        near = kind == "sh";
    }
    blocks
}

#[test]
fn each_command_of_the_chapter_prints_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let chapter = std::fs::read_to_string(root.join("docs/src/plan.md")).unwrap();
    std::fs::create_dir_all(root.join("target")).unwrap();
    let blocks = blocks(&chapter);
    assert!(blocks.len() > 6, "{} blocks", blocks.len());
    for Block { commands, prints } in blocks {
        let (mut printed, mut went_well) = (String::new(), true);
        for command in &commands {
            let mut words = command.split_whitespace();
            assert_eq!(words.next(), Some("carveout-plan"), "{command}");
            let output =
                Command::new(env!("CARGO_BIN_EXE_carveout-plan")).args(words).current_dir(&root).output().unwrap();
            went_well &= output.status.success();
            printed = String::from_utf8(if output.status.success() { output.stdout } else { output.stderr }).unwrap();
        }
        match prints {
            Some(prints) => assert_eq!(printed, prints, "{commands:?}"),
            None => assert!(went_well, "{commands:?}: {printed}"),
        }
    }
}

#[test]
fn an_error_is_json_if_json_is_wanted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_carveout-plan")).args(words).current_dir(&root).output().unwrap();
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap())
    };
    let tree = "boards/vexpress-a9/vexpress-a9.dts";
    let (code, error) = run(&["--json", tree, "plan/cases/mistake.toml"]);
    assert_eq!((code, error["line"].as_u64()), (Some(1), Some(14)));
    assert!(error["help"][0].is_string());
    let (code, plan) = run(&[tree, "plan/cases/example.toml", "--json"]);
    assert_eq!((code, plan["areas"][0]["bytes"].as_u64()), (Some(0), Some(9 << 20)));
    for words in
        [&["--json"][..], &["--json", "a", "b", "c"], &["--json", "--sideways"], &["--json", "none.dtb", "none.toml"]]
    {
        let (code, error) = run(words);
        assert_eq!(code, Some(1), "{words:?}");
        assert!(error["error"].is_string(), "{words:?}");
    }
}
