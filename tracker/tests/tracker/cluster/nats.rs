//! NATS servers as operators run them.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_meet_at_a_server_that_asks_who_they_are() {
    for (options, who) in [
        (
            &["--user", "tracker", "--pass", "a secret"][..],
            "tracker:a%20secret@",
        ),
        (&["--auth", "a-token"], "a-token@"),
    ] {
        let nats = Nats::start_with(options).await;
        let stranger = async_nats::connect(nats.url()).await;
        assert!(stranger.is_err(), "it asks");
        let mut config = node_config(&nats);
        config.cluster.servers = vec![nats.url_of(who)];
        let nodes = start_nodes(&config, 2).await;
        let viewers = two_each(&nodes).await;
        one_group(&nodes, 4).await;
        all_signal(&refs(&viewers), b"let in").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_nats_servers_may_be_lost() {
    let ports = [nodes::free_port(), nodes::free_port()];
    let routes = ports.map(|port| format!("nats://127.0.0.1:{port}"));
    let mut servers = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let (own, other) = (&routes[own], &routes[other]);
        let options = [
            "--cluster_name",
            "test",
            "--cluster",
            own,
            "--routes",
            other,
        ];
        servers.push(Nats::start_with(&options).await);
    }
    let mut config = node_config(&servers[0]);
    config.cluster.servers = servers.iter().map(Nats::url).collect();
    let nodes = start_nodes(&config, 3).await;
    let viewers = two_each(&nodes).await;
    one_group(&nodes, 6).await;
    // First one is lost, then the other: each node was connected to one of them.
    for (lost, text) in [(0, "by the second"), (1, "by the first")] {
        servers[lost].kill();
        all_meet(&nodes, 3).await;
        one_group(&nodes, 6).await;
        all_signal(&refs(&viewers), text.as_bytes()).await;
        servers[lost].revive().await;
    }
    assert!(viewers.iter().all(|viewer| !viewer.heard().closed));
}
