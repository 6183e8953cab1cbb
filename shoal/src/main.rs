//! The one binary: see `shoal --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal::run(std::env::args_os())
}
