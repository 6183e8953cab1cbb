//! How a host deals with pages and players: who may read its answers, and who is sent there.

use std::sync::Arc;

use http::HeaderMap;

use crate::{
    Config,
    config::{CorsConfig, HostConfig},
    respond,
    steering::Steering,
};

/// The manners of one host.
pub(crate) struct Manners {
    pub(crate) cors: CorsConfig,
    /// What every answer has.
    pub(crate) added: Option<HeaderMap>,
    /// Hosts without one of their own have the same.
    pub(crate) steering: Arc<Steering>,
}

impl Manners {
    fn new(cors: &CorsConfig, steering: Arc<Steering>) -> Self {
        Self {
            added: respond::added(&cors.origins),
            cors: cors.clone(),
            steering,
        }
    }

    /// Those of all hosts that have none of their own.
    pub(crate) fn of_rest(config: &Config) -> Self {
        Self::new(&config.cors, Arc::new(Steering::new(&config.steering)))
    }

    /// Those of `host`, which has these where it says nothing else.
    pub(crate) fn of(&self, host: &HostConfig) -> Self {
        let own = host.steering.as_ref().map(Steering::new).map(Arc::new);
        let steering = own.unwrap_or_else(|| self.steering.clone());
        Self::new(host.cors.as_ref().unwrap_or(&self.cors), steering)
    }
}
