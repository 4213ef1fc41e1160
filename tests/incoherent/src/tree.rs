//! The device tree of a machine: the board's source with what QEMU would write into it, compiled by `dtc`.

use crate::model::{Boot, Model, RAM};
use std::io::Write;
use std::process::{Command, Stdio};

/// The blob, with these boot arguments; none where nothing is passed to a program.
pub fn compile(model: &Model, bootargs: &str) -> Result<Option<Vec<u8>>, String> {
    let Boot::Image { board, nodes } = model.boot else { return Ok(None) };
    let memory = format!("memory@{:x}", model.ram);
    let source = format!(
        "{board}\n/ {{ chosen {{ bootargs = \"{bootargs}\"; }}; {memory} {{ reg = <{:#x} {RAM:#x}>; }}; }};\n{nodes}",
        model.ram
    );
    let mut dtc = Command::new("dtc")
        .args(["-q", "-I", "dts", "-O", "dtb"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("dtc: {error}"))?;
    // Small enough for the pipe: dtc reads all of it before it writes.
    dtc.stdin.take().expect("piped").write_all(source.as_bytes()).map_err(|error| format!("dtc: {error}"))?;
    let output = dtc.wait_with_output().map_err(|error| format!("dtc: {error}"))?;
    if output.status.success() {
        Ok(Some(output.stdout))
    } else {
        Err(format!("dtc refused the tree of {}", model.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MODELS;

    /// What is left out is named by the boards' trees, which change.
    #[test]
    fn every_model_has_a_tree() {
        for model in &MODELS {
            let Some(blob) = compile(model, "plant=none").unwrap() else { continue };
            assert!(blob.windows(10).any(|bytes| bytes == b"plant=none"), "{}", model.name);
        }
    }
}
