//! One scratch folder for each process, made when it is first needed. Guarantees that the folder is removed at the end,
//! even if the process is interrupted.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{Context, Result};

/// The exit code of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

static FOLDER: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();

/// Runs a command, and removes the scratch folder after it.
pub(crate) fn removed_at_the_end<T>(command: impl FnOnce() -> T) -> T {
    let result = command();
    remove();
    result
}

fn remove() {
    if let Some(Ok(folder)) = FOLDER.get() {
        // Another thread may put a file into the folder meanwhile, once. Files that cannot be removed stay in the
        // system's temporary folder.
        while fs::remove_dir_all(folder).is_err_and(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty) {}
    }
}

/// Returns a new folder, for this process alone.
pub(crate) fn folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    let of_process = FOLDER.get_or_init(of_process).as_ref().doing("no scratch folder")?;
    let folder = of_process.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir(&folder).doing(folder.display())?;
    Ok(folder)
}

fn of_process() -> std::result::Result<PathBuf, String> {
    ctrlc::set_handler(|| {
        remove();
        std::process::exit(INTERRUPTED);
    })
    .map_err(|error| error.to_string())?;
    // A killed process with the same number may have left such a folder, or another user may have made one.
    let mut tries = 0;
    loop {
        let folder = std::env::temp_dir().join(format!("carveout-{}-{tries}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => tries += 1,
            Err(error) => return Err(format!("{}: {error}", folder.display())),
        }
    }
}
