use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Paths counted singly; the oldest is dropped (its counts stay in the total) when one more comes.
const PATHS_MAX: usize = 16_384;

/// What was served: cheap to clone, shared with the running source. Paths are without query.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    shared: Arc<Mutex<State>>,
}

/// Counts of one path, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests of any method that got an answer, whatever its status.
    pub requests: u64,
    /// Those of them answered with a 4xx or 5xx status.
    pub errors: u64,
    /// Body bytes handed to the transport. Divided by the object's length: copies served.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    total: Counts,
    paths: HashMap<String, Counts>,
    by_age: VecDeque<String>,
}

impl Stats {
    /// Counts of one path such as `/live/360p/seg-7.m4s`; zeros if it was never asked for.
    #[must_use]
    pub fn path(&self, path: &str) -> Counts {
        self.lock().paths.get(path).copied().unwrap_or_default()
    }

    /// Sum over all requests, those for unknown paths included.
    #[must_use]
    pub fn total(&self) -> Counts {
        self.lock().total
    }

    /// Every path under `/live/` that was asked for and can exist; the latest 16384.
    #[must_use]
    pub fn paths(&self) -> BTreeMap<String, Counts> {
        self.lock()
            .paths
            .iter()
            .map(|(path, counts)| (path.clone(), *counts))
            .collect()
    }

    /// Forgets everything counted so far.
    pub fn reset(&self) {
        *self.lock() = State::default();
    }

    /// Counts one answer; `path` is `None` for what cannot exist, which gets no entry of its own.
    pub(crate) fn on_answer(&self, path: Option<&str>, error: bool) {
        let one = Counts {
            requests: 1,
            errors: u64::from(error),
            bytes: 0,
        };
        self.lock().add(path, one);
    }

    pub(crate) fn on_bytes(&self, path: Option<&str>, bytes: u64) {
        self.lock().add(
            path,
            Counts {
                bytes,
                ..Counts::default()
            },
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, path: Option<&str>, counts: Counts) {
        self.total.add(counts);
        let Some(path) = path else { return };
        if let Some(entry) = self.paths.get_mut(path) {
            return entry.add(counts);
        }
        if self.by_age.len() >= PATHS_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.paths.remove(&oldest);
        }
        self.by_age.push_back(path.to_owned());
        self.paths.insert(path.to_owned(), counts);
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.bytes += other.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_bounded_and_the_total_is_whole() {
        let stats = Stats::default();
        for i in 0..PATHS_MAX + 10 {
            stats.on_answer(Some(&format!("/live/{i}")), i == 0);
            stats.on_bytes(None, 3);
        }
        assert_eq!(stats.paths().len(), PATHS_MAX);
        let (requests, errors) = (PATHS_MAX as u64 + 10, 1);
        assert_eq!(
            stats.total(),
            Counts {
                requests,
                errors,
                bytes: 3 * requests
            }
        );
        assert_eq!(stats.path("/live/0"), Counts::default());
    }
}
