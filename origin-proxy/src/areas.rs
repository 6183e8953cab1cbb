//! Which paths of which hosts belong to which stream.

use std::sync::Arc;

use crate::{
    Config,
    keyring::Keys,
    metrics::{Metrics, Scope},
    records::Stream,
};

/// What lies below one path of one site.
pub(crate) struct Area {
    pub(crate) site: usize,
    pub(crate) prefix: String,
    pub(crate) scope: Arc<Scope>,
    pub(crate) stream: Option<Arc<Stream>>,
}

/// All areas that `config` names, the longest prefixes first; the last one has all the rest.
pub(crate) fn areas(config: &Config, metrics: &Metrics, keys: Option<&Keys>) -> Vec<Area> {
    let records_max = config.records.records_max;
    let elsewhere = config.hosts.iter().enumerate();
    let elsewhere = elsewhere.flat_map(|(index, host)| {
        let streams = host.streams.iter();
        streams.map(move |stream| (index + 1, stream))
    });
    let here = config.streams.iter().map(|stream| (0, stream));
    let new = |(site, stream): (usize, &crate::StreamConfig)| {
        let signed =
            |keys: &Keys| Stream::new(&stream.name, &stream.prefix, keys.clone(), records_max);
        Area {
            site,
            prefix: stream.prefix.clone(),
            scope: Arc::new(metrics.scope(&stream.name)),
            stream: keys.map(signed).map(Arc::new),
        }
    };
    let mut areas: Vec<Area> = here.chain(elsewhere).map(new).collect();
    areas.sort_by_key(|area| std::cmp::Reverse(area.prefix.len()));
    areas.push(Area {
        site: 0,
        prefix: String::new(),
        scope: Arc::new(metrics.scope("")),
        stream: None,
    });
    areas
}
