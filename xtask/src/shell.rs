//! Running other programs from the repository's root, in view of whoever started the task.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the root")
        .to_path_buf()
}

/// A command at the repository's root, in the environment that `cargo xtask` was called in.
///
/// `cargo run` adds variables about the xtask package. Build scripts such as ring's watch them, so
/// passing them on would rebuild half of the tree whenever cargo is called from here and from a
/// shell in turn.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if is_package_variable(&name) {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs the command in view; an error if it cannot start or exits non-zero.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command
        .status()
        .with_context(|| format!("environment: cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

/// Runs the command in view and returns whether it succeeded, with all that it printed.
pub(crate) fn run_recorded(command: &mut Command) -> Result<(bool, String)> {
    let (code, printed) = run_coded(command)?;
    Ok((code == Some(0), printed))
}

/// The same with the exit code, unless a signal has ended it.
pub(crate) fn run_coded(command: &mut Command) -> Result<(Option<i32>, String)> {
    announce(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("environment: cannot start {}", name(command)))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let errors = thread::spawn(move || copy_lines(stderr, std::io::stderr()));
    let mut printed = copy_lines(stdout, std::io::stdout());
    printed.push_str(&errors.join().expect("the copying thread does not panic"));
    Ok((child.wait()?.code(), printed))
}

/// Standard output of a command that is to succeed; what it complains of is shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    announce(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("environment: cannot start {}", name(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", describe(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Standard output of a command that prints a fact, or `None` if it is not there or fails.
pub(crate) fn query(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is on the search path.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Debian keeps what administers networks where only root looks.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The command line, as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(name(command))
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn announce(command: &Command) {
    println!("$ {}", describe(command));
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn is_package_variable(name: &str) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    let names = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) || names.contains(&name)
}

fn copy_lines(from: impl Read, mut to: impl Write) -> String {
    let mut reader = BufReader::new(from);
    let mut copied = String::new();
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|length| length > 0)
    {
        // What is printed is kept even where nobody reads it any more.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        copied.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    if !copied.ends_with('\n') {
        copied.push('\n');
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_variables_are_not_passed_on() {
        assert!(is_package_variable("CARGO_PKG_NAME"));
        assert!(is_package_variable("CARGO_MANIFEST_DIR"));
        assert!(is_package_variable("OUT_DIR"));
        assert!(!is_package_variable("CARGO_TARGET_DIR"));
        assert!(!is_package_variable("CARGO"));
    }

    #[test]
    fn both_streams_are_recorded_with_the_verdict() {
        let mut command = command("sh");
        command.args(["-c", "echo out; printf err >&2; exit 3"]);
        let (success, printed) = run_recorded(&mut command).unwrap();
        assert!(!success);
        assert_eq!(printed, "out\nerr\n");
    }
}
