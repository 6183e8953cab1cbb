//! The settings: their manual, and what is wrong with some.

use super::*;

#[test]
fn the_printed_file_is_the_default() {
    let printed = Config::from_toml(default_config()).unwrap();
    assert_eq!(printed, Config::default());
}

#[test]
fn streams_are_listed_by_id_or_by_key_and_name() {
    let id = StreamId::of(&[7; 32], "main hall");
    let key = URL_SAFE_NO_PAD.encode([7; 32]);
    for (text, name) in [
        (format!("{id} Main hall"), "Main hall"),
        (format!("{key}/main hall"), "main hall"),
        (id.to_string(), ""),
    ] {
        let config = Config {
            streams: vec![text],
            ..Config::default()
        };
        let streams = config.open_streams(&mut Reloader::default()).unwrap();
        assert!(streams.contains(&id) && !streams.contains(&StreamId([1; 16])));
        assert_eq!(streams.name_of(&id), name);
    }
    for text in ["main", "short/main", "0123"] {
        let config = Config {
            streams: vec![text.into()],
            ..Config::default()
        };
        let opened = config.open_streams(&mut Reloader::default());
        let error = opened.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn the_printed_file_documents_every_setting() {
    let config = Config {
        join_token: Some(String::new()),
        name_key: Some(String::new()),
        admin_token: Some(String::new()),
        subnets: Some(PathBuf::new()),
        streams_file: Some(PathBuf::new()),
        tokens: TokensConfig {
            keys: Some(PathBuf::new()),
            ..TokensConfig::default()
        },
        permission: PermissionConfig {
            url: Some(String::new()),
            bearer: Some(String::new()),
            ..PermissionConfig::default()
        },
        tls: TlsConfig {
            certificate: Some(PathBuf::new()),
            key: Some(PathBuf::new()),
        },
        networks: vec![NetworkConfig {
            asn: Some(1),
            isp: Some(String::new()),
            country: Some(String::new()),
            latitude: Some(0.0),
            longitude: Some(0.0),
            site: Some(String::new()),
            label: Some(String::new()),
            ..NetworkConfig::default()
        }],
        relay: RelayConfig {
            secret: Some(String::new()),
            ..RelayConfig::default()
        },
        cluster: ClusterConfig {
            credentials: Some(PathBuf::new()),
            authorities: Some(PathBuf::new()),
            certificate: Some(PathBuf::new()),
            key: Some(PathBuf::new()),
            ..ClusterConfig::default()
        },
        webhooks: WebhooksConfig {
            secret: Some(String::new()),
            ..WebhooksConfig::default()
        },
        ..Config::default()
    };
    let all = toml::Table::try_from(&config).unwrap();
    let network = toml::Table::try_from(&config.networks[0]).unwrap();
    let mut keys: Vec<String> = all.keys().chain(network.keys()).cloned().collect();
    for table in all.values().filter_map(toml::Value::as_table) {
        keys.extend(table.keys().cloned());
    }
    let lines: Vec<&str> = default_config().lines().collect();
    for key in keys {
        let is_it = |line: &&str| {
            let line = line.trim_start_matches('#');
            line.starts_with(&format!("{key} = "))
                || line == format!("[{key}]")
                || line == format!("[[{key}]]")
        };
        assert!(lines.iter().any(is_it), "{key} is not documented");
    }
}

#[test]
fn mistakes_are_named() {
    for (text, named) in [
        ("lisen = \"\"", "lisen"),
        ("[swarm]\ngroup_thin = 15", "group_thin"),
        ("[swarm]\nsilence_ms_max = 6000", "silence_ms_max"),
        ("[limits]\nqueue_bytes_max = 100", "queue_bytes_max"),
        ("[limits]\nbytes_burst = 10000", "bytes_burst"),
        ("[cluster]\nservers = [\"nats://h\"]", "name_key"),
        ("[cluster]\nkey = \"/k.pem\"", "cluster.certificate"),
        ("[webhooks]\nurls = [\"ftp://h/\"]", "webhooks.urls"),
        ("[webhooks]\nsecret = \"short\"", "webhooks.secret"),
        ("[cluster]\nsubject = \"a b\"", "cluster.subject"),
        ("[cluster]\nlost_after_ms = 1500", "cluster.lost_after_ms"),
        ("[relay]\nurls = [\"stun:h\"]", "relay.urls"),
        ("[relay]\nurls = [\"turn:h\"]", "relay.secret"),
        ("[relay]\nlifetime_s = 1", "relay.lifetime_s"),
        ("[drain]\nplaces = [\"http://h/\"]", "drain.places"),
        ("[cluster]\nurl = \"h:80\"", "cluster.url"),
        ("paths = [\"shoal\"]", "paths"),
        ("join_token = \"\"", "join_token"),
        ("admin_token = \"\"", "admin_token"),
        ("join_token = \"a\"\n[tokens]\nkeys = \"k\"", "tokens.keys"),
        ("[webtorrent]\npaths = [\"x\"]", "webtorrent.paths"),
        ("[webtorrent]\ninterval_s_min = 200", "interval_s_min"),
        ("[webtorrent]\ninfo_hashes = [\"short\"]", "info_hashes"),
        ("[privacy]\ncountries = [\"Germany\"]", "countries"),
        ("[permission]\non_failure = \"ajar\"", "on_failure"),
        (
            "[[networks]]\ncidrs = [\"10.0.0.0/8\"]\ncountry = \"Germany\"",
            "country",
        ),
        ("[[networks]]\ncidrs = [\"10.0.0.0/99\"]", "cidrs"),
        ("[[networks]]\ncidrs = [\"::/0\"]\np2p = \"maybe\"", "p2p"),
    ] {
        let error = Config::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
