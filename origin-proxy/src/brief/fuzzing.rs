//! Requests that are read as hyper reads them, and answers that say what they are.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http_body_util::Empty;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::fuzzing::lines_of;

/// Either, by the first byte.
pub fn brief(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, bytes)) => answer(bytes),
        _ => request(bytes),
    }
}

/// What is read here is what hyper would have read, and all of it.
pub(super) fn request(bytes: &[u8]) {
    if let Some(head) = read(&Bytes::copy_from_slice(bytes)) {
        let others = as_hyper_reads(bytes);
        assert_eq!(others.len(), 1);
        assert_eq!(head.method, others[0].method);
        assert_eq!(head.uri, others[0].uri);
        assert_eq!(head.version, others[0].version);
        assert_eq!(head.headers, others[0].headers);
    }
}

/// The heads of the requests that hyper finds in `bytes`, after which the viewer says nothing more.
fn as_hyper_reads(bytes: &[u8]) -> Vec<request::Parts> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        heads.lock().expect("no panic").push(request.into_parts().0);
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let (mut viewer, server) = tokio::io::duplex(1 << 16);
        viewer.write_all(bytes).await.expect("there is room");
        viewer.shutdown().await.expect("it is open");
        // What it refuses ends with an error.
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(server), service)
            .await;
    });
    std::mem::take(&mut *heads.lock().expect("no panic"))
}

/// Two bytes for the status, one for the headers that every answer has, then a header a line, and behind an
/// empty line the body. What is written is an answer with just these, and ends where it says.
fn answer(bytes: &[u8]) {
    let Some(([high, low, told], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let Ok(status) = StatusCode::from_u16(u16::from_be_bytes([*high, *low])) else {
        return;
    };
    let (mut headers, rest) = lines_of(bytes);
    if told & 1 == 1 {
        headers.insert(header::DATE, HeaderValue::from_static("x"));
    }
    if told & 2 == 2 {
        headers.insert(header::CONTENT_LENGTH, rest.len().into());
    }
    let mut response = Response::new(Body::full(Bytes::copy_from_slice(rest)));
    *response.status_mut() = status;
    *response.headers_mut() = headers.clone();
    let Some((head, body)) = write(&mut response) else {
        assert_eq!(response.body_mut().take(), rest, "what is left is whole");
        return;
    };
    assert_eq!(body, rest);
    let mut lines = [EMPTY_HEADER; 4096];
    let mut read = httparse::Response::new(&mut lines);
    assert_eq!(read.parse(&head), Ok(Status::Complete(head.len())));
    assert_eq!(read.code, Some(status.as_u16()));
    let written = headers
        .iter()
        .map(|(name, value)| (name.as_str(), trimmed(value)));
    assert!(
        read.headers
            .iter()
            .map(|line| (line.name, line.value))
            .eq(written)
    );
    let told = headers.get(header::CONTENT_LENGTH);
    let told = told.map(|told| told.to_str().unwrap().parse::<usize>().unwrap());
    assert_eq!(told.unwrap_or(0), body.len());
}

/// A value without the space around it, which is none of it (RFC 9110 section 5.5).
fn trimmed(value: &HeaderValue) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let bytes = value.as_bytes();
    let first = bytes.iter().position(|byte| !is_space(byte));
    let last = bytes.iter().rposition(|byte| !is_space(byte));
    first
        .zip(last)
        .map_or(b"", |(first, last)| &bytes[first..=last])
}
