//! STUN and TURN servers: those that were configured, and those that the tracker tells.

use crate::rtc::IceServer;

/// What new links use.
#[derive(Debug, Default)]
pub(super) struct Servers {
    own: Vec<IceServer>,
    own_relay_only: bool,
    stun: Option<IceServer>,
    relays: Option<IceServer>,
    relay_only: bool,
}

impl Servers {
    pub(super) fn new(config: &crate::Config) -> Self {
        Self {
            own: config.ice_servers.clone(),
            own_relay_only: config.relay_only,
            ..Self::default()
        }
    }

    /// The tracker's STUN servers, as `host:port`.
    pub(super) fn on_stun<'a>(&mut self, servers: impl Iterator<Item = &'a str>) {
        self.stun = Some(IceServer {
            urls: servers.map(|server| format!("stun:{server}")).collect(),
            ..IceServer::default()
        });
    }

    /// The tracker's TURN servers: lines with user name, credential, and addresses.
    pub(super) fn on_relays(&mut self, lines: &str, only: bool) {
        let mut lines = lines.lines().map(str::to_owned);
        let (username, credential) = (lines.next(), lines.next());
        self.relay_only = only;
        self.relays = Some(IceServer {
            urls: lines.collect(),
            username: username.unwrap_or_default(),
            credential: credential.unwrap_or_default(),
        });
    }

    pub(super) fn all(&self) -> Vec<IceServer> {
        let told = self.stun.iter().chain(&self.relays);
        self.own.iter().chain(told).cloned().collect()
    }

    pub(super) const fn relay_only(&self) -> bool {
        self.own_relay_only || self.relay_only
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trackers_servers_come_to_the_own_ones_and_replace_each_other() {
        let own = IceServer {
            urls: vec!["turn:own.example".into()],
            username: "me".into(),
            credential: "mine".into(),
        };
        let mut servers = Servers::new(&crate::Config {
            ice_servers: vec![own.clone()],
            ..crate::Config::default()
        });
        assert!(!servers.relay_only());
        servers.on_stun(["a:1", "b:2"].into_iter());
        servers.on_relays("old\nsecret\nturn:c", false);
        servers.on_relays("7:name\nsecret\nturn:d\nturns:e", true);
        let all = servers.all();
        assert_eq!(all[0], own);
        assert_eq!(all[1].urls, ["stun:a:1", "stun:b:2"]);
        assert_eq!(all[2].urls, ["turn:d", "turns:e"]);
        assert_eq!(
            (&*all[2].username, &*all[2].credential),
            ("7:name", "secret")
        );
        assert!(all.len() == 3 && servers.relay_only());
        servers.on_relays("\n", false);
        assert!(servers.all()[2].urls.is_empty() && !servers.relay_only());
    }
}
