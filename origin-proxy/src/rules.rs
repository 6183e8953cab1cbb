//! What the operator knows better than an origin that cannot be changed.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{Error, config::RuleConfig};

/// The operator's rules, in their order.
pub(crate) struct Rules(Vec<Rule>);

/// One rule.
struct Rule {
    prefix: String,
    /// With the dot; none for all.
    endings: Vec<String>,
    ignored: Vec<HeaderName>,
    /// What takes the place of the origin's word.
    control: Option<HeaderValue>,
}

/// What says how long an answer is fresh, and who may have it.
static CONTROLS: [HeaderName; 5] = [
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::PRAGMA,
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("surrogate-control"),
];

impl Rules {
    /// Reads what `config` has.
    pub(crate) fn read(config: &[RuleConfig]) -> Result<Self, Error> {
        config
            .iter()
            .map(Rule::read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Makes of the head of an origin's answer for `path` what the rules say.
    pub(crate) fn apply(&self, path: &str, head: &mut HeaderMap) {
        for rule in self.0.iter().filter(|rule| rule.is_for(path)) {
            for name in &rule.ignored {
                head.remove(name);
            }
            if let Some(control) = &rule.control {
                head.insert(header::CACHE_CONTROL, control.clone());
            }
        }
    }
}

impl Rule {
    fn read(config: &RuleConfig) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Config(what.into());
        if !config.prefix.starts_with('/') {
            return Err(wrong("rules.prefix must begin with /"));
        }
        let names = config.ignore.iter().map(|name| name.parse());
        let mut ignored: Vec<HeaderName> = names
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("rules.ignore must be names of headers"))?;
        if config.fresh_s.is_some() || ignored.contains(&header::CACHE_CONTROL) {
            ignored.extend(CONTROLS.iter().cloned());
        }
        let control = config.fresh_s.map(|seconds| format!("max-age={seconds}"));
        Ok(Self {
            prefix: config.prefix.clone(),
            endings: config
                .extensions
                .iter()
                .map(|text| format!(".{text}"))
                .collect(),
            ignored,
            control: control.and_then(|text| HeaderValue::try_from(text).ok()),
        })
    }

    fn is_for(&self, path: &str) -> bool {
        let mut endings = self.endings.iter();
        let ends = self.endings.is_empty() || endings.any(|ending| path.ends_with(ending));
        ends && path.starts_with(&self.prefix)
    }
}
