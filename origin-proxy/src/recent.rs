//! Caches that forget what was not used for the longest time.
//!
//! What is live is asked for by everyone and then by nobody: a cache that keeps what has been asked for most
//! often would refuse the newest segment for the sake of those that nobody wants any more.

use std::hash::Hash;

use moka::{
    policy::EvictionPolicy,
    sync::{Cache, CacheBuilder},
};

/// A cache of at most `max` entries, or of that weight, if a weigher is added.
pub(crate) fn builder<K, V>(max: u64) -> CacheBuilder<K, V, Cache<K, V>>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(max)
        .eviction_policy(EvictionPolicy::lru())
}

/// A cache of at most `max` entries.
pub(crate) fn cache<K, V>(max: u64) -> Cache<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    builder(max).build()
}
