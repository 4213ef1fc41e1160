//! Links by the linker script of `carveout-rt`.

fn main() {
    println!("cargo::rustc-link-arg=-Tkernel.ld");
}
