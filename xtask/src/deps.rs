//! The direction of dependencies: who in the workspace may depend on whom, and how pure the core is.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell;

/// The products meet on the wire only; each may use what is [`SHARED`] and nothing else of ours.
const PRODUCTS: [&str; 5] = [
    "live-source",
    "origin-proxy",
    "peer-agent",
    "player-shim",
    "tracker",
];
/// What is no product, and depends on nothing of ours itself.
const SHARED: [&str; 2] = ["callers", "swarm-core"];
/// What would tie the core to one platform, clock or source of randomness.
const IMPURE: [&str; 11] = [
    "async-std",
    "getrandom",
    "js-sys",
    "mio",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "tokio-util",
    "wasm-bindgen",
    "web-sys",
];

/// What is wrong, one line each.
pub(crate) fn check() -> Result<Vec<String>> {
    let metadata = shell::query(shell::cargo().args([
        "metadata",
        "--locked",
        "--no-deps",
        "--format-version",
        "1",
    ]))
    .context("`cargo metadata --locked` fails; is Cargo.lock committed and current?")?;
    let packages = read_workspace(&metadata)?;
    let mut problems = check_directions(&packages);
    for (package, options) in pure_packages() {
        if packages.iter().any(|p| p.name == package) {
            problems.extend(check_purity(package, options)?);
        }
    }
    Ok(problems)
}

/// The core with no feature is pure on every target. Its playlist readers bring a date library
/// whose own wasm32 build knows JavaScript's clock, so all features are checked on this host.
fn pure_packages() -> [(&'static str, &'static [&'static str]); 3] {
    [
        ("swarm-core", &["--no-default-features", "--target", "all"]),
        ("swarm-core", &["--all-features"]),
        ("swarm-sim", &["--all-features"]),
    ]
}

/// A package of the workspace and the other ones that it names in its manifest.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    /// Seen from the root, such as `tests/integration`.
    is_test: bool,
    ours: BTreeSet<String>,
}

fn read_workspace(metadata: &str) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is JSON")?;
    let root = metadata["workspace_root"]
        .as_str()
        .context("cargo metadata names its root")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists packages")?;
    let mut read = Vec::new();
    for package in packages {
        let path = package["manifest_path"].as_str().unwrap_or_default();
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        read.push(Package {
            name: package["name"]
                .as_str()
                .context("a package has a name")?
                .to_owned(),
            is_test: path
                .trim_start_matches(root)
                .trim_start_matches('/')
                .starts_with("tests/"),
            ours: dependencies
                .filter(|dependency| dependency["path"].is_string())
                .filter(|dependency| !is_origin_of_tests(dependency))
                .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
                .collect(),
        });
    }
    ensure!(!read.is_empty(), "cargo metadata lists no package");
    Ok(read)
}

/// Tests of a product may take their stream from the live source.
fn is_origin_of_tests(dependency: &Value) -> bool {
    dependency["kind"] == "dev" && dependency["name"] == "live-source"
}

fn check_directions(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        for wanted in &package.ours {
            let wanted_is_test = packages.iter().any(|p| p.name == *wanted && p.is_test);
            if let Some(rule) = broken_rule(package, wanted, wanted_is_test) {
                problems.push(format!("{} depends on {wanted}: {rule}", package.name));
            }
        }
    }
    problems
}

fn broken_rule(package: &Package, wanted: &str, wanted_is_test: bool) -> Option<&'static str> {
    let name = package.name.as_str();
    if wanted == "xtask" || wanted_is_test {
        Some("nothing depends on tests or tasks")
    } else if SHARED.contains(&name) || name == "xtask" {
        Some("it depends on no other package of the workspace")
    } else if name == "swarm-sim" && wanted != "swarm-core" {
        Some("the simulator depends on the core alone")
    } else if PRODUCTS.contains(&name) && !SHARED.contains(&wanted) {
        Some("products share nothing but the core")
    } else if wanted == "load-test" && name != "shoal" {
        Some("only the command line reaches the load test")
    } else if wanted == "shoal" && !package.is_test {
        Some("nothing depends on the command line")
    } else {
        None
    }
}

fn check_purity(package: &str, options: &[&str]) -> Result<Vec<String>> {
    let tree = shell::query(
        shell::cargo()
            .args([
                "tree", "--locked", "-p", package, "--edges", "normal", "--prefix", "none",
            ])
            .args(options),
    )
    .with_context(|| format!("`cargo tree -p {package}` fails; is Cargo.lock current?"))?;
    let options = options.join(" ");
    let report = |name| format!("{package} ({options}) depends on {name}: it must stay pure");
    Ok(impure_names(&tree).into_iter().map(report).collect())
}

fn impure_names(tree: &str) -> BTreeSet<&str> {
    let names = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names.filter(|name| IMPURE.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, is_test: bool, ours: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            is_test,
            ours: ours.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn the_intended_directions_pass() {
        let packages = [
            package("swarm-core", false, &[]),
            package("callers", false, &[]),
            package("tracker", false, &["callers", "swarm-core"]),
            package("swarm-sim", false, &["swarm-core"]),
            package("load-test", false, &["peer-agent", "swarm-core"]),
            package(
                "shoal",
                false,
                &["tracker", "origin-proxy", "load-test", "swarm-sim"],
            ),
            package("integration", true, &["tracker", "peer-agent", "shoal"]),
        ];
        assert_eq!(check_directions(&packages), [""; 0]);
    }

    #[test]
    fn wrong_directions_are_named() {
        let packages = [
            package("integration", true, &[]),
            package("swarm-core", false, &["tracker"]),
            package("tracker", false, &["peer-agent"]),
            package("swarm-sim", false, &["tracker"]),
            package("shoal", false, &["integration"]),
            package("load-test", false, &["shoal"]),
            package("callers", false, &["swarm-core"]),
        ];
        let problems = check_directions(&packages);
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert_eq!(
            problems[1],
            "tracker depends on peer-agent: products share nothing but the core"
        );
    }

    #[test]
    fn workspace_edges_are_read_from_metadata() {
        let metadata = r#"{"workspace_root": "/r", "packages": [
            {"name": "it", "manifest_path": "/r/tests/it/Cargo.toml", "dependencies": [
                {"name": "tracker", "path": "/r/tracker"}, {"name": "anyhow", "source": "registry"}]}]}"#;
        assert_eq!(
            read_workspace(metadata).unwrap(),
            [package("it", true, &["tracker"])]
        );
        assert!(read_workspace("{}").is_err());
    }

    #[test]
    fn impure_crates_are_recognised_by_their_whole_name() {
        let tree = "swarm-core v0.1.0 (/r)\nsha2 v0.11.0\ntokio v1.0.0 (*)\nrandom-like v1.0.0\n";
        assert_eq!(
            impure_names(tree).into_iter().collect::<Vec<_>>(),
            ["tokio"]
        );
    }
}
