//! The header that is committed is what cbindgen makes of the sources.
//!
//! `CARVEOUT_WRITE_HEADER=1 cargo test -p carveout-c --test header` writes it.

use std::path::Path;
use std::{env, fs};

#[test]
fn the_header_is_made_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("include/carveout.h");
    let mut made = Vec::new();
    cbindgen::generate(root).expect("sources that cbindgen understands").write(&mut made);
    let made = String::from_utf8(made).expect("text");
    if env::var_os("CARVEOUT_WRITE_HEADER").is_some() {
        fs::write(&committed, &made).expect("the header");
    }
    let committed = fs::read_to_string(&committed).unwrap_or_default();
    assert!(committed == made, "write it again: CARVEOUT_WRITE_HEADER=1 cargo test -p carveout-c --test header");
}
