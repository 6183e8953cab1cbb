//! What is told of an audience of ten thousand: all of it, in answers of a bounded size.

use std::{collections::BTreeMap, sync::Arc};

use swarm_core::{
    directory::{Action, ConnId, Directory, Input, Joined, Outbox, Policy},
    id::{PeerId, StreamId, TrackId},
    time::Instant,
    wire::tracker::{LinkOutcome, Nat, Status, ViewerFlags},
};

use super::{
    question::{Question, Reply, see},
    survey::{Progress, VIEWERS_A_LOOK},
};
use crate::{fake, shard::Sight};

const VIEWERS: u64 = 10_000;
const STREAM: StreamId = StreamId([7; 16]);
/// Pages ask for several answers every other second.
const ANSWER_LEN_MAX: usize = 1 << 20;

fn join(number: u64) -> Joined {
    let peer = PeerId(number + 1);
    Joined {
        conn: ConnId(number + 1),
        peer,
        resumed: false,
        stream: STREAM,
        track: TrackId(1),
        flags: ViewerFlags(0),
        nat: Nat::Cone,
        upload_kbps: 8_000,
        network: fake::network_of(peer).network,
    }
}

/// Viewers that link with all they are introduced to, and report.
fn audience() -> Directory {
    let mut now = Instant::ORIGIN;
    let mut directory = Directory::new(Arc::new(Policy::default()), 1, now);
    let (mut outbox, mut links) = (Outbox::new(), Vec::new());
    for number in 0..VIEWERS {
        now = now.plus_ms(1);
        directory.handle(now, Input::Joined(&join(number)), &mut outbox);
        directory.handle(now, Input::Tick, &mut outbox);
        for action in outbox.actions() {
            if let Action::Introduce { conn, introduction } = action {
                links.push((*conn, introduction.peer));
            }
        }
        outbox.clear();
    }
    for (conn, peer) in links {
        let outcome = LinkOutcome::Up;
        let link = Input::Link {
            conn,
            peer,
            outcome,
            rtt_ms: 20,
        };
        directory.handle(now, link, &mut outbox);
    }
    let status = Status {
        track: TrackId(1),
        buffer_ms: 9_000,
        links: 15,
        bytes_p2p: 900_000,
        bytes_cdn: 100_000,
        ..Status::default()
    };
    for number in 0..VIEWERS {
        let (conn, status) = (ConnId(number + 1), &status);
        directory.handle(now, Input::Status { conn, status }, &mut outbox);
    }
    directory
}

fn told<T: serde::Serialize>(answer: &T) -> serde_json::Value {
    let text = serde_json::to_string(answer).unwrap();
    assert!(text.len() < ANSWER_LEN_MAX, "{} bytes", text.len());
    serde_json::from_str(&text).unwrap()
}

/// What is answered, after as many looks as it takes; between them `meanwhile` happens.
fn ask(
    question: &Question,
    directory: &mut Directory,
    meanwhile: &mut dyn FnMut(&mut Directory),
) -> serde_json::Value {
    let none = BTreeMap::new();
    let mut progress = None;
    loop {
        let sight = Sight {
            directory,
            isps: &none,
            sites: &none,
        };
        let next = match progress.take() {
            None => see(&sight, question, "here"),
            Some(so_far) => Progress::next(so_far, &sight),
        };
        match next {
            Progress::Done(Reply::Stream(found)) => return told(&found),
            Progress::Done(Reply::Groups(found)) => return told(&found),
            Progress::Done(Reply::Mesh(found)) => return told(&found),
            Progress::Done(other) => panic!("{other:?}"),
            so_far => progress = Some(so_far),
        }
        meanwhile(directory);
    }
}

fn sum(list: &serde_json::Value, of: &str) -> u64 {
    let list = list.as_array().unwrap();
    list.iter().map(|entry| entry[of].as_u64().unwrap()).sum()
}

#[test]
fn ten_thousand_viewers_are_told_of_whole_and_in_little() {
    let mut directory = audience();
    let mut ask = |question| ask(&question, &mut directory, &mut |_| ());
    let detail = ask(Question::Stream(STREAM.to_string()));
    assert_eq!(detail["connected"], VIEWERS);
    assert_eq!(sum(&detail["isps"], "viewers"), VIEWERS);
    assert_eq!(sum(&detail["countries"], "viewers"), VIEWERS);

    let groups = ask(Question::Groups(STREAM.to_string()));
    assert_eq!(sum(&groups["groups"], "viewers"), VIEWERS);
    assert!(sum(&groups["groups"], "links_up") > VIEWERS);
    let mesh = |group| Question::Mesh {
        stream: STREAM.to_string(),
        group,
        node: None,
    };
    for group in groups["groups"].as_array().unwrap() {
        let number = group["group"].as_u64().unwrap() as u32;
        let mesh = ask(mesh(Some(number)));
        assert_eq!(mesh["truncated"], false);
        let viewers = mesh["viewers"].as_array().unwrap().len();
        assert_eq!(viewers as u64, group["viewers"].as_u64().unwrap());
    }
    let mesh = ask(mesh(None));
    assert_eq!(mesh["truncated"], true);
}

#[test]
fn others_have_their_turn_while_a_large_stream_is_looked_at() {
    let (mut directory, mut turns, mut outbox) = (audience(), 0, Outbox::new());
    for question in [
        Question::Stream(STREAM.to_string()),
        Question::Groups(STREAM.to_string()),
    ] {
        let before = turns;
        let audience = directory.viewers_len() as u64;
        // Somebody leaves and somebody comes at each turn, often to a seat that was left.
        let answer = ask(&question, &mut directory, &mut |directory| {
            turns += 1;
            let (gone, come) = (ConnId(turns * 60), join(VIEWERS + turns));
            let now = Instant::from_micros(20_000_000 + turns);
            directory.handle(now, Input::Left(gone), &mut outbox);
            directory.handle(now, Input::Joined(&come), &mut outbox);
            outbox.clear();
        });
        let taken = turns - before;
        assert!(taken >= VIEWERS / VIEWERS_A_LOOK as u64);
        let viewers = match &answer["groups"] {
            serde_json::Value::Null => answer["connected"].as_u64().unwrap(),
            groups => sum(groups, "viewers"),
        };
        assert!(
            viewers.abs_diff(audience) <= taken,
            "{viewers} of {audience}"
        );
    }
}
