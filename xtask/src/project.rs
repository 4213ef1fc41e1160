//! Names and places: each package, program and folder of the project that other modules name is named here.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The target that the kernel is built for.
pub(crate) const TARGET: &str = "armv7a-none-eabi";
/// The kernel's target in the other instruction set.
pub(crate) const THUMB: &str = "thumbv7a-none-eabi";

/// The module's package.
pub(crate) const MODULE: &str = "carveout";
/// The packages that have features to leave out, and their folders.
pub(crate) const WITH_FEATURES: [(&str, &str); 2] = [(MODULE, "kernel/carveout"), ("carveout-armv7a", "kernel/armv7a")];
/// The module's package with the boot path.
pub(crate) const RUNTIME: &str = "carveout-rt";
/// The minimal kernel's package, and its program.
pub(crate) const KERNEL: &str = "carveout-boards";
pub(crate) const DEMO: &str = "demo";
/// The package of the tests that boot.
pub(crate) const ON_TARGET: &str = "on-target";
pub(crate) const ON_TARGET_MANIFEST: &str = "tests/on-target/Cargo.toml";
/// The package of the host's tool for pictures, and its program.
pub(crate) const PICTURE: &str = "picture";

/// The separate workspaces.
pub(crate) const INCOHERENT: &str = "tests/incoherent";
pub(crate) const BENCH: &str = "tests/bench";
pub(crate) const SIZE: &str = "tests/size";
/// The folder of the example kernels, each a separate workspace too: the template that a newcomer copies, one in Rust,
/// and one in C.
pub(crate) const EXAMPLES: &str = "examples";
pub(crate) const TEMPLATE: &str = "template";
pub(crate) const EMBED_RUST: &str = "embed-rust";
pub(crate) const EMBED_C: &str = "embed-c";
/// The tables of cases.
pub(crate) const CASES: &str = "tests/cases";

/// Each board's folder.
pub(crate) const BOARDS: &str = "boards";

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    // The scripts set the variable to their folder. Unit tests run without the scripts.
    env::var_os("CARVEOUT_ROOT").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), PathBuf::from)
});

/// Returns the checkout's folder.
pub(crate) fn root() -> &'static Path {
    &ROOT
}

/// Returns the folder of an example.
pub(crate) fn example(name: &str) -> PathBuf {
    root().join(EXAMPLES).join(name)
}

/// Returns the folder that cargo builds the examples into.
pub(crate) fn examples_target_dir() -> PathBuf {
    target_dir().join(EXAMPLES)
}

/// Returns the folder that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
