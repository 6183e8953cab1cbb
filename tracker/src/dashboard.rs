//! The dashboard: a page of files that are part of this binary and load nothing from elsewhere.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use crate::server::{Answer, text};

/// Where the page is.
pub(crate) const PATH: &str = "/dashboard";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JS: &str = "text/javascript; charset=utf-8";

/// The page's own files, and its own API; nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! files {
    ($($name:literal $kind:ident)*) => {
        [$(($name, $kind, include_str!(concat!("../dashboard/", $name)))),*]
    };
}

/// Name, media type, content.
const FILES: [(&str, &str, &str); 12] = files! {
    "index.html" HTML
    "style.css" CSS
    "icon.svg" SVG
    "api.js" JS
    "app.js" JS
    "chart.js" JS
    "format.js" JS
    "layout.js" JS
    "mesh.js" JS
    "overview.js" JS
    "parts.js" JS
    "stream.js" JS
};

/// Answers what is under [`PATH`].
pub(crate) fn answer(method: &Method, path: &str) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let name = match path.strip_prefix(PATH).unwrap_or_default() {
        "" | "/" => "index.html",
        name => name.trim_start_matches('/'),
    };
    let Some((_, kind, content)) = FILES.iter().find(|(file, ..)| *file == name) else {
        return text(StatusCode::NOT_FOUND, "not found\n");
    };
    let mut answer = Response::new(Full::new(Bytes::from_static(content.as_bytes())));
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, *kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_refers_to_nothing_but_its_own_files() {
        for (name, _, content) in FILES {
            for quoted in content.split(['"', '\'', '(', ')']) {
                let Some(file) = quoted.strip_prefix("/dashboard/") else {
                    let own = quoted.starts_with("http://www.w3.org/");
                    assert!(own || !quoted.contains("://"), "{name}: {quoted}");
                    continue;
                };
                let known = FILES.iter().any(|(known, ..)| *known == file);
                assert!(known, "{name}: {file}");
            }
        }
    }
}
