use super::*;
use crate::{
    cluster::{Swarms, Visitors, Words, guests::Guests},
    config::Config,
    farewell::Places,
    names::Names,
    reload::Reloader,
    shard::Shard,
    webtorrent::Facade,
};
use swarm_core::directory::ConnId;

/// Nothing takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("in vain: {what}"))
}

#[test]
fn who_a_node_is_stands_in_the_addresses_of_its_servers() {
    let found = |servers: &[&str]| {
        let servers = servers.iter().map(|server| server.parse().unwrap());
        identity_in(&servers.collect::<Vec<_>>())
    };
    let named =
        |user: &str, password: Option<&str>| Some((user.to_owned(), password.map(str::to_owned)));
    assert_eq!(found(&["nats://a:4222", "tls://b"]).unwrap(), None);
    let both = [
        "nats://me:a%20%25b@a:4222",
        "tls://me:a%20%25b@b",
        "nats://c",
    ];
    assert_eq!(found(&both).unwrap(), named("me", Some("a %b")));
    assert_eq!(found(&["nats://t%40ken@a"]).unwrap(), named("t@ken", None));
    for wrong in [
        &["nats://a:b@c", "nats://a:d@e"][..],
        &["nats://a:%f@b"],
        &["nats://a:%zz@b"],
        &["nats://100%@b"],
        &["nats://%ff@b"],
    ] {
        assert!(found(wrong).is_err(), "{wrong:?}");
    }
}

fn worker(config: Config, counters: Arc<Counters>) -> Shard {
    let names = Names::new(None).unwrap();
    let places = Arc::new(Places::new(&config.drain));
    Shard::new(Arc::new(config), names, counters, places, 1)
}

#[tokio::test]
async fn while_the_shard_is_busy_other_nodes_hear_this_one_and_its_visitors_the_shard() {
    let mut config = Config::default();
    // Nobody listens there: what is published is counted as dropped.
    config.cluster.servers = vec!["nats://127.0.0.1:1".into()];
    (config.cluster.heartbeat_ms, config.cluster.lost_after_ms) = (1, 2);
    let (me, counters) = (NodeId(1), Arc::new(Counters::default()));
    let (link, _asked) = connect(&config.cluster, me, &counters).await.unwrap();
    let (guests, posts) = Guests::new(me, Arc::clone(&counters));
    let facade = Arc::new(Facade::new(&config, &mut Reloader::default()).unwrap());
    let swarms = Swarms { facade, guests };
    let (outputs_in, outputs) = mpsc::channel(1);
    let visitors = Visitors {
        outputs: outputs_in.clone(),
        counters: Arc::clone(&counters),
    };
    let places = Arc::new(Places::new(&config.drain));
    let router = Router::new(
        me,
        1,
        &config,
        visitors,
        places,
        swarms,
        Arc::clone(&counters),
    );
    let (said, commands) = mpsc::channel(1);
    let inlets = Inlets {
        commands,
        outputs,
        posts,
    };
    // The shard has room for one command and takes none.
    let (shard, mut shards) = mpsc::channel(1);
    let serving = tokio::spawn(serve(link, router, shard, inlets, CancellationToken::new()));
    let (looked, mut looks) = mpsc::unbounded_channel();
    for number in 0..20 {
        let looked = looked.clone();
        let look = Command::Look(Box::new(move |_| looked.send(number).unwrap()));
        let sent = in_time("commands are taken", said.send(look)).await;
        assert!(sent.is_ok());
    }
    let hellos = || counters.cluster_dropped.load(Ordering::Relaxed);
    let before = hellos();
    for _ in 0..20 {
        let (conn, what) = (ConnId(7), Words::Close);
        let sent = outputs_in.send(Output { conn, what });
        in_time("words are taken", sent).await.unwrap();
    }
    in_time("further hellos", async {
        while hellos() < before + 3 {
            time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // Then it takes them, in order.
    let (pass, taken) = mpsc::channel(1);
    let working = tokio::spawn(worker(config, counters).serve(taken, CancellationToken::new()));
    for number in 0..20 {
        let command = in_time("a command", shards.recv()).await.unwrap();
        assert!(pass.send(command).await.is_ok());
        assert_eq!(in_time("a look", looks.recv()).await, Some(number));
    }
    drop((pass, shards));
    in_time("the shard ends", working).await.unwrap();
    // Without a shard there is nothing to serve.
    let look = Command::Look(Box::new(|_| ()));
    assert!(said.send(look).await.is_ok());
    in_time("the link ends", serving).await.unwrap();
}
