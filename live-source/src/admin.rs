//! The HTTP face of the fault switches and counters, for test benches that run the source as a process.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use crate::respond::{Body, plain};
use crate::{FaultPlan, Faults, Stats};

const BODY_BYTES_MAX: usize = 64 << 10;

/// Answers `path`, which is below `/admin/`.
pub(crate) async fn handle(
    path: &str,
    request: Request<Incoming>,
    faults: &Faults,
    stats: &Stats,
) -> Response<Body> {
    match (request.method(), path) {
        (&Method::GET, "faults") => json(&faults.plan()),
        (&Method::PUT, "faults") => {
            let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX)
                .collect()
                .await
            else {
                return plain(
                    StatusCode::BAD_REQUEST,
                    "body cut off or longer than 64 KiB\n",
                );
            };
            let plan = serde_json::from_slice::<FaultPlan>(&body.to_bytes());
            match plan
                .map_err(|e| e.to_string())
                .and_then(|p| faults.set(p).map_err(|e| e.to_string()))
            {
                Ok(()) => json(&faults.plan()),
                Err(reason) => text(StatusCode::BAD_REQUEST, format!("request: {reason}\n")),
            }
        }
        (&Method::POST, "reset-sequence") => {
            faults.reset_sequence();
            plain(StatusCode::NO_CONTENT, "")
        }
        (&Method::GET, "stats") => {
            json(&serde_json::json!({ "total": stats.total(), "paths": stats.paths() }))
        }
        (_, "faults" | "reset-sequence" | "stats") => {
            plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        }
        _ => plain(StatusCode::NOT_FOUND, "no such thing under /admin/\n"),
    }
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(body) => {
            let mut response = text(StatusCode::OK, body);
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = plain(status, "");
    *response.body_mut() = Full::new(Bytes::from(body))
        .map_err(|never| match never {})
        .boxed();
    response
}
