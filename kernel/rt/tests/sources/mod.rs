//! The sources below a folder, for tests that read them.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns every source below a folder, as a path from there.
pub(crate) fn below(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(from) = folders.pop() {
        for entry in fs::read_dir(folder.join(&from)).unwrap() {
            let path = from.join(entry.unwrap().file_name());
            if folder.join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Returns the folders of the adapters, below the repository's root.
#[allow(dead_code, reason = "some of the tests look at a part")]
pub(crate) fn adapters() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

/// Returns the name and the text of every source of the module: of its four crates, and of the adapters.
#[allow(dead_code, reason = "one of the tests has folders of its own")]
pub(crate) fn of_the_module() -> Vec<(String, String)> {
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let crates = ["carveout", "boot", "armv7a", "rt"].map(|name| kernel.join(name));
    let folders: Vec<_> = crates.into_iter().chain(adapters()).map(|folder| folder.join("src")).collect();
    let sources = folders.iter().flat_map(|folder| below(folder).into_iter().map(|path| folder.join(path)));
    sources.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}
