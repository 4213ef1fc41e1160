//! Links what is built for the boards by the linker script of `carveout-rt`. Flags in .cargo/config.toml would be lost
//! under another RUSTFLAGS.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo::rustc-link-arg=-Tkernel.ld");
    }
}
