//! Redirects of the origin, followed one by one: what is at their end is for all viewers only if each of
//! them is.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use url::Url;

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 5;

/// One request on the way to an answer.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The heads of the redirects that have led to an answer, the first one first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hops(Vec<HeaderMap>);

impl Hops {
    pub(crate) fn heads(&self) -> &[HeaderMap] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes one more. Returns whether it may be followed.
    pub(crate) fn on_redirect(&mut self, headers: &HeaderMap) -> bool {
        self.0.push(headers.clone());
        self.0.len() <= REDIRECTS_MAX
    }
}

impl Step {
    /// What to ask for next, if an answer to this one with `status` and `headers` leads elsewhere (RFC 9110
    /// section 15.4). Credentials stay with the host that they were sent to.
    pub(crate) fn next(&self, status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = headers.get(header::LOCATION).filter(|_| is_redirect)?;
        let mut url = self.url.join(location.to_str().ok()?).ok()?;
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        // Whoever wants a password there may ask for it.
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        let mut next = self.clone();
        if url.origin() != self.url.origin() {
            for name in CREDENTIALS {
                next.headers.remove(name);
            }
        }
        let becomes_get = match status.as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::HEAD,
            _ => false,
        };
        if becomes_get {
            next.method = Method::GET;
            next.body = Bytes::new();
            for name in OF_BODY {
                next.headers.remove(name);
            }
        }
        next.url = url;
        Some(next)
    }
}

const CREDENTIALS: [&str; 4] = ["authorization", "cookie", "cookie2", "proxy-authorization"];
const OF_BODY: [&str; 4] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-location",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn step(method: Method) -> Step {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "content-type", "accept"] {
            headers.insert(name, "x".parse().unwrap());
        }
        Step {
            method,
            url: Url::parse("http://o.example/a/b?token=x").unwrap(),
            headers,
            body: Bytes::from_static(b"body"),
        }
    }

    fn to(step: &Step, status: u16, location: &'static str) -> Option<Step> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, http::HeaderValue::from_static(location));
        step.next(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn credentials_stay_with_their_host() {
        let get = step(Method::GET);
        let here = to(&get, 302, "c").unwrap();
        assert_eq!(here.url.as_str(), "http://o.example/a/c");
        assert_eq!(here.headers, get.headers);
        for elsewhere in [
            "//x.example/c",
            "https://o.example/c",
            "http://o.example:9/c",
        ] {
            let next = to(&get, 307, elsewhere).unwrap();
            let mut names: Vec<_> = next.headers.keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["accept", "content-type"], "{elsewhere}");
        }
        let named = to(&get, 302, "http://me:secret@x.example/").unwrap();
        assert_eq!(named.url.as_str(), "http://x.example/");
    }

    #[test]
    fn methods_change_as_the_standard_says() {
        for (method, status, then) in [
            (Method::POST, 302, Method::GET),
            (Method::POST, 307, Method::POST),
            (Method::PUT, 303, Method::GET),
            (Method::PUT, 301, Method::PUT),
            (Method::HEAD, 303, Method::HEAD),
        ] {
            let next = to(&step(method.clone()), status, "/c").unwrap();
            assert_eq!(next.method, then, "{method} {status}");
            let has_body = then != Method::GET;
            assert_eq!(!next.body.is_empty(), has_body, "{method} {status}");
        }
        for (status, location) in [(200, "/c"), (304, "/c"), (302, "ftp://x.example/")] {
            assert!(to(&step(Method::GET), status, location).is_none());
        }
    }
}
