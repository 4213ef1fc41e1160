//! Links what is built for the boards by linker/kernel.ld, and links again when that file changes. A path in
//! .cargo/config.toml would do neither under another RUSTFLAGS nor notice the change.

use std::path::PathBuf;

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        // Asked when it runs: a copied checkout takes the compiled build script along.
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        let script = PathBuf::from(package).join("../linker/kernel.ld");
        println!("cargo::rustc-link-arg=-T{}", script.display());
        println!("cargo::rerun-if-changed={}", script.display());
    }
}
