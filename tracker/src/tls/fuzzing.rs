//! Records of TLS as whoever is between the viewer and us may send them.

use rustls::{
    ConnectionTrafficSecrets,
    crypto::cipher::{AeadKey, Iv},
};

use super::records::{Half, PLAIN_LEN_MAX};

/// Nobody without the key gets a record opened, and a viewer's is opened as it was sealed, once it is whole.
/// The first byte is the kind.
pub fn tls_records(bytes: &[u8]) {
    let secrets = || ConnectionTrafficSecrets::Chacha20Poly1305 {
        key: AeadKey::from([7; 32]),
        iv: Iv::from([9; 12]),
    };
    let half = || Half::new((3, secrets()));
    assert!(!matches!(half().open(&mut bytes.to_vec()), Ok(Some(_))));
    let Some((kind, content)) = bytes.split_first() else {
        return;
    };
    if *kind == 0 || content.len() > PLAIN_LEN_MAX {
        return;
    }
    let mut sealed = Vec::new();
    let mut sender = half();
    sender
        .seal(*kind, content, &mut sealed)
        .expect("there is room");
    let len = sealed.len();
    sender
        .seal(*kind, b"next", &mut sealed)
        .expect("there is room");
    let mut receiver = half();
    let mut input = sealed.clone();
    for expected in [content, b"next"] {
        let record = receiver.open(&mut input).expect("it is right");
        let record = record.expect("it is whole");
        assert_eq!((record.kind, record.content), (*kind, expected));
        let taken = record.len;
        input.drain(..taken);
    }
    for at in [0, 1, 4, 5, len / 2, len - 1] {
        assert!(
            matches!(half().open(&mut sealed[..at].to_vec()), Ok(None)),
            "{at}"
        );
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        assert!(!matches!(half().open(&mut altered), Ok(Some(_))), "{at}");
    }
    // Nor is one opened in the place of another.
    assert!(half().open(&mut sealed[len..].to_vec()).is_err());
}
