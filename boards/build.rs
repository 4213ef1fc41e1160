//! Links what is built for the boards by linker/kernel.ld, and links again when that file changes. A path in
//! .cargo/config.toml would do neither under another RUSTFLAGS nor notice the change.

use std::path::PathBuf;

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../linker/kernel.ld");
        println!("cargo::rustc-link-arg=-T{}", script.display());
        println!("cargo::rerun-if-changed={}", script.display());
    }
}
