//! The commands of the `shoal` binary. Each only parses its arguments and wires the products
//! together; what they do is documented in their crates.
//!
//! Logs go to standard error; standard output carries only what a command was asked to print.

mod cli;
mod commands;
pub mod demo;
mod failure;
mod file;
mod logging;
mod shutdown;

pub use cli::run;
pub use failure::Failure;
