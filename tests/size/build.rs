//! Links what has the boot path by the image's linker script.

use std::env;
use std::path::PathBuf;

fn main() {
    if env::var_os("CARGO_FEATURE_RT").is_some() {
        let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        let script = PathBuf::from(package).join("../../linker/kernel.ld");
        println!("cargo::rustc-link-arg=-T{}", script.display());
        println!("cargo::rerun-if-changed={}", script.display());
    }
}
