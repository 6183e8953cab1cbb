//! The demo's web server: the page, what it polls, and its switches.
//!
//! | path | |
//! |---|---|
//! | `/`, `/shim/...` | the page and the browser viewer |
//! | `GET /demo/config` | where stream and tracker are |
//! | `GET /demo/state` | everybody's figures |
//! | `POST /demo/tab` | a tab's own figures |
//! | `GET /api/...` | the tracker's API, passed on |
//! | `POST /control/...` | switches; from this machine only, and only from the page |

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;

use super::assets;
use super::audience::{Audience, TabReport};
use super::forward::{Forward, Silence};
use super::stage::Stage;
use crate::Failure;

/// The body of a tab's report, in bytes.
const TAB_LEN_MAX: usize = 64 * 1024;
/// Pages of other sites cannot send it without being asked first, which is refused.
const CONTROL_HEADER: &str = "x-shoal-demo";

/// What requests need.
#[derive(Clone)]
pub(super) struct Site {
    stage: Arc<Stage>,
    audience: Arc<Audience>,
    forward: Forward,
}

impl Site {
    pub(super) fn new(stage: Arc<Stage>, audience: Arc<Audience>) -> Self {
        let forward = Forward::new(stage.tracker_addr());
        Self {
            stage,
            audience,
            forward,
        }
    }
}

/// Serves until `shutdown`.
pub(super) async fn serve(
    listener: TcpListener,
    site: Site,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let router = Router::new()
        .route("/demo/config", get(config))
        .route("/demo/state", get(state))
        .route(
            "/demo/tab",
            post(tab).layer(DefaultBodyLimit::max(TAB_LEN_MAX)),
        )
        .route("/control/{what}/{action}", post(control))
        .route("/api/{*path}", get(api))
        .fallback(get(file))
        .with_state(site);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service)
        .with_graceful_shutdown(shutdown)
        .await
    {
        tracing::error!(%error, "the page's server has stopped");
    }
}

async fn file(request: Request) -> Response {
    let Some((data, media_type)) = assets::find(request.uri().path()) else {
        return (StatusCode::NOT_FOUND, "no such page").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, data.into_owned()).into_response()
}

/// Ports only: the page is seen under the name by which its reader reached this machine.
async fn config(State(site): State<Site>, ConnectInfo(from): ConnectInfo<SocketAddr>) -> Response {
    let answer = json!({
        "stream_port": site.stage.proxy_port(),
        "stream_path": live_source::HLS_PATH,
        "key": site.stage.public_key(),
        "tracker_port": site.stage.tracker_addr().port(),
        "may_control": from.ip().is_loopback(),
        "missing": assets::missing_assets(),
    });
    fresh(Json(answer))
}

async fn state(State(site): State<Site>) -> Response {
    let audience = serde_json::to_value(site.audience.state().await).unwrap_or_default();
    let tracker_up = site.stage.tracker_is_up().await;
    fresh(Json(
        json!({ "tracker_up": tracker_up, "audience": audience }),
    ))
}

/// Tabs that close send a beacon, which has no JSON content type: the body is read as it is.
async fn tab(State(site): State<Site>, body: String) -> Response {
    let report: TabReport = match serde_json::from_str(&body) {
        Ok(report) => report,
        Err(error) => {
            return (
                StatusCode::BAD_REQUEST,
                format!("tab: malformed report: {error}"),
            )
                .into_response();
        }
    };
    answer(site.audience.handle_tab(report))
}

async fn control(
    State(site): State<Site>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path((what, action)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if !from.ip().is_loopback() || !headers.contains_key(CONTROL_HEADER) {
        let why = "the demo is controlled from its own page on its own machine only";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    match (what.as_str(), action.as_str()) {
        ("native", "add") => answer(site.audience.add_native().await),
        ("native", "remove") => answer(site.audience.remove_native().await),
        ("tracker", "stop") => {
            site.stage.kill_tracker().await;
            answer(Ok(()))
        }
        ("tracker", "start") => answer(site.stage.restart_tracker().await),
        _ => (StatusCode::NOT_FOUND, "no such switch").into_response(),
    }
}

async fn api(State(site): State<Site>, request: Request) -> Response {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    match site.forward.get(target).await {
        Ok(body) => fresh(([(header::CONTENT_TYPE, "application/json")], body)),
        Err(Silence::Unreachable) => {
            (StatusCode::BAD_GATEWAY, "the tracker does not answer").into_response()
        }
        Err(Silence::Refused(status)) => status.into_response(),
    }
}

fn fresh(response: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], response).into_response()
}

fn answer(result: Result<(), Failure>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(failure) => (StatusCode::CONFLICT, failure.to_string()).into_response(),
    }
}
