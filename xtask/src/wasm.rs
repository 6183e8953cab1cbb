//! `cargo xtask wasm`: the browser viewer, from Rust and TypeScript into player-shim/dist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use wasm_bindgen_cli_support::Bindgen;

use crate::shell;

const TARGET: &str = "wasm32-unknown-unknown";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LINKER: &str = "wasm-ld-19";
/// Prints the gzip and Brotli sizes of the concatenation of its arguments.
const SIZES_JS: &str = "const z=require('zlib'),f=require('fs');\
    const b=process.argv.slice(1).map(p=>f.readFileSync(p));\
    const s=g=>b.reduce((n,x)=>n+g(x).length,0);\
    console.log(s(x=>z.gzipSync(x,{level:9})),s(x=>z.brotliCompressSync(x)))";

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Build with Debian's compiler even where rustup has the wasm32 target.
    #[arg(long)]
    debian: bool,
}

/// Builds player-shim for the browser: compile, bind to JavaScript, bundle, check the sizes.
pub(crate) fn run(args: Args) -> Result<()> {
    let toolchain = if args.debian {
        Toolchain::find_debian()
    } else {
        Toolchain::find()
    }
    .context("environment: no compiler for wasm32 is found; run `cargo xtask setup`")?;
    let shim = shell::root().join("player-shim");
    let dist = shim.join("dist");
    let module = compile(toolchain)?;
    bind(&module, &dist, "player_shim")?;
    optimise(&dist.join("player_shim_bg.wasm"))?;
    if shim.join("js/build.mjs").is_file() {
        shell::run(shell::command("node").arg("player-shim/js/build.mjs"))?;
    }
    check_sizes(&shim.join("size-budget.json"), &dist)
}

/// What compiles Rust for the browser on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The toolchain in use has the target's standard library.
    Rustup,
    /// Debian's compiler builds the standard library from Debian's sources.
    Debian,
}

impl Toolchain {
    pub(crate) fn find() -> Option<Self> {
        let query = ["--print", "target-libdir", "--target", TARGET];
        let libraries = shell::query(shell::command("rustc").args(query))?;
        if Path::new(&libraries).is_dir() {
            Some(Self::Rustup)
        } else {
            Self::find_debian()
        }
    }

    pub(crate) fn find_debian() -> Option<Self> {
        let sysroot = shell::query(shell::command(DEBIAN_RUSTC).args(["--print", "sysroot"]))?;
        let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/std/Cargo.toml");
        let complete = sources.is_file() && shell::find_program(DEBIAN_LINKER).is_some();
        complete.then_some(Self::Debian)
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Rustup => "the toolchain's own",
            Self::Debian => "Debian's rustc-web",
        }
    }

    /// `cargo <subcommand> --target wasm32-unknown-unknown`, to be completed by the caller.
    pub(crate) fn cargo(self, subcommand: &str) -> Command {
        let mut command = shell::cargo();
        command.arg(subcommand);
        if self == Self::Debian {
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
            command.arg("-Zbuild-std=std,panic_abort");
        }
        command.args(["--target", TARGET]);
        command
    }
}

/// Compiles the library and returns where its module is.
fn compile(toolchain: Toolchain) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo("build");
    shell::run(cargo.args(["--profile", "wasm", "-p", "player-shim", "--lib"]))?;
    let metadata = ["metadata", "--no-deps", "--format-version", "1"];
    let metadata = shell::query(shell::cargo().args(metadata)).context("cargo metadata fails")?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is JSON")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("it names the target directory")?;
    Ok(Path::new(target).join(TARGET).join("wasm/player_shim.wasm"))
}

/// Writes `<name>.js`, `<name>.d.ts` and `<name>_bg.wasm`, an ES module whose `init` is given the
/// module's bytes, address or response.
fn bind(module: &Path, dist: &Path, name: &str) -> Result<()> {
    ensure!(
        module.is_file(),
        "player-shim yields no module: its crate-type must hold `cdylib`"
    );
    let mut output = Bindgen::new()
        .input_path(module)
        .out_name(name)
        .web(true)?
        .typescript(true)
        .omit_default_module_path(true)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate_output()
        .context("wasm-bindgen cannot read the module")?;
    let imports = output.wasm().imports.iter();
    let foreign: BTreeSet<String> = imports
        .filter(|import| !is_own_import(name, &import.module, &import.name))
        .map(|import| format!("{}.{}", import.module, import.name))
        .collect();
    if !foreign.is_empty() {
        bail!(
            "player-shim imports more than wasm-bindgen provides, so it would not start in a page: {}",
            foreign.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    fs::create_dir_all(dist)?;
    output.emit(dist)
}

fn is_own_import(name: &str, module: &str, import: &str) -> bool {
    module == format!("./{name}_bg.js")
        && ["__wbg_", "__wbindgen_"]
            .iter()
            .any(|prefix| import.starts_with(prefix))
}

/// Shrinks the module a little more where binaryen is installed; it is fine without.
fn optimise(module: &Path) -> Result<()> {
    let by_npm = shell::root().join("player-shim/js/node_modules/.bin/wasm-opt");
    let found = Some(by_npm).filter(|path| path.is_file());
    let Some(wasm_opt) = found.or_else(|| shell::find_program("wasm-opt")) else {
        return Ok(());
    };
    let smaller = module.with_extension("opt");
    let mut command = shell::command(wasm_opt);
    command
        .args(["-Os", "--all-features", "-o"])
        .arg(&smaller)
        .arg(module);
    match shell::run(&mut command) {
        Ok(()) => fs::rename(&smaller, module)?,
        Err(problem) => println!("wasm-opt is too old for this module, left as it is ({problem})"),
    }
    Ok(())
}

/// One line of the budget: files that one page loads together, and their size in transit.
#[derive(Debug, PartialEq, Eq)]
struct Budget {
    name: String,
    files: Vec<String>,
    gzip_bytes_max: Option<u64>,
    brotli_bytes_max: Option<u64>,
}

fn check_sizes(budget_file: &Path, dist: &Path) -> Result<()> {
    if !budget_file.is_file() {
        return Ok(());
    }
    let budgets = read_budgets(&fs::read_to_string(budget_file)?)
        .with_context(|| format!("{} is wrong", budget_file.display()))?;
    let mut over = Vec::new();
    for budget in budgets {
        let files = budget.files.iter().map(|file| dist.join(file));
        let sizes = shell::query(
            shell::command("node")
                .args(["-e", SIZES_JS, "--"])
                .args(files),
        )
        .with_context(|| format!("{}: not all of {:?} were built", budget.name, budget.files))?;
        let (gzip, brotli) = sizes.split_once(' ').context("two sizes are printed")?;
        let (gzip, brotli) = (gzip.parse::<u64>()?, brotli.parse::<u64>()?);
        println!(
            "size: {}: {gzip} bytes gzip, {brotli} bytes Brotli",
            budget.name
        );
        for (what, size, max) in [
            ("gzip", gzip, budget.gzip_bytes_max),
            ("Brotli", brotli, budget.brotli_bytes_max),
        ] {
            if let Some(max) = max.filter(|max| size > *max) {
                over.push(format!(
                    "{}: {size} bytes {what}, at most {max}",
                    budget.name
                ));
            }
        }
    }
    ensure!(over.is_empty(), "over the size budget: {}", over.join("; "));
    Ok(())
}

/// `[{"name": "...", "files": ["a.js"], "gzip_bytes_max": 1, "brotli_bytes_max": 1}]`, either
/// limit optional; files are seen from player-shim/dist.
fn read_budgets(json: &str) -> Result<Vec<Budget>> {
    let json: Value = serde_json::from_str(json)?;
    let entries = json.as_array().context("it must be a list")?;
    let mut budgets = Vec::new();
    for entry in entries {
        let name = entry["name"]
            .as_str()
            .context("every entry needs a `name`")?
            .to_owned();
        let files = entry["files"].as_array().into_iter().flatten();
        let files: Vec<String> = files
            .filter_map(|file| file.as_str().map(str::to_owned))
            .collect();
        let gzip_bytes_max = entry["gzip_bytes_max"].as_u64();
        let brotli_bytes_max = entry["brotli_bytes_max"].as_u64();
        ensure!(!files.is_empty(), "`{name}` lists no `files`");
        ensure!(
            gzip_bytes_max.or(brotli_bytes_max).is_some(),
            "`{name}` sets no limit"
        );
        budgets.push(Budget {
            name,
            files,
            gzip_bytes_max,
            brotli_bytes_max,
        });
    }
    Ok(budgets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_glue_may_be_imported() {
        assert!(is_own_import("shim", "./shim_bg.js", "__wbg_now_0123"));
        assert!(is_own_import("shim", "./shim_bg.js", "__wbindgen_throw"));
        assert!(!is_own_import("shim", "env", "now"));
        assert!(!is_own_import("shim", "env", "__wbg_now_0123"));
        assert!(!is_own_import("shim", "./shim_bg.js", "now"));
    }

    #[test]
    fn budgets_are_read_and_mistakes_are_named() {
        let json = r#"[{"name": "page", "files": ["a.js", "b.wasm"], "gzip_bytes_max": 9}]"#;
        let expected = Budget {
            name: "page".to_owned(),
            files: vec!["a.js".to_owned(), "b.wasm".to_owned()],
            gzip_bytes_max: Some(9),
            brotli_bytes_max: None,
        };
        assert_eq!(read_budgets(json).unwrap(), [expected]);
        for (json, mistake) in [
            (r#"{}"#, "it must be a list"),
            (r#"[{"files": ["a"]}]"#, "every entry needs a `name`"),
            (
                r#"[{"name": "a", "gzip_bytes_max": 1}]"#,
                "`a` lists no `files`",
            ),
            (r#"[{"name": "a", "files": ["b"]}]"#, "`a` sets no limit"),
        ] {
            assert_eq!(read_budgets(json).unwrap_err().to_string(), mistake);
        }
    }

    #[test]
    fn files_over_budget_fail() {
        let folder = tempfile::tempdir().unwrap();
        let budget = folder.path().join("budget.json");
        fs::write(folder.path().join("a.js"), "x".repeat(10_000)).unwrap();
        let write = |max: u64| {
            let json = format!(r#"[{{"name": "p", "files": ["a.js"], "gzip_bytes_max": {max}}}]"#);
            fs::write(&budget, json).unwrap();
        };
        write(10_000);
        check_sizes(&budget, folder.path()).unwrap();
        write(10);
        let problem = check_sizes(&budget, folder.path()).unwrap_err().to_string();
        assert!(problem.contains("bytes gzip, at most 10"), "{problem}");
        fs::remove_file(folder.path().join("a.js")).unwrap();
        assert!(check_sizes(&budget, folder.path()).is_err());
    }
}
