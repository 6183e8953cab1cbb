//! What is accepted as a token, and what is not.

use swarm_core::id::StreamId;
use tempfile::TempDir;

use super::*;
use crate::reload::Refresh;

const STREAM: StreamName = StreamName::Shoal(StreamId([3; 16]));
const HOUR: Duration = Duration::from_secs(3600);

/// A folder with the public half of one new key, and the private one.
struct Issuer {
    folder: TempDir,
    pair: KeyPair,
}

impl Issuer {
    fn new(kind: KeyKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pair = new_key_pair(kind).unwrap();
        fs::write(folder.path().join("first.pem"), &pair.public_pem).unwrap();
        Self { folder, pair }
    }

    fn tokens(&self) -> Tokens {
        self.tokens_with(TokensConfig::default())
    }

    fn tokens_with(&self, config: TokensConfig) -> Tokens {
        let config = TokensConfig {
            keys: Some(self.folder.path().into()),
            ..config
        };
        Tokens::open(&config, &mut Reloader::default())
            .unwrap()
            .unwrap()
    }

    fn mint(&self, claims: &Claims) -> String {
        mint(&self.pair.private_pem, Some("first"), claims).unwrap()
    }
}

fn check(tokens: &Tokens, token: &str) -> Result<Grant, &'static str> {
    check_from(tokens, token, "192.0.2.1")
}

fn check_from(tokens: &Tokens, token: &str, address: &str) -> Result<Grant, &'static str> {
    let request = JoinRequest {
        stream: STREAM,
        token: token.as_bytes(),
        address: address.parse().unwrap(),
        origin: None,
    };
    tokens.check(&request, SystemTime::now())
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn tokens_of_both_kinds_of_keys_are_accepted() {
    for kind in [KeyKind::Ed25519, KeyKind::P256] {
        let issuer = Issuer::new(kind);
        let token = issuer.mint(&claims_for(STREAM, HOUR));
        let grant = check(&issuer.tokens(), &token).unwrap();
        assert!(!grant.leech && grant.bearer.is_some(), "{kind:?}");
        assert!(token.len() < 400, "{}", token.len());
    }
}

/// What becomes of a token after a change to claims that are good.
fn changed(issuer: &Issuer, change: impl FnOnce(&mut Claims)) -> Result<bool, &'static str> {
    let mut claims = claims_for(STREAM, HOUR);
    change(&mut claims);
    check(&issuer.tokens(), &issuer.mint(&claims)).map(|grant| grant.leech)
}

#[test]
fn the_streams_decide() {
    let issuer = Issuer::new(KeyKind::Ed25519);
    let stream = STREAM.to_string();
    let many = |texts: &[&str]| Values::Many(texts.iter().map(ToString::to_string).collect());
    let one = |text: &str| Values::One(text.into());
    for (value, is_good) in [
        (many(&["ff", &stream]), true),
        (one("*"), true),
        (one(&stream.to_uppercase()), true),
        (one("ff"), false),
        (many(&[]), false),
    ] {
        let expected = is_good.then_some(false).ok_or("for another stream");
        assert_eq!(changed(&issuer, |claims| claims.stream = value), expected);
    }
}

#[test]
fn times_decide() {
    let issuer = Issuer::new(KeyKind::Ed25519);
    let until = |exp| changed(&issuer, |claims| claims.exp = exp);
    assert_eq!(until(now_s() - 29), Ok(false));
    assert_eq!(until(now_s() - 31), Err("expired"));
    assert_eq!(until(0), Err("expired"));
    assert_eq!(until(now_s() + 90_000), Err("valid for too long"));
    assert_eq!(until(u64::MAX), Err("valid for too long"));
    let from = |nbf| changed(&issuer, |claims| claims.nbf = Some(nbf));
    assert_eq!(from(now_s() + 25), Ok(false));
    assert_eq!(from(now_s() + 40), Err("not valid yet"));
}

#[test]
fn what_a_viewer_gives_is_claimed() {
    let issuer = Issuer::new(KeyKind::Ed25519);
    let p2p = |value: &str| changed(&issuer, |claims| claims.p2p = Some(value.into()));
    assert_eq!(p2p("leech"), Ok(true));
    assert_eq!(p2p("all"), Err("with an unknown p2p claim"));
    let elsewhere = changed(&issuer, |claims| {
        claims.aud = Values::One("elsewhere".into())
    });
    assert_eq!(elsewhere, Ok(false), "no audience is asked for");
}

#[test]
fn an_audience_that_is_set_must_be_named() {
    let issuer = Issuer::new(KeyKind::Ed25519);
    let tokens = issuer.tokens_with(TokensConfig {
        audience: "eu".into(),
        ..TokensConfig::default()
    });
    let base = claims_for(STREAM, HOUR);
    for (aud, accepted) in [
        (Values::default(), false),
        (Values::One("us".into()), false),
        (Values::One("eu".into()), true),
        (Values::Many(vec!["us".into(), "eu".into()]), true),
    ] {
        let token = issuer.mint(&Claims {
            aud,
            ..base.clone()
        });
        assert_eq!(check(&tokens, &token).is_ok(), accepted, "{token}");
    }
}

#[test]
fn an_address_that_is_named_must_be_the_viewers() {
    let issuer = Issuer::new(KeyKind::Ed25519);
    let tokens = issuer.tokens();
    for (ip, address, accepted) in [
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("192.0.2.0/24", "192.0.2.2", true),
        ("192.0.2.0/24", "2001:db8::1", false),
        ("2001:db8::1", "2001:db8::ffff", true),
        ("2001:db8::1", "2001:db8:0:1::1", false),
        ("rubbish", "192.0.2.1", false),
    ] {
        let ip_claim = Values::One(ip.into());
        let claims = Claims {
            ip: ip_claim,
            ..claims_for(STREAM, HOUR)
        };
        let got = check_from(&tokens, &issuer.mint(&claims), address);
        assert_eq!(got.is_ok(), accepted, "{ip} {address}");
    }
}

#[test]
fn forged_and_malformed_tokens_are_refused() {
    let (issuer, other) = (Issuer::new(KeyKind::Ed25519), Issuer::new(KeyKind::P256));
    let tokens = issuer.tokens();
    let claims = claims_for(STREAM, HOUR);
    let good = issuer.mint(&claims);
    assert!(check(&tokens, &good).is_ok());
    assert_eq!(
        check(&tokens, &other.mint(&claims)),
        Err("signed in another way than its key")
    );
    let unknown = mint(&issuer.pair.private_pem, Some("second"), &claims).unwrap();
    assert_eq!(check(&tokens, &unknown), Err("signed with an unknown key"));
    let forger = Issuer::new(KeyKind::Ed25519);
    assert!(check(&tokens, &forger.mint(&claims)).is_err());
    // Whoever knows the public key signs with it as if it were a shared secret.
    let header = Header {
        kid: Some("first".into()),
        ..Header::new(Algorithm::HS256)
    };
    let secret = jsonwebtoken::EncodingKey::from_secret(issuer.pair.public_pem.as_bytes());
    let confused = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
    assert!(check(&tokens, &confused).is_err());
    // {"alg":"none","kid":"first"} without a signature.
    let body = good.split('.').nth(1).unwrap();
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiZmlyc3QifQ.{body}.");
    assert!(check(&tokens, &none).is_err());
    for rubbish in [
        "",
        ".",
        "..",
        "a.b.c",
        "\u{0}",
        &good[1..],
        &good[..good.len() - 1],
    ] {
        assert!(check(&tokens, rubbish).is_err(), "{rubbish:?}");
    }
    for cut in 0..good.len() {
        assert!(check(&tokens, &good[..cut]).is_err());
    }
}

#[test]
fn keys_rotate_while_the_tracker_runs() {
    let issuer = Issuer::new(KeyKind::Ed25519);
    let tokens = issuer.tokens();
    let claims = claims_for(STREAM, HOUR);
    let first = issuer.mint(&claims);
    let no_kid = mint(&issuer.pair.private_pem, None, &claims).unwrap();
    assert!(check(&tokens, &no_kid).is_ok(), "there is one key alone");
    let next = new_key_pair(KeyKind::P256).unwrap();
    let second = mint(&next.private_pem, Some("second"), &claims).unwrap();
    assert!(check(&tokens, &second).is_err());
    let folder = issuer.folder.path();
    fs::write(folder.join("second.pem"), &next.public_pem).unwrap();
    tokens.keys.refresh();
    assert!(check(&tokens, &first).is_ok() && check(&tokens, &second).is_ok());
    assert!(check(&tokens, &no_kid).is_err(), "which of the two?");
    fs::remove_file(folder.join("first.pem")).unwrap();
    tokens.keys.refresh();
    assert!(check(&tokens, &first).is_err() && check(&tokens, &second).is_ok());
    fs::write(folder.join("third.pem"), "rubbish").unwrap();
    tokens.keys.refresh();
    assert!(
        check(&tokens, &second).is_ok(),
        "a bad file leaves the keys as they were"
    );
}

#[test]
fn bearers_are_told_apart_by_subject_or_token() {
    let issuer = Issuer::new(KeyKind::Ed25519);
    let tokens = issuer.tokens();
    let key = |claims: &Claims| {
        let grant = check(&tokens, &issuer.mint(claims)).unwrap();
        grant.bearer.unwrap().key
    };
    let base = claims_for(STREAM, HOUR);
    let of = |sub: &str, exp| Claims {
        sub: Some(sub.into()),
        exp,
        ..base.clone()
    };
    assert_eq!(key(&of("anna", base.exp)), key(&of("anna", base.exp - 5)));
    assert_ne!(key(&of("anna", base.exp)), key(&of("bert", base.exp)));
    let later = Claims {
        exp: base.exp - 1,
        ..base.clone()
    };
    assert_ne!(key(&base), key(&later));
}

#[test]
fn another_signature_of_the_same_token_is_no_other_bearer() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    /// The order of P-256 (FIPS 186-5, SP 800-186 section 3.2.1.3), big-endian.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let issuer = Issuer::new(KeyKind::P256);
    let token = issuer.mint(&claims_for(STREAM, HOUR));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    // n - s instead of s: it holds for the same message.
    let mut borrow = 0;
    for (byte, n) in bytes[32..].iter_mut().zip(ORDER).rev() {
        let left = i16::from(n) - i16::from(*byte) - borrow;
        (*byte, borrow) = (left.rem_euclid(256) as u8, i16::from(left < 0));
    }
    let other = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes));
    assert_ne!(other, token);
    let tokens = issuer.tokens();
    let bearer = |token: &str| check(&tokens, token).unwrap().bearer.unwrap();
    assert_eq!(bearer(&token), bearer(&other));
}

#[test]
fn folders_without_usable_keys_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = TokensConfig {
        keys: Some(folder.path().into()),
        ..TokensConfig::default()
    };
    let open = || {
        Tokens::open(&config, &mut Reloader::default())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(open().contains("no *.pem"), "{}", open());
    fs::write(
        folder.path().join("x.pem"),
        new_key_pair(KeyKind::P256).unwrap().private_pem,
    )
    .unwrap();
    assert!(open().contains("x.pem"), "{}", open());
}
