//! The handshake of WebSockets (RFC 6455 section 4.2), and what else stands in its head.

use http::{HeaderMap, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use swarm_core::limits;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    admission::origin_allowed,
    config::Config,
    server::{Answer, text},
};

/// The key of a handshake that may go on, or why it may not.
pub(crate) fn check_handshake(
    request: &Request<Incoming>,
    config: &Config,
    subprotocol: Option<&str>,
) -> Result<header::HeaderValue, (StatusCode, &'static str)> {
    let headers = request.headers();
    let needs = |why| Err((StatusCode::UPGRADE_REQUIRED, why));
    if request.method() != Method::GET || !has_token(headers, header::UPGRADE, "websocket") {
        return needs("viewers connect by WebSocket\n");
    }
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return needs("WebSocket version 13 is needed\n");
    }
    if !subprotocol.is_none_or(|name| offers(headers, name)) {
        let why = "the subprotocol shoal.v1 is needed\n";
        return Err((StatusCode::BAD_REQUEST, why));
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n"));
    };
    if !origin_allowed(text_of(headers, &header::ORIGIN), config) {
        let why = "this page's origin may not connect\n";
        return Err((StatusCode::FORBIDDEN, why));
    }
    Ok(key.clone())
}

/// Whether the client offers to speak this subprotocol.
pub(crate) fn offers(headers: &HeaderMap, subprotocol: &str) -> bool {
    has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, subprotocol)
}

pub(crate) fn switch_protocols(
    key: &header::HeaderValue,
    subprotocol: Option<&'static str>,
) -> Answer {
    let mut answer = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = answer.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    if let Some(name) = subprotocol {
        let name = header::HeaderValue::from_static(name);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

/// A header as text; one that is none counts as an empty text, not as missing.
pub(crate) fn text_of<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    Some(headers.get(name)?.to_str().unwrap_or_default())
}

/// The `token` in the query, for viewers that cannot put it elsewhere; none where that is no text once its percent
/// escapes (RFC 3986 section 2.1) are gone. A `+` is itself: tokens have no spaces, and base64 that was put in as it
/// is has it.
pub(crate) fn token_of(uri: &http::Uri) -> Option<String> {
    let token = uri
        .query()?
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))?;
    let token = percent_decode_str(token).decode_utf8().ok()?;
    (token.len() <= limits::TOKEN_LEN_MAX).then(|| token.into_owned())
}

/// Whether a comma-separated header has an element, whatever its case.
fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|element| element.trim().eq_ignore_ascii_case(token))
}

/// The host that the viewer asked for, without port.
pub(crate) fn host_of(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let authority: http::uri::Authority = host.parse().ok()?;
    (!authority.host().is_empty()).then(|| authority.host().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_query_is_read_as_it_was_before_it_was_put_there() {
        for (target, token) in [
            ("/?token=abc", Some("abc")),
            ("/?x=1&token=a%2Bb%2F%3d%3D&y=2", Some("a+b/==")),
            ("/?token=a+b", Some("a+b")),
            ("/?token=100%&x", Some("100%")),
            ("/?token=%4", Some("%4")),
            ("/?token=%+1%zz", Some("%+1%zz")),
            ("/?token=%ff", None),
            ("/?token=", Some("")),
            ("/?tokens=a", None),
            ("/", None),
        ] {
            let uri = target.parse().unwrap();
            assert_eq!(token_of(&uri).as_deref(), token, "{target}");
        }
        let long = format!("/?token={}", "%41".repeat(2048)).parse().unwrap();
        assert_eq!(token_of(&long).map(|token| token.len()), Some(2048));
        let longer = format!("/?token={}", "a".repeat(2049)).parse().unwrap();
        assert_eq!(token_of(&longer), None);
    }
}
