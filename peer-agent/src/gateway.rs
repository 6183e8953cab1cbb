//! The one way to the stream for every player, ours or not: playlists fresh from the CDN, segments
//! through the swarm, everything else passed through.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use reqwest::Response;
use swarm_core::id::{Name, TrackId};
use swarm_core::timeline::hls::{self, HlsPlaylist};
use swarm_core::timeline::{PLAYLIST_LEN_MAX, Track, dash};
use tokio::time::Instant;
use url::Url;

use crate::buffer::{Estimate, PlayerState};
use crate::catalog::{Catalog, Located};
use crate::driver::{Command, DriverHandle};
use crate::media::{self, Object};
use crate::origin::{Origin, OriginError};

/// Hosts, beside the CDN's, that playlists have named.
const HOSTS_MAX: usize = 16;
/// Manifests that are read again as time goes by.
const MANIFESTS_MAX: usize = 4;
/// A manifest that nobody asked for in this time is forgotten.
const MANIFEST_IDLE: Duration = Duration::from_secs(60);
/// Media playlists whose place is known.
const PLAYLISTS_MAX: usize = 64;
/// How often new segments can come into being in a manifest without a change of it.
const MANIFEST_REREAD: Duration = Duration::from_millis(500);

/// Settings and parts that every request needs.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) driver: DriverHandle,
    pub(crate) origin: Origin,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) bytes_bypassed: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    estimate: Estimate,
    hosts: HashSet<String>,
    manifests: HashMap<String, Manifest>,
    playlists: HashMap<TrackId, Playlist>,
}

/// Where a live media playlist is, and when it was read.
#[derive(Debug)]
struct Playlist {
    url: String,
    read: Instant,
}

#[derive(Debug)]
struct Manifest {
    text: String,
    asked: Instant,
    read: Instant,
}

/// What the CDN says of a URL that is no segment of the swarm's.
pub(crate) enum Fetched {
    Playlist(Text),
    Object(Object),
}

/// The two kinds of playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaylistKind {
    Hls,
    Dash,
}

/// A playlist as the CDN has it.
pub(crate) struct Text {
    pub(crate) kind: PlaylistKind,
    pub(crate) text: String,
    /// Where it came from in the end.
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    /// What was read in it, if it is HLS and could be read.
    pub(crate) hls: Option<HlsPlaylist>,
}

impl Gateway {
    pub(crate) fn new(
        driver: DriverHandle,
        origin: Origin,
        catalog: Arc<Catalog>,
        bytes_bypassed: Arc<AtomicU64>,
    ) -> Self {
        Self {
            driver,
            origin,
            catalog,
            bytes_bypassed,
            state: Mutex::default(),
        }
    }

    /// The segment that a request means, if it is one of the swarm's.
    pub(crate) async fn segment(
        &self,
        url: &str,
        range: Option<(u64, u64)>,
    ) -> Option<(Name, Located)> {
        let find = || self.catalog.name_of(url, range);
        let name = match find() {
            Some(name) => Some(name),
            // Of a manifest new segments come into being by the clock alone.
            None if self.reread_manifests().await => find(),
            None => None,
        };
        let name = name?;
        Some((name, self.catalog.find(name)?))
    }

    /// Gets something that is no segment.
    pub(crate) async fn fetch(
        &self,
        method: Method,
        url: &str,
        range: Option<(u64, u64)>,
        headers: HeaderMap,
    ) -> Result<Fetched, OriginError> {
        let wanted_whole = method == Method::GET && range.is_none();
        let mut response = self.origin.open(method, url, range, headers).await?;
        let kind = playlist_kind(&response);
        match kind {
            Some(kind) if wanted_whole && response.status() == StatusCode::OK => {
                let body = self.origin.body(&mut response, PLAYLIST_LEN_MAX).await?;
                Ok(Fetched::Playlist(self.learn(kind, &body, &response).await))
            }
            _ => Ok(Fetched::Object(media::pass(self, response))),
        }
    }

    /// Takes in a playlist and tells the driver. One that cannot be read is passed on all the same.
    async fn learn(&self, kind: PlaylistKind, body: &Bytes, response: &Response) -> Text {
        let mut text = Text {
            kind,
            text: String::from_utf8_lossy(body).into_owned(),
            url: response.url().to_string(),
            headers: response.headers().clone(),
            hls: None,
        };
        match kind {
            PlaylistKind::Hls => match hls::read(&text.text, &text.url) {
                Ok(playlist) => {
                    if let HlsPlaylist::Media(track) = &playlist {
                        self.lock().on_media_playlist(track, &text.url);
                        self.on_tracks(vec![track.clone()]).await;
                    }
                    text.hls = Some(playlist);
                }
                Err(error) => tracing::warn!(%error, url = text.url, "playlist passed on unread"),
            },
            PlaylistKind::Dash => self.learn_manifest(&text).await,
        }
        text
    }

    async fn learn_manifest(&self, text: &Text) {
        let now = Instant::now();
        {
            let mut state = self.lock();
            state
                .manifests
                .retain(|_, known| now.duration_since(known.asked) < MANIFEST_IDLE);
            if state.manifests.len() < MANIFESTS_MAX || state.manifests.contains_key(&text.url) {
                let manifest = Manifest {
                    text: text.text.clone(),
                    asked: now,
                    read: now,
                };
                state.manifests.insert(text.url.clone(), manifest);
            }
        }
        self.read_manifest(&text.text, &text.url).await;
    }

    async fn read_manifest(&self, text: &str, url: &str) {
        match dash::read(text, url, unix_ms()) {
            Ok(manifest) => {
                let representations = manifest.representations.into_iter();
                let tracks = representations.map(|representation| representation.track);
                self.on_tracks(tracks.collect()).await;
            }
            Err(error) => tracing::warn!(%error, url, "manifest passed on unread"),
        }
    }

    /// Reads manifests again as they are now; whether any was due.
    pub(crate) async fn reread_manifests(&self) -> bool {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut state = self.lock();
            state
                .manifests
                .retain(|_, known| now.duration_since(known.asked) < MANIFEST_IDLE);
            let due = state
                .manifests
                .iter_mut()
                .filter(|(_, known)| now.duration_since(known.read) >= MANIFEST_REREAD);
            due.map(|(url, known)| {
                known.read = now;
                (url.clone(), known.text.clone())
            })
            .collect()
        };
        for (url, text) in &due {
            self.read_manifest(text, url).await;
        }
        !due.is_empty()
    }

    /// Reads the media playlist of a track again, if nobody has for so long: a player that takes its
    /// time with a segment may look for the next one only afterwards.
    pub(crate) async fn reread_playlist(&self, track: TrackId, headers: HeaderMap, age: Duration) {
        let url = {
            let state = self.lock();
            let known = state.playlists.get(&track);
            let known = known.filter(|playlist| playlist.read.elapsed() >= age);
            known.map(|playlist| playlist.url.clone())
        };
        if let Some(url) = url
            && let Err(error) = self.fetch(Method::GET, &url, None, headers).await
        {
            tracing::debug!(%error, url, "playlist could not be read ahead");
        }
    }

    async fn on_tracks(&self, tracks: Vec<Track>) {
        {
            let mut state = self.lock();
            for track in &tracks {
                state.estimate.on_playlist(track);
                self.catalog.add(track.track, &track.segments);
                let ends = track
                    .segments
                    .first()
                    .into_iter()
                    .chain(track.segments.last());
                let urls = ends.map(|listed| listed.url.as_str());
                for url in urls.chain(track.inits.iter().map(|init| init.url.as_str())) {
                    state.allow(url);
                }
            }
        }
        self.driver.tell(Command::Playlist(tracks)).await;
    }

    /// Lets the endpoint pass on what is on the host of `url`.
    pub(crate) fn allow(&self, url: &str) {
        self.lock().allow(url);
    }

    /// Whether a playlist has named this host (`scheme://host:port`).
    pub(crate) fn allows(&self, origin: &str) -> bool {
        self.lock().hosts.contains(origin)
    }

    /// The player waits for a segment.
    pub(crate) fn on_asked(&self, track: TrackId) {
        self.lock().estimate.on_asked(track);
    }

    /// The player has got the first `ms` of a segment.
    pub(crate) fn on_progress(&self, located: &Located, ms: u32) {
        let part = (located.seq, ms);
        self.lock()
            .estimate
            .on_progress(located.track, part, Instant::now());
    }

    /// The player has got it, or not.
    pub(crate) fn on_answered(&self, located: &Located, got: bool) {
        let given = got.then_some((located.seq, located.duration_ms));
        self.lock()
            .estimate
            .on_answered(located.track, given, Instant::now());
    }

    /// How the player is doing, as far as requests tell.
    pub(crate) fn estimate(&self) -> Option<PlayerState> {
        self.lock().estimate.state(Instant::now())
    }

    pub(crate) fn on_bypassed(&self, bytes: u64) {
        self.bytes_bypassed.fetch_add(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn on_media_playlist(&mut self, track: &Track, url: &str) {
        let (id, read) = (track.track, Instant::now());
        self.playlists.remove(&id);
        if track.ended {
            return;
        }
        if self.playlists.len() >= PLAYLISTS_MAX
            && let Some(oldest) = self.playlists.iter().min_by_key(|(_, known)| known.read)
        {
            let oldest = *oldest.0;
            self.playlists.remove(&oldest);
        }
        let url = url.to_owned();
        self.playlists.insert(id, Playlist { url, read });
    }

    fn allow(&mut self, url: &str) {
        let Some(origin) = origin_of(url) else { return };
        if self.hosts.len() < HOSTS_MAX {
            self.hosts.insert(origin);
        }
    }
}

/// `scheme://host[:port]` of an absolute HTTP URL.
pub(crate) fn origin_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    matches!(url.scheme(), "http" | "https").then(|| url.origin().ascii_serialization())
}

/// Whether an answer is a playlist, by its type, or else by its name.
fn playlist_kind(response: &Response) -> Option<PlaylistKind> {
    let mime = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let mime = mime.unwrap_or_default().to_ascii_lowercase();
    if mime.contains("mpegurl") {
        return Some(PlaylistKind::Hls);
    }
    if mime.contains("dash+xml") {
        return Some(PlaylistKind::Dash);
    }
    let path = response.url().path().to_ascii_lowercase();
    match path.rsplit_once('.')?.1 {
        "m3u8" | "m3u" => Some(PlaylistKind::Hls),
        "mpd" => Some(PlaylistKind::Dash),
        _ => None,
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}
