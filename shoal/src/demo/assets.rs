//! The files of the page. Release builds carry them; debug builds read them from the source tree,
//! so that changes show without a build.

use std::borrow::Cow;

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "demo/page"]
struct Page;

/// The browser viewer, as `cargo xtask wasm` builds it.
#[derive(RustEmbed)]
#[folder = "../player-shim/dist"]
#[allow_missing = true]
struct Shim;

/// The player, from npm; empty if npm had not installed it when this was built.
const HLS_JS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hls.min.js"));

/// What the page cannot do without.
const SHIM_NEEDED: [&str; 3] = ["shoal.iife.js", "shoal_bg.wasm", "hls.min.js"];

/// A file by its path in the URL, and its media type.
pub(super) fn find(path: &str) -> Option<(Cow<'static, [u8]>, &'static str)> {
    let name = match path.trim_start_matches('/') {
        "" => "index.html",
        name => name,
    };
    let data = match name.strip_prefix("shim/") {
        Some(name) => shim(name)?,
        None => Page::get(name)?.data,
    };
    Some((data, media_type(name)))
}

fn shim(name: &str) -> Option<Cow<'static, [u8]>> {
    match Shim::get(name) {
        Some(file) => Some(file.data),
        None if name == "hls.min.js" && !HLS_JS.is_empty() => Some(Cow::Borrowed(HLS_JS)),
        None => None,
    }
}

/// What of the browser viewer is missing, and how to get it; `None` if all is there.
pub fn missing_assets() -> Option<String> {
    let missing: Vec<_> = SHIM_NEEDED
        .into_iter()
        .filter(|name| shim(name).is_none())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the browser viewer is not built ({} missing): run `cargo xtask wasm`, then start again",
            missing.join(", ")
        )
    })
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_complete() {
        let (index, kind) = find("/").unwrap();
        assert_eq!(kind, "text/html; charset=utf-8");
        let index = String::from_utf8(index.into_owned()).unwrap();
        let quoted = index
            .split('"')
            .filter(|text| text.starts_with('/') && text.len() > 1);
        let own: Vec<_> = quoted.filter(|path| !path.starts_with("/shim/")).collect();
        assert!(own.len() >= 3);
        for path in own {
            assert!(find(path).is_some(), "{path} is missing");
        }
    }

    #[test]
    fn nothing_outside_the_page_is_served() {
        for path in [
            "/../mod.rs",
            "/../../Cargo.toml",
            "/none",
            "/shim/../../Cargo.toml",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
