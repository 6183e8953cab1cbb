//! What hosts have of their own besides origins and streams: the pages that may read answers, and who is sent there.

use origin_proxy::{Config, CorsConfig, HostConfig, SteeringConfig};
use serde_json::{Value, json};

use crate::support::{Origin, Proxy, header};

const SPORTS: (&str, &str) = ("host", "sports.example");
const NEWS: (&str, &str) = ("host", "news.example");
const OTHER: (&str, &str) = ("host", "other.example");

/// A proxy for three hosts: sports has pages and a share of its own, news has what all others have.
async fn three_hosts() -> Proxy {
    let origin = Origin::default();
    origin.put("/live/a", &[("cache-control", "max-age=60")], "a");
    let url = format!("http://{}", origin.clone().serve().await);
    let change = |config: &mut Config| {
        config.admin.token = Some("secret".into());
        config.cors.origins = vec!["https://page.example".into()];
        config.steering.share_percent = 0.0;
        let host = |name: &str, cors, steering| HostConfig {
            names: vec![name.into()],
            origin: url.clone(),
            origin_backups: Vec::new(),
            streams: Vec::new(),
            cors,
            steering,
        };
        let cors = CorsConfig {
            origins: vec!["https://sports.example".into()],
            credentials: true,
        };
        let steering = SteeringConfig {
            share_percent: 100.0,
            pathway: "EDGE".into(),
            url: Some("https://sports.example/.shoal/steering".into()),
            ..SteeringConfig::default()
        };
        config.hosts = vec![
            host("sports.example", Some(cors), Some(steering)),
            host("news.example", None, None),
        ];
    };
    Proxy::start_with(origin, change).await
}

#[tokio::test]
async fn each_host_has_its_own_pages() {
    let proxy = three_hosts().await;
    let (leave, credentials) = (
        "access-control-allow-origin",
        "access-control-allow-credentials",
    );
    for (host, page, expected) in [
        (SPORTS, "https://sports.example", true),
        (SPORTS, "https://page.example", false),
        (NEWS, "https://sports.example", false),
        (NEWS, "https://page.example", true),
        (OTHER, "https://page.example", true),
    ] {
        // From the origin, from the cache, and of the proxy's own.
        for path in ["/live/a", "/live/a", "/live/none", "/healthz"] {
            let answer = proxy.get_with(path, &[host, ("origin", page)]).await;
            let allowed = if expected { page } else { "" };
            assert_eq!(header(&answer, leave), allowed, "{host:?} {path}");
            let with = if expected && host == SPORTS {
                "true"
            } else {
                ""
            };
            assert_eq!(header(&answer, credentials), with, "{host:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_host_without_a_list_lets_all_pages_read_while_another_has_one() {
    let origin = Origin::default();
    origin.put("/live/a", &[], "a");
    let url = format!("http://{}", origin.clone().serve().await);
    let proxy = Proxy::start_with(origin, |config| {
        config.hosts = vec![HostConfig {
            names: vec!["sports.example".into()],
            origin: url,
            origin_backups: Vec::new(),
            streams: Vec::new(),
            cors: Some(CorsConfig {
                origins: Vec::new(),
                credentials: false,
            }),
            steering: None,
        }];
    })
    .await;
    let page = ("origin", "https://page.example");
    for (host, allowed) in [(OTHER, "*"), (SPORTS, ""), (OTHER, "*")] {
        let answer = proxy.get_with("/live/a", &[host, page]).await;
        let leave = header(&answer, "access-control-allow-origin");
        assert_eq!(leave, allowed, "{host:?}");
    }
}

async fn steered(proxy: &Proxy, host: (&str, &str)) -> Value {
    let answer = proxy.get_with("/.shoal/steering", &[host]).await;
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn set_share(proxy: &Proxy, host: &str, share_percent: f64) {
    let answer = reqwest::Client::new()
        .post(proxy.url("/.shoal/admin/steering"))
        .header("host", host)
        .bearer_auth("secret")
        .body(json!({ "share_percent": share_percent }).to_string());
    assert_eq!(answer.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn each_host_has_its_own_share_of_viewers() {
    let proxy = three_hosts().await;
    let first = async |host| steered(&proxy, host).await["PATHWAY-PRIORITY"][0].clone();
    assert_eq!(first(SPORTS).await, "EDGE");
    let again = steered(&proxy, SPORTS).await["RELOAD-URI"].clone();
    let again = again.as_str().unwrap();
    let place = "https://sports.example/.shoal/steering?viewer=";
    assert!(again.starts_with(place), "{again}");
    assert_eq!(
        (first(NEWS).await, first(OTHER).await),
        ("CDN".into(), "CDN".into())
    );
    set_share(&proxy, "sports.example", 0.0).await;
    set_share(&proxy, "news.example", 100.0).await;
    assert_eq!(first(SPORTS).await, "CDN");
    let both = (first(NEWS).await, first(OTHER).await);
    assert_eq!(
        both,
        ("SHOAL".into(), "SHOAL".into()),
        "they have one share"
    );
}
