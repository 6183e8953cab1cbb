//! Content steering (RFC 8216bis section 7, ETSI TS 103 998): moves a share of the audience to this
//! proxy and back, in players that nobody has to touch.
//!
//! The broadcaster's playlist names two pathways, the CDN's and this proxy's, and this page as the
//! server to ask. The answer says which pathway comes first for this viewer.

use std::sync::atomic::{AtomicU32, Ordering};

use http::{Response, StatusCode, Uri};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{body::Body, config::SteeringConfig, respond};

/// Where players ask.
pub(crate) const PATH: &str = "/.shoal/steering";

/// Who is sent where.
pub(crate) struct Steering {
    config: SteeringConfig,
    /// In thousandths of a percent.
    share: AtomicU32,
}

const SHARE_ALL: u32 = 100_000;
/// Hexadecimal digits of a viewer's number.
const VIEWER_LEN: usize = 16;

impl Steering {
    pub(crate) fn new(config: &SteeringConfig) -> Self {
        let steering = Self {
            config: config.clone(),
            share: AtomicU32::new(0),
        };
        steering.set_share(config.share_percent);
        steering
    }

    /// The share of viewers who come here, in percent.
    pub(crate) fn share_percent(&self) -> f64 {
        f64::from(self.share.load(Ordering::Relaxed)) * 100.0 / f64::from(SHARE_ALL)
    }

    /// What is out of range is taken for the nearest that is not.
    pub(crate) fn set_share(&self, percent: f64) {
        let share = percent.clamp(0.0, 100.0) / 100.0 * f64::from(SHARE_ALL);
        self.share.store(share as u32, Ordering::Relaxed);
    }

    /// The steering manifest for the viewer who asks. Viewers carry a number in the URL that they ask
    /// next time: so they stay where they are while the share does, and a larger share only ever moves
    /// viewers here. While the proxy `is_leaving`, none are sent here.
    pub(crate) fn answer(&self, uri: &Uri, is_leaving: bool) -> Response<Body> {
        let arguments = uri.query().unwrap_or_default().split('&');
        let mut numbers = arguments.filter_map(|argument| argument.strip_prefix("viewer="));
        let told = numbers.next().filter(|number| is_number(number));
        let Some(viewer) = told.map(str::to_owned).or_else(new_number) else {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return respond::text(status, "text/plain", "proxy has no randomness\n".into());
        };
        let text = self.manifest(&viewer, is_leaving).to_string();
        respond::text(StatusCode::OK, "application/json", text)
    }

    fn manifest(&self, viewer: &str, is_leaving: bool) -> Value {
        let SteeringConfig {
            pathway,
            pathway_cdn,
            ttl_s,
            url,
            ..
        } = &self.config;
        let place = url.as_deref().unwrap_or(PATH);
        let order = if self.is_ours(viewer) && !is_leaving {
            [pathway, pathway_cdn]
        } else {
            [pathway_cdn, pathway]
        };
        json!({
            "VERSION": 1,
            "TTL": ttl_s,
            "RELOAD-URI": format!("{place}?viewer={viewer}"),
            "PATHWAY-PRIORITY": order,
        })
    }

    fn is_ours(&self, viewer: &str) -> bool {
        let digest = Sha256::digest(viewer);
        let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        number % SHARE_ALL < self.share.load(Ordering::Relaxed)
    }
}

fn is_number(text: &str) -> bool {
    text.len() == VIEWER_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn new_number() -> Option<String> {
    let mut bytes = [0; VIEWER_LEN / 2];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_ask_again_where_the_operator_says() {
        for (url, expected) in [
            (None, "/.shoal/steering?viewer=7"),
            (Some("https://e.example/s"), "https://e.example/s?viewer=7"),
        ] {
            let config = SteeringConfig {
                url: url.map(str::to_owned),
                ..SteeringConfig::default()
            };
            let manifest = Steering::new(&config).manifest("7", false);
            assert_eq!(manifest["RELOAD-URI"], expected);
        }
    }

    #[test]
    fn a_larger_share_only_moves_viewers_here() {
        let steering = Steering::new(&SteeringConfig::default());
        let viewers: Vec<String> = (0..2000_u64).map(|n| format!("{n:016x}")).collect();
        let mut before = 0;
        let mut was_ours = vec![false; viewers.len()];
        for percent in [0.0, 1.0, 10.0, 50.0, 100.0] {
            steering.set_share(percent);
            let ours: Vec<bool> = viewers.iter().map(|v| steering.is_ours(v)).collect();
            let count = ours.iter().filter(|is_ours| **is_ours).count();
            let expected = percent * viewers.len() as f64 / 100.0;
            assert!((count as f64 - expected).abs() < 60.0, "{percent}: {count}");
            assert!(count >= before);
            assert!(was_ours.iter().zip(&ours).all(|(was, is)| !was || *is));
            (before, was_ours) = (count, ours);
        }
        steering.set_share(f64::INFINITY);
        assert!((steering.share_percent() - 100.0).abs() < 1e-9);
    }
}
