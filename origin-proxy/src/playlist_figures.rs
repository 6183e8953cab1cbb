//! What operators want to know of playlists: for how long a live one has not changed (a frozen encoder answers
//! 200 with the same list for ever), and which ones lead viewers past the proxy.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use moka::sync::Cache;

use crate::{
    proxy::Proxy,
    recent,
    target::{Site, Target},
};

/// Live playlists and manifests, by stream and path.
pub(crate) struct PlaylistFigures {
    edges: Cache<(String, String), Edge>,
}

/// One of them, as its origin has told of it.
#[derive(Clone, Copy, Debug)]
struct Edge {
    /// What is newest in it: the number of a segment, and how many parts are listed.
    newest: (u64, u64),
    changed: Instant,
    told: Instant,
}

/// Playlists with a figure of their own.
const EDGES_MAX: u64 = 1000;
/// Those that nobody watches are forgotten after a while.
const IDLE: Duration = Duration::from_secs(600);
const NAME: &str = "shoal_proxy_live_unchanged_seconds";

impl Default for PlaylistFigures {
    fn default() -> Self {
        let builder = recent::builder(EDGES_MAX).time_to_live(IDLE);
        Self {
            edges: builder.build(),
        }
    }
}

impl PlaylistFigures {
    /// Notes that the origin has told that `newest` is the newest of the live playlist at `path`.
    pub(crate) fn on_told(&self, stream: &str, path: &str, newest: (u64, u64), now: Instant) {
        let key = (stream.to_owned(), path.to_owned());
        let before = self.edges.get(&key).filter(|edge| edge.newest == newest);
        let edge = Edge {
            newest,
            changed: before.map_or(now, |edge| edge.changed),
            told: now,
        };
        self.edges.insert(key, edge);
    }

    /// The playlist at `path` is over.
    pub(crate) fn on_end(&self, stream: &str, path: &str) {
        self.edges.invalidate(&(stream.to_owned(), path.to_owned()));
    }

    /// For how long each had not changed when its origin last told of it, for Prometheus. What nobody asks for
    /// gets no older.
    pub(crate) fn render(&self) -> String {
        let mut out = format!("# TYPE {NAME} gauge\n");
        for (key, edge) in &self.edges {
            let (stream, path) = (escaped(&key.0), escaped(&key.1));
            let unchanged_s = edge.told.duration_since(edge.changed).as_secs_f64();
            let labels = format!("stream=\"{stream}\",playlist=\"{path}\"");
            let _ = writeln!(out, "{NAME}{{{labels}}} {unchanged_s}");
        }
        out
    }
}

impl Proxy {
    /// Counts which of the `urls` of a playlist lead viewers past this proxy.
    pub(crate) fn note_elsewhere<'a>(
        &self,
        target: &Target,
        urls: impl Iterator<Item = &'a String>,
    ) {
        let mut urls = urls.filter(|url| Site::is_elsewhere(url));
        if let Some(url) = urls.next() {
            let scope = self.scope_of(target);
            scope.on_elsewhere(1 + urls.count(), &target.path, url);
        }
    }

    /// Notes what is newest in a playlist.
    pub(crate) fn note_edge(&self, target: &Target, is_live: bool, newest: (u64, u64)) {
        let stream = &self.scope_of(target).name;
        if is_live {
            let now = Instant::now();
            self.playlist_figures
                .on_told(stream, &target.path, newest, now);
        } else {
            self.playlist_figures.on_end(stream, &target.path);
        }
    }
}

fn escaped(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_gets_older_as_it_is_told_again() {
        let figures = PlaylistFigures::default();
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let line = |seconds: u64| format!("{NAME}{{stream=\"a\",playlist=\"/\\\"i\"}} {seconds}\n");
        for (newest, at_s, unchanged_s) in [
            ((7, 0), 0, 0),
            ((7, 0), 5, 5),
            ((7, 1), 6, 0),
            ((7, 1), 9, 3),
            ((1, 0), 10, 0),
        ] {
            figures.on_told("a", "/\"i", newest, later(at_s));
            let text = figures.render();
            assert!(text.ends_with(&line(unchanged_s)), "{at_s} {text}");
        }
        figures.on_end("a", "/\"i");
        assert_eq!(figures.render(), format!("# TYPE {NAME} gauge\n"));
    }
}
