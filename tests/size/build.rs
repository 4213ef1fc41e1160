//! Links what has the boot path by the linker script of `carveout-rt`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_RT").is_some() {
        println!("cargo::rustc-link-arg=-Tkernel.ld");
    }
}
