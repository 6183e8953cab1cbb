//! The CDN's URLs as paths of the endpoint, and back.
//!
//! The CDN's own host is the endpoint's root, so that relative references lead back to the
//! endpoint by themselves. Other hosts that a playlist names are below [`VIA`].

use std::borrow::Cow;

use url::Url;

use crate::gateway::{Gateway, origin_of};

/// Where objects on other hosts are: `/.shoal/via/<scheme>/<host>[:<port>]/<path>`.
pub(crate) const VIA: &str = "/.shoal/via/";

/// Where a playlist is and where the stream's CDN is.
pub(crate) struct Place<'a> {
    pub(crate) gateway: &'a Gateway,
    /// `scheme://host[:port]` of the CDN.
    pub(crate) cdn: &'a str,
    /// The playlist's own URL.
    pub(crate) url: Url,
}

impl Place<'_> {
    /// A reference to media or a playlist, so that players ask the endpoint for it. Works on the
    /// text alone: templates such as `$Number$` stay as they are.
    pub(crate) fn inward<'t>(&self, reference: &'t str) -> Cow<'t, str> {
        let own = self.url.origin().ascii_serialization();
        let absolute = if let Some(rest) = reference.strip_prefix("//") {
            format!("{}://{rest}", self.url.scheme())
        } else if reference.starts_with('/') && own != self.cdn {
            format!("{own}{reference}")
        } else {
            reference.to_owned()
        };
        match self.path_of(&absolute) {
            Some(path) => Cow::Owned(path),
            None => Cow::Borrowed(reference),
        }
    }

    /// A reference to what never goes through the endpoint: keys, licences, beacons.
    pub(crate) fn outward<'t>(&self, reference: &'t str) -> Cow<'t, str> {
        match self.url.join(reference) {
            Ok(url) if !is_absolute(reference) => Cow::Owned(url.into()),
            _ => Cow::Borrowed(reference),
        }
    }

    /// The endpoint's path for an absolute URL; `None` for what the endpoint has nothing to do with.
    pub(crate) fn path_of(&self, url: &str) -> Option<String> {
        let (scheme, rest) = url.split_once("://")?;
        if !matches!(scheme, "http" | "https") {
            return None;
        }
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let origin = origin_of(&format!("{scheme}://{host}/"))?;
        if origin == self.cdn {
            return Some(path);
        }
        self.gateway.allow(&origin);
        self.gateway
            .allows(&origin)
            .then(|| format!("{VIA}{scheme}/{host}{path}"))
    }
}

/// The CDN's URL behind a path of the endpoint (with its query); `None` for a host that no playlist
/// has named.
pub(crate) fn url_of(gateway: &Gateway, cdn: &str, path: &str) -> Option<String> {
    let Some(via) = path.strip_prefix(VIA) else {
        return Some(format!("{cdn}{path}"));
    };
    let (scheme, rest) = via.split_once('/')?;
    let url = format!("{scheme}://{rest}");
    let origin = origin_of(&url)?;
    gateway.allows(&origin).then_some(url)
}

fn is_absolute(reference: &str) -> bool {
    let scheme = reference
        .split([':', '/', '?', '#'])
        .next()
        .unwrap_or_default();
    reference[scheme.len()..].starts_with(':') && !scheme.is_empty()
}
