use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Error;
use crate::object::{Kind, Stream};

const RULES_MAX: usize = 64;
/// Tokens remembered; the oldest is forgotten, and refused, when one more is issued.
const TOKENS_MAX: usize = 65_536;

/// How the source misbehaves. Default: not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultPlan {
    /// Faults of single responses. The first rule that matches and is not used up applies; at most 64.
    pub rules: Vec<Rule>,
    /// Every playlist answer carries a fresh `?token=` on all its URIs; init and media segments asked
    /// without a token that was issued get 403.
    pub tokens: bool,
    /// Playlists and manifests stay as they are at their next request.
    pub freeze_playlists: bool,
    /// Media segments carry this number in a `free` box: another value gives every name other bytes of
    /// equal length that play alike.
    pub generation: u64,
}

/// One fault, and which requests it hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The kind of object. Default `any`.
    #[serde(default)]
    pub target: Target,
    /// Only paths that contain this text, such as `/360p/` or `seg-7.`.
    #[serde(default)]
    pub path_contains: Option<String>,
    /// Lets this many matching requests pass first. Default 0.
    #[serde(default)]
    pub skip: u32,
    /// Hits this many requests, then never again. Default: no limit.
    #[serde(default)]
    pub times: Option<u32>,
    /// What happens to them.
    pub fault: Fault,
}

/// Kinds of object that a [`Rule`] can name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Everything.
    #[default]
    Any,
    /// HLS playlists and the DASH manifest.
    Playlist,
    /// Init segments.
    Init,
    /// Media segments, and their parts.
    Segment,
    /// Media segments with pictures.
    Video,
    /// Media segments with sound.
    Audio,
}

/// What can go wrong with one response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// The body trickles at this many bytes per second.
    Slow {
        /// At least 1.
        bytes_per_s: u64,
    },
    /// The body stops after so many bytes; it goes on when the faults are next changed.
    Stall {
        /// 0 stops right after the headers.
        after_bytes: u64,
    },
    /// The connection breaks after so many bytes of a body whose `Content-Length` is whole.
    Truncate {
        /// 0 breaks right after the headers.
        after_bytes: u64,
    },
    /// 404, with the headers of a segment that is not published yet.
    NotFound,
    /// This status, 400 to 599, not to be cached. With `times`, a burst of errors.
    Status {
        /// The HTTP status code.
        code: u16,
    },
}

/// The switches of a running source: cheap to clone, and every change holds from the next request on.
#[derive(Debug, Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The number of changes; releases stalled bodies.
    changes: watch::Sender<u64>,
    /// The number of sequence resets.
    resets: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    plan: FaultPlan,
    frozen: HashMap<String, Bytes>,
    tokens: HashSet<String>,
    tokens_by_age: VecDeque<String>,
}

impl Faults {
    pub(crate) fn new(plan: FaultPlan) -> Self {
        let state = Mutex::new(State {
            plan,
            ..State::default()
        });
        let shared = Shared {
            state,
            changes: watch::Sender::new(0),
            resets: watch::Sender::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The faults now in force, with what is left of their `skip` and `times`.
    #[must_use]
    pub fn plan(&self) -> FaultPlan {
        self.lock().plan.clone()
    }

    /// Replaces all faults, and lets stalled responses go on.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is out of its range; nothing changes then.
    pub fn set(&self, plan: FaultPlan) -> Result<(), Error> {
        plan.validate()?;
        self.change(|now| *now = plan);
        Ok(())
    }

    /// Ends all faults, and lets stalled responses go on. The generation goes back to 0.
    pub fn clear(&self) {
        self.change(|plan| *plan = FaultPlan::default());
    }

    /// Adds a rule after those in force.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is out of its range or there are 64 rules already.
    pub fn add(&self, rule: Rule) -> Result<(), Error> {
        let mut plan = self.plan();
        plan.rules.push(rule);
        self.set(plan)
    }

    /// Adds a fault that hits every request for `target` from now on.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn hit(&self, target: Target, fault: Fault) -> Result<(), Error> {
        self.add(Rule {
            target,
            path_contains: None,
            skip: 0,
            times: None,
            fault,
        })
    }

    /// Switches per-viewer tokens; see [`FaultPlan::tokens`].
    pub fn require_tokens(&self, on: bool) {
        self.change(|plan| plan.tokens = on);
    }

    /// Freezes or thaws the playlists; see [`FaultPlan::freeze_playlists`].
    pub fn freeze_playlists(&self, on: bool) {
        self.change(|plan| plan.freeze_playlists = on);
    }

    /// Sets the generation; see [`FaultPlan::generation`].
    pub fn set_generation(&self, generation: u64) {
        self.change(|plan| plan.generation = generation);
    }

    /// Restarts segment numbering, as a restarted packager does: the oldest listed segment becomes
    /// number 0, media time and dates go on, and old names return with other bytes. An ffmpeg input is
    /// started anew.
    pub fn reset_sequence(&self) {
        self.shared.resets.send_modify(|resets| *resets += 1);
    }

    /// The fault for one request, used up by it.
    pub(crate) fn take(&self, kind: Kind, path: &str) -> Option<Fault> {
        let mut state = self.lock();
        state
            .plan
            .rules
            .iter_mut()
            .filter(|rule| rule.matches(kind, path))
            .find_map(Rule::take)
    }

    /// `text`, or what the playlist at `path` was when it froze.
    pub(crate) fn frozen(&self, path: &str, text: Bytes) -> Bytes {
        let mut state = self.lock();
        if !state.plan.freeze_playlists {
            return text;
        }
        state.frozen.entry(path.to_owned()).or_insert(text).clone()
    }

    pub(crate) fn issue_token(&self) -> Option<String> {
        let mut state = self.lock();
        if !state.plan.tokens {
            return None;
        }
        if state.tokens_by_age.len() >= TOKENS_MAX
            && let Some(oldest) = state.tokens_by_age.pop_front()
        {
            state.tokens.remove(&oldest);
        }
        let token = format!("{:032x}", rand::random::<u128>());
        state.tokens.insert(token.clone());
        state.tokens_by_age.push_back(token.clone());
        Some(token)
    }

    pub(crate) fn allows(&self, kind: Kind, query: Option<&str>) -> bool {
        let state = self.lock();
        let guarded = matches!(kind, Kind::Init(_)) || kind.is_media();
        if !state.plan.tokens || !guarded {
            return true;
        }
        let mut pairs = query.unwrap_or_default().split('&');
        pairs.any(|pair| {
            pair.strip_prefix("token=")
                .is_some_and(|t| state.tokens.contains(t))
        })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.lock().plan.generation
    }

    pub(crate) fn resets(&self) -> watch::Receiver<u64> {
        self.shared.resets.subscribe()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn change(&self, edit: impl FnOnce(&mut FaultPlan)) {
        let mut state = self.lock();
        edit(&mut state.plan);
        if !state.plan.freeze_playlists {
            state.frozen.clear();
        }
        drop(state);
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultPlan {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.rules.len() > RULES_MAX {
            return Err(Error::Config(format!(
                "faults.rules has more than {RULES_MAX} entries"
            )));
        }
        for rule in &self.rules {
            let ok = match rule.fault {
                Fault::Slow { bytes_per_s } => bytes_per_s > 0,
                Fault::Status { code } => (400..=599).contains(&code),
                _ => true,
            };
            if !ok {
                return Err(Error::Config(format!(
                    "faults.rules: out of range: {rule:?}"
                )));
            }
        }
        Ok(())
    }
}

impl Rule {
    fn matches(&self, kind: Kind, path: &str) -> bool {
        let target = match self.target {
            Target::Any => true,
            Target::Playlist => kind.is_playlist(),
            Target::Init => matches!(kind, Kind::Init(_)),
            Target::Segment => kind.is_media(),
            Target::Video => matches!(
                kind,
                Kind::Segment(Stream::Video) | Kind::Part(Stream::Video)
            ),
            Target::Audio => matches!(
                kind,
                Kind::Segment(Stream::Audio) | Kind::Part(Stream::Audio)
            ),
        };
        target
            && self
                .path_contains
                .as_ref()
                .is_none_or(|part| path.contains(part.as_str()))
    }

    fn take(&mut self) -> Option<Fault> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        match &mut self.times {
            Some(0) => return None,
            Some(times) => *times -= 1,
            None => {}
        }
        Some(self.fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_skips_hits_and_is_used_up() {
        let faults = Faults::new(FaultPlan::default());
        let (target, path_contains) = (Target::Video, Some("/360p/".into()));
        let fault = Fault::Status { code: 503 };
        faults
            .add(Rule {
                target,
                path_contains,
                skip: 1,
                times: Some(2),
                fault: fault.clone(),
            })
            .unwrap();
        let video = Kind::Segment(Stream::Video);
        assert_eq!(faults.take(video, "/live/240p/seg-1.m4s"), None);
        assert_eq!(
            faults.take(Kind::Segment(Stream::Audio), "/live/360p/seg-1.m4s"),
            None
        );
        let hits: Vec<_> = (0..4)
            .map(|_| faults.take(video, "/live/360p/seg-1.m4s"))
            .collect();
        assert_eq!(hits, [None, Some(fault.clone()), Some(fault), None]);
    }

    #[test]
    fn refuses_values_out_of_range_and_keeps_the_old() {
        let faults = Faults::new(FaultPlan::default());
        assert!(
            faults
                .hit(Target::Any, Fault::Slow { bytes_per_s: 0 })
                .is_err()
        );
        assert!(
            faults
                .hit(Target::Any, Fault::Status { code: 200 })
                .is_err()
        );
        assert_eq!(faults.plan(), FaultPlan::default());
    }

    #[test]
    fn reads_json() {
        let plan: FaultPlan = serde_json::from_str(
            r#"{"rules":[{"target":"video","times":3,"fault":{"slow":{"bytes_per_s":9}}},
                {"fault":"not-found"}],"generation":4}"#,
        )
        .unwrap();
        assert_eq!(plan.rules[0].fault, Fault::Slow { bytes_per_s: 9 });
        assert_eq!(plan.rules[1].fault, Fault::NotFound);
        assert!(serde_json::from_str::<FaultPlan>(r#"{"slow":1}"#).is_err());
    }
}
