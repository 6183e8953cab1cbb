//! `cargo xtask test`: the whole suite, step by step. A failed test fails the run, which still goes
//! on, so that one run names all that is wrong; a step that cannot be done ends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::counts::Counts;
use crate::wasm::Toolchain;
use crate::{deny, setup, shell, tidy, wasm};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the steps with these names, without installing anything first.
    #[arg(value_parser = step_names())]
    steps: Vec<String>,
}

/// A step either counts tests or only passes.
type Step = fn() -> Result<Outcome>;

enum Outcome {
    Passed,
    Ran(Counts),
    /// What it would run does not exist or is not installed.
    Skipped(&'static str),
}

/// The browser viewer comes before everything that may embed it.
const STEPS: [(&str, Step); 11] = [
    ("setup", run_setup),
    ("tidy", run_tidy),
    ("format", run_format),
    ("wasm", run_wasm),
    ("pure-core", run_pure_core),
    ("clippy", run_clippy),
    ("rust", run_rust),
    ("doc", run_doc),
    ("shim", run_shim),
    ("browser", run_browser),
    ("deny", run_deny),
];

/// Runs the steps in order. The last line printed is `N passed, N failed`, summed over all runners.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut total = Counts::default();
    let mut summary = Vec::new();
    let mut failure = None;
    let wanted = |name: &str| args.steps.is_empty() || args.steps.iter().any(|step| step == name);
    for (name, step) in STEPS.into_iter().filter(|(name, _)| wanted(name)) {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = step();
        let (shown, counts) = judge(&outcome);
        total += counts;
        let line = format!(
            "{name:<10} {:>7.1} s  {shown}",
            start.elapsed().as_secs_f64()
        );
        println!("--- {line}");
        summary.push(line);
        let done = outcome.is_ok();
        failure = failure.or(problem(name, outcome));
        if !done {
            break;
        }
    }
    println!("\n=== summary\n{}", summary.join("\n"));
    if let Some(problem) = &failure {
        println!("{problem:#}");
    }
    println!("{total}");
    // The reason stands above, so that the count stays the last line.
    std::process::exit(i32::from(failure.is_some()));
}

fn step_names() -> Vec<&'static str> {
    STEPS.into_iter().map(|(name, _)| name).collect()
}

/// How a step is shown and what it adds to the sum: one failure where it fails without a count.
fn judge(outcome: &Result<Outcome>) -> (String, Counts) {
    match outcome {
        Ok(Outcome::Passed) => ("passed".to_owned(), Counts::default()),
        Ok(Outcome::Skipped(why)) => (format!("skipped: {why}"), Counts::default()),
        Ok(Outcome::Ran(counts)) => (counts.to_string(), *counts),
        Err(_) => (
            "FAILED".to_owned(),
            Counts {
                passed: 0,
                failed: 1,
            },
        ),
    }
}

fn problem(name: &str, outcome: Result<Outcome>) -> Option<anyhow::Error> {
    match outcome {
        Ok(Outcome::Ran(counts)) if counts.failed > 0 => {
            Some(anyhow::anyhow!("{name}: {} tests failed", counts.failed))
        }
        Ok(_) => None,
        Err(problem) => Some(problem.context(format!("{name} failed"))),
    }
}

fn run_setup() -> Result<Outcome> {
    setup::run(setup::Args {
        browsers: true,
        media: true,
    })?;
    Ok(Outcome::Passed)
}

fn run_tidy() -> Result<Outcome> {
    tidy::run()?;
    Ok(Outcome::Passed)
}

fn run_format() -> Result<Outcome> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn run_wasm() -> Result<Outcome> {
    wasm::run(wasm::Args::default())?;
    Ok(Outcome::Passed)
}

/// The core compiles where there is no clock, no thread and no source of randomness.
fn run_pure_core() -> Result<Outcome> {
    let toolchain = Toolchain::find().context("no compiler for wasm32; run `cargo xtask setup`")?;
    shell::run(
        toolchain
            .cargo("check")
            .args(["-p", "swarm-core", "--no-default-features"]),
    )?;
    Ok(Outcome::Passed)
}

fn run_clippy() -> Result<Outcome> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    shell::run(shell::cargo().args(clippy))?;
    Ok(Outcome::Passed)
}

fn run_rust() -> Result<Outcome> {
    let mut command = shell::cargo();
    if shell::find_program("cargo-nextest").is_some() {
        command.args([
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
        ]);
    } else {
        println!("cargo-nextest is not installed; `cargo test` runs the same tests");
        command.args([
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--all-targets",
        ]);
    }
    count(&mut command)
}

fn run_doc() -> Result<Outcome> {
    let mut command = shell::cargo();
    command.args(["test", "--doc", "--workspace", "--locked", "--no-fail-fast"]);
    let (success, printed) = shell::run_recorded(&mut command)?;
    conclude(&command, success, Counts::read(&printed))
}

fn run_shim() -> Result<Outcome> {
    let has_tests = |folder: &Path| {
        let manifest = fs::read_to_string(folder.join("package.json")).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap_or_default();
        manifest["scripts"]["test"].is_string()
    };
    run_npm_test("player-shim/js", has_tests, &[])
}

fn run_browser() -> Result<Outcome> {
    let shoal = build_shoal()?;
    let mut total = Counts::default();
    for folder in ["tests/browser", "tests/webtorrent"] {
        match run_npm_test(folder, holds_test, &[("SHOAL", &shoal)])? {
            Outcome::Ran(counts) => total += counts,
            other => return Ok(other),
        }
    }
    Ok(Outcome::Ran(total))
}

/// The program as the Rust tests have it: built alone, its dependencies would have other features, and
/// be compiled once more.
fn build_shoal() -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--locked", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let printed = shell::output(&mut cargo)?;
    let made = printed.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_program = message["target"]["name"] == "shoal"
            && message["target"]["kind"][0] == "bin"
            && message["profile"]["test"] == false;
        let path = message["executable"].as_str().filter(|_| is_program)?;
        Some(PathBuf::from(path))
    });
    made.context("cargo has built no `shoal`")
}

fn run_npm_test(
    folder: &str,
    has_tests: impl Fn(&Path) -> bool,
    variables: &[(&str, &Path)],
) -> Result<Outcome> {
    let path = shell::root().join(folder);
    if !has_tests(&path) {
        return Ok(Outcome::Skipped("there are no tests"));
    }
    let mut npm = shell::command("npm");
    npm.current_dir(path).args(["test"]);
    npm.envs(variables.iter().copied());
    if let Some(chromium) = setup::find_chromium() {
        npm.env("CHROMIUM", chromium);
    }
    count(&mut npm)
}

/// A file of tests that node's runner would find.
fn holds_test(folder: &Path) -> bool {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            [".test.mjs", ".test.js", ".test.cjs"]
                .iter()
                .any(|ending| name.ends_with(ending))
                || (entry.path().is_dir() && name != "node_modules" && holds_test(&entry.path()))
        })
}

fn run_deny() -> Result<Outcome> {
    if shell::find_program("cargo-deny").is_none() {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed; `cargo xtask deny` installs it",
        ));
    }
    shell::run(
        shell::cargo()
            .args(["deny", "check"])
            .args(deny::OFFLINE_CHECKS),
    )?;
    Ok(Outcome::Passed)
}

/// Runs a test runner that must execute at least one test.
fn count(command: &mut Command) -> Result<Outcome> {
    let (success, printed) = shell::run_recorded(command)?;
    let counts = Counts::read(&printed);
    let what = shell::describe(command);
    ensure!(
        !success || counts.executed() > 0,
        "`{what}` executed no test"
    );
    conclude(command, success, counts)
}

/// A runner that fails without naming a failed test, as on a compile error, fails the step.
fn conclude(command: &Command, success: bool, counts: Counts) -> Result<Outcome> {
    ensure!(
        success || counts.failed > 0,
        "`{}` failed",
        shell::describe(command)
    );
    ensure!(
        success != (counts.failed > 0),
        "`{}` contradicts its count",
        shell::describe(command)
    );
    Ok(Outcome::Ran(counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Command {
        let mut command = shell::command("sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn a_runner_is_judged_by_its_count_and_its_exit() {
        let green = count(&mut script("echo '# pass 3'")).unwrap();
        assert!(matches!(
            green,
            Outcome::Ran(Counts {
                passed: 3,
                failed: 0
            })
        ));
        let red = count(&mut script("echo '# pass 3'; echo '# fail 1'; exit 1")).unwrap();
        assert!(matches!(
            red,
            Outcome::Ran(Counts {
                passed: 3,
                failed: 1
            })
        ));
        for odd in [
            "true",
            "echo '# pass 0'",
            "echo '# pass 3'; exit 1",
            "echo '# fail 1'",
        ] {
            assert!(count(&mut script(odd)).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_step_that_fails_without_a_count_counts_as_one_failure() {
        let (shown, counts) = judge(&Err(anyhow::anyhow!("no compiler")));
        assert_eq!((shown.as_str(), counts.failed), ("FAILED", 1));
        let ran = Outcome::Ran(Counts {
            passed: 5,
            failed: 2,
        });
        assert_eq!(
            judge(&Ok(ran)).1,
            Counts {
                passed: 5,
                failed: 2
            }
        );
    }

    #[test]
    fn test_files_are_found_outside_of_packages() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("node_modules/x");
        fs::create_dir_all(&packages).unwrap();
        fs::write(packages.join("a.test.js"), "").unwrap();
        assert!(!holds_test(folder.path()));
        fs::write(folder.path().join("page.test.mjs"), "").unwrap();
        assert!(holds_test(folder.path()));
    }
}
