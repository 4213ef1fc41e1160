//! Names and places: each package, program and folder of the project that other modules name is named here.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// What the kernel is built for.
pub(crate) const TARGET: &str = "armv7a-none-eabi";

/// The module's package.
pub(crate) const MODULE: &str = "carveout";
/// The packages that have features to leave out, and their folders.
pub(crate) const WITH_FEATURES: [(&str, &str); 2] = [(MODULE, "kernel/carveout"), ("carveout-armv7a", "kernel/armv7a")];
/// The minimal kernel's package, and its program.
pub(crate) const KERNEL: &str = "carveout-boards";
pub(crate) const DEMO: &str = "demo";
/// The package of the tests that boot.
pub(crate) const ON_TARGET: &str = "on-target";
pub(crate) const ON_TARGET_MANIFEST: &str = "tests/on-target/Cargo.toml";
/// The package of the host's tool for pictures, and its program.
pub(crate) const PICTURE: &str = "picture";

/// The workspaces apart.
pub(crate) const INCOHERENT: &str = "tests/incoherent";
pub(crate) const BENCH: &str = "tests/bench";
pub(crate) const SIZE: &str = "tests/size";
/// The tables of cases.
pub(crate) const CASES: &str = "tests/cases";

/// Each board's folder.
pub(crate) const BOARDS: &str = "boards";

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    // The scripts say where they stand. Unit tests run without them.
    env::var_os("CARVEOUT_ROOT").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), PathBuf::from)
});

/// Returns the checkout's folder.
pub(crate) fn root() -> &'static Path {
    &ROOT
}

/// Returns the folder that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
