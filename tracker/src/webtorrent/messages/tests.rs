use proptest::prelude::*;

use super::*;

const HASH: &str = r#""aaaaaaaaaaaaaaaaaaaa""#;
const SDP: &str = r#""v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n""#;

fn announce(rest: &str) -> String {
    format!(r#"{{"action":"announce","info_hash":{HASH},"peer_id":"bbbbbbbbbbbbbbbbbbbb"{rest}}}"#)
}

fn expect_announce(text: &str) -> Announce<'_> {
    match parse(text) {
        Ok(Message::Announce(announce)) => announce,
        other => panic!("{other:?}"),
    }
}

/// As a client's JSON encoder writes 20 bytes.
fn json_of(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    serde_json::to_string(&text).unwrap()
}

/// The other way to write them.
fn escaped(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("\\u{byte:04X}")).collect();
    format!("\"{}\"", digits.concat())
}

#[test]
fn announcements_are_read_without_copying_their_descriptions() {
    let text = announce(&format!(
        r#","numwant":5,"uploaded":0,"downloaded":0,"left":null,"event":"started","future":[{{"x":1}}],
        "offers":[{{"offer":{{"type":"offer","sdp":{SDP}}},"offer_id":"\u0015\u00a1M"}}]"#
    ));
    let announce = expect_announce(&text);
    assert_eq!(announce.info_hash.id.0, [b'a'; 20]);
    assert!(!announce.complete && !announce.stopped);
    let [offer] = announce.offers.as_slice() else {
        panic!("one offer");
    };
    assert_eq!(offer.offer_id.bytes(), [0x15, 0xa1, b'M']);
    assert_eq!(offer.sdp, SDP);
    assert!(text.as_bytes().as_ptr_range().contains(&offer.sdp.as_ptr()));
}

#[test]
fn events_and_what_is_left_are_told_apart_leniently() {
    for (rest, stopped, complete, completed) in [
        ("", false, false, false),
        (r#","event":"stopped""#, true, false, false),
        (r#","event":"completed""#, false, true, true),
        (r#","event":"update","left":1"#, false, false, false),
        (r#","event":"","left":0"#, false, true, false),
        (r#","event":null,"offers":null"#, false, false, false),
        (
            r#","event":"paused","left":1.5e300,"numwant":"many""#,
            false,
            false,
            false,
        ),
    ] {
        let text = announce(rest);
        let got = expect_announce(&text);
        assert_eq!(
            (got.stopped, got.complete, got.completed),
            (stopped, complete, completed),
            "{rest}"
        );
    }
}

#[test]
fn no_more_offers_count_than_are_wanted() {
    let offer = format!(r#"{{"offer":{{"type":"offer","sdp":{SDP}}},"offer_id":"x"}}"#);
    let offers = format!(r#","offers":[{offer},{offer},{offer}]"#);
    for (numwant, expected) in [
        ("", 3),
        (r#","numwant":1"#, 1),
        (r#","numwant":0"#, 0),
        (r#","numwant":-1"#, 3),
    ] {
        let text = announce(&format!("{numwant}{offers}"));
        assert_eq!(expect_announce(&text).offers.len(), expected, "{numwant}");
    }
}

#[test]
fn what_is_malformed_is_named() {
    let with_offer = |offer: &str| announce(&format!(r#","offers":[{offer}]"#));
    let long_id = format!(
        r#"{{"offer":{{"type":"offer","sdp":{SDP}}},"offer_id":"{}"}}"#,
        "x".repeat(65)
    );
    let cases = [
        (String::new(), Malformed::Json),
        ("{".into(), Malformed::Json),
        ("[]".into(), Malformed::Json),
        ("null".into(), Malformed::Json),
        ("{}".into(), Malformed::Action),
        (r#"{"action":"steal"}"#.into(), Malformed::Action),
        (
            r#"{"action":"announce"}"#.into(),
            Malformed::Id("info_hash"),
        ),
        (
            format!(r#"{{"action":"announce","info_hash":{HASH}}}"#),
            Malformed::Id("peer_id"),
        ),
        (announce("").replace("bbb", "b"), Malformed::Id("peer_id")),
        (
            announce("").replace("bbb", "bbbb"),
            Malformed::Id("peer_id"),
        ),
        (
            announce("").replacen("\"bbb", "\"\\u0100bb", 1),
            Malformed::Id("peer_id"),
        ),
        (
            announce("").replacen("\"bbb", "\"\\ud83dbb", 1),
            Malformed::Id("peer_id"),
        ),
        (
            announce(r#","peer_id":"cccccccccccccccccccc""#),
            Malformed::Json,
        ),
        (announce(r#","offers":[1]"#), Malformed::Json),
        (announce("\n,\"x\":\"\n\""), Malformed::Json),
        (with_offer(&long_id), Malformed::OfferId),
        (
            with_offer(r#"{"offer":{"type":"offer","sdp":"x"},"offer_id":7}"#),
            Malformed::OfferId,
        ),
        (
            with_offer(r#"{"offer":null,"offer_id":"x"}"#),
            Malformed::Json,
        ),
        (
            with_offer(r#"{"offer":{"type":"answer","sdp":"x"},"offer_id":"x"}"#),
            Malformed::Description,
        ),
        (
            with_offer(r#"{"offer":{"type":"offer","sdp":{}},"offer_id":"x"}"#),
            Malformed::Description,
        ),
        (
            with_offer("{\"offer\":{\"type\":\"offer\",\"sdp\":\"\u{1}\"},\"offer_id\":\"x\"}"),
            Malformed::Json,
        ),
        (
            with_offer(r#"{"offer":{"type":"offer","sdp":"\x"},"offer_id":"x"}"#),
            Malformed::Json,
        ),
    ];
    assert_malformed(&cases);
}

fn assert_malformed(cases: &[(String, Malformed)]) {
    for (text, expected) in cases {
        match parse(text) {
            Err(malformed) => assert_eq!(malformed, *expected, "{text}"),
            Ok(message) => panic!("{text} is {message:?}"),
        }
    }
}

#[test]
fn what_is_malformed_in_answers_and_scrapes_is_named() {
    let many = vec![HASH; SCRAPE_MAX + 1].join(",");
    let cases = [
        (
            format!(r#"{{"action":"scrape","info_hash":[{many}]}}"#),
            Malformed::Scrape,
        ),
        (
            announce(r#","answer":{"type":"answer","sdp":"x"}"#),
            Malformed::Id("to_peer_id"),
        ),
        (r#"{"action":"scrape"}"#.into(), Malformed::Scrape),
        (
            r#"{"action":"scrape","info_hash":[]}"#.into(),
            Malformed::Scrape,
        ),
        (
            r#"{"action":"scrape","info_hash":{}}"#.into(),
            Malformed::Scrape,
        ),
        (
            r#"{"action":"scrape","info_hash":["x"]}"#.into(),
            Malformed::Id("info_hash"),
        ),
    ];
    assert_malformed(&cases);
}

#[test]
fn ids_of_operators_are_read_in_both_spellings() {
    let hex = Id20::from_text("ff61616161616161616161616161616161616161").unwrap();
    assert_eq!(Id20::from_text("ÿaaaaaaaaaaaaaaaaaaa"), Some(hex));
    for wrong in ["", "a", "aaaaaaaaaaaaaaaaaaaaa", "Āaaaaaaaaaaaaaaaaaaa"] {
        assert_eq!(Id20::from_text(wrong), None, "{wrong}");
    }
}

#[test]
fn deep_nesting_is_skipped_or_refused_not_followed() {
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    // Either is fine: the reader must only survive it.
    let _ = parse(&announce(&format!(r#","x":{deep}"#)));
    let _ = parse(&announce(&format!(r#","offers":{deep}"#)));
    let _ = parse(&deep);
}

proptest! {
    #[test]
    fn ids_are_the_same_however_they_are_spelt(bytes in any::<[u8; 20]>(), offer in any::<[u8; 20]>()) {
        for (id, offer_id) in [(json_of(&bytes), escaped(&offer)), (escaped(&bytes), json_of(&offer))] {
            let text = format!(
                r#"{{"action":"announce","info_hash":{id},"peer_id":{id},"offers":[
                {{"offer":{{"sdp":{SDP},"type":"offer"}},"offer_id":{offer_id}}}]}}"#
            );
            let announce = expect_announce(&text);
            prop_assert_eq!(announce.peer_id.id.0, bytes);
            prop_assert_eq!(announce.offers[0].offer_id.bytes(), offer);
        }
    }

    #[test]
    fn what_is_passed_on_is_json_that_says_the_same(bytes in any::<[u8; 20]>(), sdp in ".{0,200}", offer in any::<[u8; 20]>()) {
        let (id, offer_id) = (json_of(&bytes), json_of(&offer));
        let sdp_json = serde_json::to_string(&sdp).unwrap();
        let text = format!(
            r#"{{"action":"announce","info_hash":{id},"peer_id":{id},"offers":[
            {{"offer":{{"type":"offer","sdp":{sdp_json}}},"offer_id":{offer_id}}}]}}"#
        );
        let announce = expect_announce(&text);
        let passed = offer_parts(&announce, &announce.offers[0]).concat();
        let passed: serde_json::Value = serde_json::from_str(&passed).unwrap();
        prop_assert_eq!(&passed["offer"]["sdp"], &serde_json::Value::String(sdp));
        prop_assert_eq!(passed["peer_id"].as_str().unwrap().chars().count(), 20);
        let failure = failure_parts(Some(announce.info_hash), "why").concat();
        prop_assert!(serde_json::from_str::<serde_json::Value>(&failure).is_ok());
    }

    #[test]
    fn no_text_breaks_the_reader(text in ".{0,300}") {
        let _ = parse(&text);
    }

    /// What a client says, with a few characters changed: read or refused, and what is passed on
    /// stays JSON.
    #[test]
    fn damaged_messages_are_refused_or_stay_json(
        damage in proptest::collection::vec((0..400_usize, any::<u8>()), 1..6),
        answer in any::<bool>(),
    ) {
        let whole = if answer {
            announce(&format!(
                r#","to_peer_id":"cccccccccccccccccccc","answer":{{"type":"answer","sdp":{SDP}}},"offer_id":"xyz""#
            ))
        } else {
            announce(&format!(
                r#","numwant":5,"offers":[{{"offer":{{"type":"offer","sdp":{SDP}}},"offer_id":"xyz"}}]"#
            ))
        };
        let mut bytes = whole.into_bytes();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Ok(());
        };
        let passed: Vec<String> = match parse(text) {
            Ok(Message::Announce(announce)) => {
                let parts = |offer| offer_parts(&announce, offer).concat();
                announce.offers.iter().map(parts).collect()
            }
            Ok(Message::Answer(answer)) => vec![answer_parts(&answer).concat()],
            Ok(Message::Scrape(_)) | Err(_) => Vec::new(),
        };
        for text in passed {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }
}
