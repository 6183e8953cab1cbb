//! What the cache forgets, and why.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use moka::sync::Cache;

use crate::{
    error::Failure,
    object::Object,
    playlist::Format,
    proxy::{Passed, Proxy},
    target::{Site, Target},
    upstream::headers_for_pass,
};

impl Proxy {
    /// Has the origin asked for `target` again before it is served again: it may have changed, and so
    /// may what is on its way.
    pub(crate) fn distrust(&self, target: &Target) {
        self.lock_flights().remove(&target.key);
        self.varies.invalidate(&target.key);
        if let Some(disk) = &self.disk {
            disk.remove_one(&target.key);
        }
        match self.cached(target) {
            Some(object) => self.expire(&target.key, &object),
            None => self.cache.invalidate(&target.key),
        }
    }

    /// The same for all objects whose keys `is_it` tells.
    pub(crate) fn distrust_all(&self, is_it: impl Fn(&str) -> bool) {
        self.lock_flights().retain(|key, _| !is_it(key));
        self.forget_on_disk(&is_it);
        let found = self.cache.iter().filter(|(key, _)| is_it(key));
        let found: Vec<(Arc<String>, Arc<Object>)> = found.collect();
        for (key, object) in found {
            self.expire(&key, &object);
        }
    }

    fn expire(&self, key: &str, object: &Object) {
        if object.origin_etag.is_some() {
            // With a validator, asking costs no body.
            self.cache.insert(key.into(), Arc::new(object.expired()));
        } else {
            self.cache.invalidate(key);
        }
    }

    /// Forgets one object in all its variants, and what is on its way; of a playlist all states that players
    /// have asked for (LL-HLS).
    pub(crate) fn purge(&self, target: &Target) -> usize {
        let variants = format!("{}\u{0}", target.key);
        let is_it =
            |key: &str| key == target.key || key.starts_with(&variants) || target.has_state(key);
        // First: what lands afterwards is not kept.
        self.lock_flights().retain(|key, _| !is_it(key));
        // Without the rule no request leads to a variant in memory any more.
        let had_variants = self.varies.remove(&target.key).is_some();
        let before = self.cache.remove(&target.key);
        let had = before.is_some() || had_variants;
        let type_of_path = Format::of(&target.path, &HeaderMap::new());
        let is_playlist = before.is_some_and(|before| before.raw.is_some());
        if is_playlist || type_of_path != Format::Other {
            Self::forget_in_memory(&self.cache, |key| target.has_state(key));
            Self::forget_in_memory(&self.varies, |key| target.has_state(key));
            self.lives.on_purge(|key| key == target.key);
        }
        let on_disk = self.forget_on_disk(is_it);
        usize::from(had).max(on_disk)
    }

    /// Forgets all objects whose keys begin with `prefix`, and what of them is on its way.
    pub(crate) fn purge_below(&self, prefix: &str) -> usize {
        let is_it = |key: &str| key.starts_with(prefix);
        // First: what lands afterwards is not kept.
        self.lock_flights().retain(|key, _| !is_it(key));
        let count = Self::forget_in_memory(&self.cache, is_it);
        Self::forget_in_memory(&self.varies, is_it);
        self.lives.on_purge(is_it);
        count.max(self.forget_on_disk(is_it))
    }

    /// Forgets the object under the key of `target`, which must not be given to others any more.
    pub(crate) fn evict(&self, target: &Target) {
        self.cache.invalidate(&target.key);
        if let Some(disk) = &self.disk {
            disk.remove_one(&target.key);
        }
    }

    /// Returns how many there were.
    fn forget_in_memory<T: Clone + Send + Sync + 'static>(
        cache: &Cache<String, T>,
        is_it: impl Fn(&str) -> bool,
    ) -> usize {
        let keys = cache.iter().map(|(key, _)| key);
        let keys: Vec<Arc<String>> = keys.filter(|key| is_it(key)).collect();
        keys.iter().for_each(|key| cache.invalidate(key.as_str()));
        keys.len()
    }

    fn forget_on_disk(&self, is_it: impl Fn(&str) -> bool) -> usize {
        self.disk.as_ref().map_or(0, |disk| disk.remove(is_it))
    }

    /// Has the origin do what changes things, and forgets what it changes (RFC 9111 section 4.4).
    pub(crate) async fn change(
        &self,
        target: &Target,
        method: Method,
        viewer: &HeaderMap,
        body: Bytes,
    ) -> Result<Passed, Failure> {
        self.metrics.passed.increment(1);
        let permit = self.permit()?;
        let headers = headers_for_pass(viewer);
        let response = self.ask(target, method, headers, body).await?;
        if response.status().is_success() || response.status().is_redirection() {
            self.purge(target);
            let site = self.site_of(target);
            let base = url::Url::parse(&Site::viewer_url(target)).ok();
            for name in [header::LOCATION, header::CONTENT_LOCATION] {
                let text = response
                    .headers()
                    .get(name)
                    .and_then(|text| text.to_str().ok());
                let url = text.and_then(|text| base.as_ref()?.join(text).ok());
                // Other hosts' objects are not theirs to change.
                if let Some(other) = url.and_then(|url| site.local(url.as_str())) {
                    self.purge(&other);
                }
            }
        }
        Ok(Passed { response, permit })
    }
}
