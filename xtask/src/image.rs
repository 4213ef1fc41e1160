//! Makes the inputs of a machine: the kernel's bytes and device trees. Binutils and dtc do the work.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::boards::Board;
use crate::failure::{Context, Failure, Result};
use crate::project::{self, BOARDS};

/// Writes the bytes that an ELF loads. QEMU hands the device tree in r2 to a raw image only.
///
/// Any objcopy that knows 32-bit little-endian ELF will do, whatever machine it was built for.
pub(crate) fn flatten(elf: &Path, bytes: &Path) -> Result<()> {
    let objcopy = Command::new("objcopy")
        .args(["-I", "elf32-little", "-O", "binary", "--"])
        .args([elf, bytes])
        .stderr(Stdio::null())
        .status()
        .doing("objcopy")?;
    if objcopy.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("not an ELF that can be flattened: {}", elf.display())))
    }
}

/// Compiles a device tree's source. The files that it includes are named by their path below `boards`.
pub(crate) fn compile_tree(source: &str, blob: &Path) -> Result<()> {
    let mut dtc = Command::new("dtc")
        .args(["-q", "-I", "dts", "-O", "dtb", "-o"])
        .arg(blob)
        .arg("-i")
        .arg(project::root().join(BOARDS))
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .doing("dtc")?;
    if let Some(mut stdin) = dtc.stdin.take() {
        stdin.write_all(source.as_bytes()).doing("dtc")?;
    }
    if dtc.wait().doing("dtc")?.success() { Ok(()) } else { Err(Failure::new("dtc refuses the device tree")) }
}

/// Compiles a board's own device tree without the outer cache. The lines of the inner caches cost the same on every
/// board.
pub(crate) fn tree_without_outer_cache(board: &Board, blob: &Path) -> Result<()> {
    compile_tree(&board.tree()?, blob)?;
    remove_node(blob, "/cache-controller@1e00a000")
}

/// Removes a node of a blob.
pub(crate) fn remove_node(blob: &Path, node: &str) -> Result<()> {
    let fdtput = Command::new("fdtput").arg("-r").arg(blob).arg(node).status().doing("fdtput")?;
    if fdtput.success() { Ok(()) } else { Err(Failure::new(format!("fdtput removed no {node}"))) }
}

/// Removes the nodes of the cores from the `count`-th on.
pub(crate) fn keep_cores(blob: &Path, count: u32) -> Result<()> {
    let nodes =
        Command::new("fdtget").arg("-l").arg(blob).arg("/cpus").stderr(Stdio::null()).output().doing("fdtget")?;
    for node in String::from_utf8_lossy(&nodes.stdout).lines() {
        let number = node.split_once('@').and_then(|(_, number)| u32::from_str_radix(number, 16).ok());
        if number.is_some_and(|number| number >= count) {
            remove_node(blob, &format!("/cpus/{node}"))?;
        }
    }
    Ok(())
}
