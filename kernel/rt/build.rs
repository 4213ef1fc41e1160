//! Hands out the image's linker script. A program that is linked by `-Tkernel.ld` finds it, and is linked again when
//! the script changes.

use std::path::Path;
use std::{env, fs};

fn main() {
    let folder = env::var_os("OUT_DIR").expect("cargo says where to write");
    fs::copy("kernel.ld", Path::new(&folder).join("kernel.ld")).expect("the package has kernel.ld");
    println!("cargo::rustc-link-search={}", Path::new(&folder).display());
    println!("cargo::rerun-if-changed=kernel.ld");
}
