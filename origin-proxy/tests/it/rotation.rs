//! The key that signs changes while viewers watch.

use std::{path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use origin_proxy::keygen;
use serde_json::Value;
use swarm_core::{id::StreamId, record::Record};

use crate::{
    records::read,
    support::{HLS, Origin, Proxy, header, playlist, segment},
};

const INDEX: &str = "/live/v/i.m3u8";

/// As a careful operator does it: nobody ever sees half a file.
fn write(file: &Path, text: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, file).unwrap();
}

fn bytes(public: &str) -> [u8; 32] {
    URL_SAFE_NO_PAD.decode(public).unwrap().try_into().unwrap()
}

fn is_by(record: &Record, public: &str) -> bool {
    let key = VerifyingKey::from_bytes(&bytes(public)).unwrap();
    let signature = Signature::from_bytes(&record.signature);
    key.verify_strict(&record.signed_bytes(), &signature)
        .is_ok()
}

async fn stream(proxy: &Proxy) -> Value {
    let mut streams: Vec<Value> =
        serde_json::from_str(&proxy.text("/.shoal/streams").await).unwrap();
    streams.remove(0)
}

async fn until_trusted(proxy: &Proxy, keys: &[&str]) -> Value {
    loop {
        let stream = stream(proxy).await;
        if stream["public_keys"] == serde_json::json!(keys) {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn publish(origin: &Origin, first: u64, last: u64) {
    let control = ("cache-control", "no-cache");
    origin.put(INDEX, &[HLS, control], playlist(first, last));
    for number in first..=last {
        let path = format!("/live/v/seg-{number}.m4s");
        origin.put(
            &path,
            &[("cache-control", "max-age=600")],
            segment(number, 40_000),
        );
    }
}

async fn record(proxy: &Proxy, number: u64) -> Record {
    let path = format!("/live/v/seg-{number}.m4s");
    let answer = proxy.get_with(&path, &[("range", "bytes=0-16383")]).await;
    Record::from_header(header(&answer, "shoal-record")).unwrap()
}

async fn start(file: &Path) -> Proxy {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.signing_key = None;
        config.signing_key_file = Some(file.into());
        config.records.key_reload_ms = 20;
        config.records.record_hold_ms_max = 60_000;
    })
    .await;
    publish(&proxy.origin, 1, 4);
    // It has read the file once it answers.
    stream(&proxy).await;
    proxy
}

#[tokio::test]
async fn viewers_with_both_keys_never_lose_anything() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let ((old, old_public), (new, new_public)) = (keygen().unwrap(), keygen().unwrap());
    write(&file, &old);
    let proxy = start(&file).await;
    let before = read(&proxy.text(INDEX).await);
    assert_eq!(
        before.stream,
        Some(StreamId::of(&bytes(&old_public), "main"))
    );
    let first = record(&proxy, 2).await;
    assert!(is_by(&first, &old_public));

    // The new key is named before it signs: viewers of the proxy learn of it in time.
    write(&file, &format!("{old}\nvalid {new_public}\n"));
    until_trusted(&proxy, &[&old_public, &new_public]).await;
    assert!(is_by(&record(&proxy, 2).await, &old_public));

    // While it begins to sign, every playlist is tagged, and every record is good by one of the two.
    write(
        &file,
        &format!("{new}\nnames {old_public}\nvalid {old_public}\n"),
    );
    let mut has_rolled = false;
    while !has_rolled {
        has_rolled = stream(&proxy).await["public_key"] == new_public.as_str();
        assert_eq!(read(&proxy.text(INDEX).await), before);
        let now = record(&proxy, 2).await;
        assert_eq!(now.signed_bytes(), first.signed_bytes());
        assert!(is_by(&now, &old_public) || is_by(&now, &new_public));
    }

    // What was signed before the change is signed again, without another look at the origin.
    while !is_by(&record(&proxy, 2).await, &new_public) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(proxy.origin.count("/live/v/seg-2.m4s"), 1);
    assert!(proxy.metric("shoal_proxy_records_resigned_total").await >= 4.0);
    publish(&proxy.origin, 2, 5);
    let after = read(&proxy.text(INDEX).await);
    assert_eq!(after.stream, before.stream);
    assert_eq!(after.segments[0].info, before.segments[1].info);
    assert!(after.segments[3].info.content.is_some());
    assert!(is_by(&record(&proxy, 5).await, &new_public));

    // In the end the old one makes ids alone.
    write(&file, &format!("{new}\nnames {old_public}\n"));
    let stream = until_trusted(&proxy, &[&new_public]).await;
    assert_eq!(stream["stream_key"], old_public.as_str());
}

#[tokio::test]
async fn files_that_would_part_viewers_or_make_no_sense_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let ((old, old_public), (new, new_public)) = (keygen().unwrap(), keygen().unwrap());
    write(&file, &old);
    let proxy = start(&file).await;
    for wrong in ["", "nonsense", new.as_str()] {
        write(&file, wrong);
        // Long enough to be read; what follows shows that reading goes on.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(stream(&proxy).await["public_key"], old_public.as_str());
    }
    write(&file, &format!("{new}\nnames {old_public}\n"));
    until_trusted(&proxy, &[&new_public]).await;
    // A restart finds the same stream.
    let again = start(&file).await;
    let id = |stream: Value| stream["stream"].as_str().unwrap().to_owned();
    assert_eq!(id(stream(&again).await), id(stream(&proxy).await));
}
