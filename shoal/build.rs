//! Says when the embedded files of the demo have changed.

fn main() {
    println!("cargo::rerun-if-changed=demo/page");
    // A folder that is not there yet makes every build look again, until it is.
    println!("cargo::rerun-if-changed=../player-shim/dist");
}
