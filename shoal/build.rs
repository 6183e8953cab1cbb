//! Finds hls.js for the demo's page, and says when embedded files have changed.

use std::path::Path;

/// Where `cargo xtask setup` has npm install it.
const HLS_JS: &str = "../player-shim/js/node_modules/hls.js/dist/hls.min.js";

fn main() {
    println!("cargo::rerun-if-changed=demo/page");
    // What is not there yet makes every build look again, until it is.
    println!("cargo::rerun-if-changed=../player-shim/dist");
    println!("cargo::rerun-if-changed={HLS_JS}");
    let copy = Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets it")).join("hls.min.js");
    // Empty stands for missing: the demo says so when it is asked for its page.
    let script = std::fs::read(HLS_JS).unwrap_or_default();
    std::fs::write(copy, script).expect("cargo's folder can be written to");
}
