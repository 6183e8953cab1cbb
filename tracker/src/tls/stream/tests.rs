//! Viewers that keep the rules of TLS 1.3, and such as break them.

use futures_util::FutureExt;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsConnector, client};

use super::{
    super::records::{
        ALERT, APPLICATION_DATA, BAD_RECORD_MAC, CLOSE_NOTIFY, HANDSHAKE, Half, ILLEGAL_PARAMETER,
        KEY_UPDATE, RECORD_OVERFLOW, RECORDS_MAX, UNEXPECTED_MESSAGE, USER_CANCELED, VAIN_MAX,
    },
    *,
};

/// A connection, and the viewer's end of it.
async fn connect() -> (Box<TlsStream>, client::TlsStream<TcpStream>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    // They would stand before what the tests look for.
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut viewer = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    viewer.enable_secret_extraction = true;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).await;
    let (here, _) = listener.accept().await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let (here, there) = tokio::join!(
        TlsStream::accept(here, Vec::new(), Arc::new(server)),
        TlsConnector::from(Arc::new(viewer)).connect(name, there.unwrap()),
    );
    (here.unwrap(), there.unwrap())
}

/// A viewer that has the keys and sends what it likes.
struct Rogue {
    tcp: TcpStream,
    tx: Half,
    rx: Half,
}

impl Rogue {
    async fn connect() -> (Box<TlsStream>, Self) {
        let (here, there) = connect().await;
        let (tcp, session) = there.into_inner();
        let secrets = session.dangerous_extract_secrets().unwrap();
        let (tx, rx) = (Half::new(secrets.tx), Half::new(secrets.rx));
        (here, Self { tcp, tx, rx })
    }

    async fn send(&mut self, kind: u8, content: &[u8]) {
        let record = sealed(&mut self.tx, kind, content);
        self.tcp.write_all(&record).await.unwrap();
    }

    /// The next record that comes: kind and content.
    async fn hear(&mut self) -> (u8, Vec<u8>) {
        let mut record = vec![0; 5];
        self.tcp.read_exact(&mut record).await.unwrap();
        let len = u16::from_be_bytes([record[3], record[4]]);
        record.resize(5 + usize::from(len), 0);
        self.tcp.read_exact(&mut record[5..]).await.unwrap();
        let record = self.rx.open(&mut record).unwrap().unwrap();
        (record.kind, record.content.to_vec())
    }
}

fn sealed(tx: &mut Half, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    tx.seal(kind, content, &mut record).unwrap();
    record
}

fn many(tx: &mut Half, kind: u8, content: &[u8]) -> Vec<u8> {
    (0..=VAIN_MAX)
        .flat_map(|_| sealed(tx, kind, content))
        .collect()
}

/// What is read until the end or an error.
async fn read(here: &mut TlsStream) -> (Vec<u8>, io::Result<()>) {
    let mut got = Vec::new();
    let ended = here.read_to_end(&mut got).await;
    (got, ended.map(|_| ()))
}

/// A record of zeros behind the content's kind: the kind that is sealed with it is padding too.
fn padded(tx: &mut Half, content: &[u8], padding: usize) -> Vec<u8> {
    let mut inner = [content, &[APPLICATION_DATA]].concat();
    inner.resize(inner.len() + padding, 0);
    sealed(tx, 0, &inner)
}

/// What a rogue sends, made with its keys.
type Act<'a> = &'a dyn Fn(&mut Half) -> Vec<u8>;

const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// Sends what each of the acts makes, and looks for the end and its alert.
async fn each_ends(acts: &[(Act<'_>, Alert)]) {
    for (number, (act, alert)) in acts.iter().enumerate() {
        let (mut here, mut rogue) = Rogue::connect().await;
        let bytes = act(&mut rogue.tx);
        rogue.tcp.write_all(&bytes).await.unwrap();
        let (_, ended) = read(&mut here).await;
        let error = ended.expect_err("it ends");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{number}");
        assert_eq!(rogue.hear().await, (ALERT, vec![2, alert.0]), "{number}");
        let more = here.write_all(b"x").await;
        more.expect_err("nothing is said behind an alert");
        here.shutdown().await.unwrap();
        assert_eq!(rogue.tcp.read(&mut [0]).await.unwrap(), 0, "{number}");
    }
}

#[tokio::test]
async fn what_breaks_the_rules_ends_the_connection_with_its_alert() {
    let largest = [7; PLAIN_LEN_MAX + 1];
    let twice = [UPDATE, UPDATE].concat();
    each_ends(&[
        // Not encrypted, as anybody on the way could write it.
        (
            &|_| [&[23, 3, 3, 0, 40][..], &[7; 40]].concat(),
            BAD_RECORD_MAC,
        ),
        (&|_| vec![20, 3, 3, 0, 1, 1], UNEXPECTED_MESSAGE),
        (
            &|_| vec![21, 3, 3, 0, 2, 1, CLOSE_NOTIFY],
            UNEXPECTED_MESSAGE,
        ),
        (&|_| vec![22, 3, 3, 0, 4, 1, 0, 0, 0], UNEXPECTED_MESSAGE),
        (&|_| vec![23, 3, 3, 0, 0], BAD_RECORD_MAC),
        // Too long: by its header, by its content, by its padding.
        (&|_| vec![23, 3, 3, 0x41, 1], RECORD_OVERFLOW),
        (
            &|tx| sealed(tx, APPLICATION_DATA, &largest),
            RECORD_OVERFLOW,
        ),
        (&|tx| padded(tx, b"x", PLAIN_LEN_MAX), RECORD_OVERFLOW),
        // Without a kind, of an unknown one, and messages that are none.
        (&|tx| sealed(tx, 0, &[0; 30]), UNEXPECTED_MESSAGE),
        (&|tx| sealed(tx, 25, b"x"), UNEXPECTED_MESSAGE),
        (&|tx| sealed(tx, ALERT, &[]), UNEXPECTED_MESSAGE),
        (&|tx| sealed(tx, ALERT, &[1]), UNEXPECTED_MESSAGE),
        (&|tx| sealed(tx, HANDSHAKE, &[]), UNEXPECTED_MESSAGE),
        (
            &|tx| sealed(tx, HANDSHAKE, &[1, 0, 0, 0]),
            UNEXPECTED_MESSAGE,
        ),
        (&|tx| sealed(tx, HANDSHAKE, &twice), UNEXPECTED_MESSAGE),
        (
            &|tx| sealed(tx, HANDSHAKE, &[24, 0, 0, 1, 2]),
            ILLEGAL_PARAMETER,
        ),
        // Nothing, for ever.
        (&|tx| many(tx, APPLICATION_DATA, &[]), UNEXPECTED_MESSAGE),
        (
            &|tx| many(tx, ALERT, &[1, USER_CANCELED]),
            UNEXPECTED_MESSAGE,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_record_counts_once_in_its_place_and_under_its_keys() {
    let swapped = |tx: &mut Half| {
        let first = sealed(tx, APPLICATION_DATA, b"x");
        [sealed(tx, APPLICATION_DATA, b"y"), first].concat()
    };
    let one_lost = |tx: &mut Half| {
        sealed(tx, APPLICATION_DATA, b"lost");
        sealed(tx, APPLICATION_DATA, b"x")
    };
    let old_keys = |tx: &mut Half| {
        let update = sealed(tx, HANDSHAKE, &UPDATE);
        [update, sealed(tx, APPLICATION_DATA, b"x")].concat()
    };
    let again = |tx: &mut Half| sealed(tx, APPLICATION_DATA, b"x").repeat(2);
    let acts: [Act<'_>; 4] = [&again, &swapped, &one_lost, &old_keys];
    each_ends(&acts.map(|act| (act, BAD_RECORD_MAC))).await;
}

#[tokio::test]
async fn what_keeps_the_rules_arrives_however_it_is_cut() {
    let (mut here, mut rogue) = Rogue::connect().await;
    let largest = vec![7; PLAIN_LEN_MAX];
    let tx = &mut rogue.tx;
    let records = [
        sealed(tx, APPLICATION_DATA, b"one"),
        sealed(tx, APPLICATION_DATA, &[]),
        sealed(tx, ALERT, &[1, USER_CANCELED]),
        padded(tx, b"two", 100),
        sealed(tx, APPLICATION_DATA, &largest),
        padded(tx, b"three", PLAIN_LEN_MAX - 6),
        sealed(tx, ALERT, &[1, CLOSE_NOTIFY]),
        sealed(tx, APPLICATION_DATA, b"behind the end"),
    ]
    .concat();
    let sending = tokio::spawn(async move {
        let (one_by_one, rest) = records.split_at(250);
        for byte in one_by_one {
            rogue.tcp.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        for part in rest.chunks(1000) {
            rogue.tcp.write_all(part).await.unwrap();
        }
        rogue
    });
    let (got, ended) = read(&mut here).await;
    ended.unwrap();
    assert!(got == [b"onetwo", &largest[..], b"three"].concat());
    let _rogue = sending.await.unwrap();
    assert_eq!(here.read(&mut [0]).await.unwrap(), 0, "the end stays one");
}

#[tokio::test]
async fn an_end_that_nobody_has_announced_is_no_end() {
    for cut in [0, 1, 20] {
        let (mut here, mut rogue) = Rogue::connect().await;
        rogue.send(APPLICATION_DATA, b"so far").await;
        let next = sealed(&mut rogue.tx, APPLICATION_DATA, b"cut on the way");
        rogue.tcp.write_all(&next[..cut]).await.unwrap();
        drop(rogue);
        let (got, ended) = read(&mut here).await;
        assert_eq!(got, b"so far");
        let error = ended.expect_err("it was cut");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn new_keys_are_taken_when_asked_but_nothing_heaps_up_for_who_does_not_read() {
    let (mut here, mut there) = connect().await;
    for _ in 0..500 {
        there.get_mut().1.refresh_traffic_keys().unwrap();
        there.write_all(b"x").await.unwrap();
        there.flush().await.unwrap();
        let mut got = [0];
        here.read_exact(&mut got).await.unwrap();
        assert_eq!((got, here.unsent.len()), (*b"x", 0));
    }
    for word in [b"at last", b"no more"] {
        here.write_all(word).await.unwrap();
        let mut got = [0; 7];
        there.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, word);
    }
    // Without anything to say between them they are too many some day.
    for _ in 0..=VAIN_MAX {
        there.get_mut().1.refresh_traffic_keys().unwrap();
    }
    there.flush().await.unwrap();
    let (_, ended) = read(&mut here).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn keys_are_changed_before_they_are_worn_out() {
    let (mut here, mut rogue) = Rogue::connect().await;
    let Tls::Records(records) = &mut here.tls else {
        panic!("TLS 1.3");
    };
    (records.tx.count, rogue.rx.count) = (RECORDS_MAX - 1, RECORDS_MAX - 1);
    here.write_all(b"the last").await.unwrap();
    here.write_all(b"the first").await.unwrap();
    assert_eq!(rogue.hear().await, (APPLICATION_DATA, b"the last".to_vec()));
    let update = [&KEY_UPDATE[..], &[0]].concat();
    assert_eq!(rogue.hear().await, (HANDSHAKE, update));
    let mut record = vec![0; 100];
    let len = rogue.tcp.read(&mut record).await.unwrap();
    let opened = rogue.rx.open(&mut record[..len]).map(|_| ());
    assert_eq!(opened, Err(BAD_RECORD_MAC), "other keys");
    let Tls::Records(records) = &here.tls else {
        panic!("TLS 1.3");
    };
    assert_eq!(records.tx.count, 1, "counted anew");
}

#[tokio::test]
async fn the_end_is_announced_behind_all_that_waits() {
    let (mut here, mut rogue) = Rogue::connect().await;
    let mut sent = 0;
    while here.unsent.is_empty() {
        sent += here
            .write(&[7; PLAIN_LEN_MAX])
            .now_or_never()
            .unwrap()
            .unwrap();
    }
    let (mut raw, mut heard) = (Vec::new(), 0);
    // Until there is room for what comes last, before what waits has gone.
    loop {
        tokio::select! {
            biased;
            _ = here.tcp.writable() => break,
            read = rogue.tcp.read_buf(&mut raw) => assert!(read.unwrap() > 0),
        }
    }
    let (closed, read) = tokio::join!(here.shutdown(), rogue.tcp.read_to_end(&mut raw));
    closed.unwrap();
    read.unwrap();
    let (mut at, mut last) = (0, None);
    while let Some(record) = rogue.rx.open(&mut raw[at..]).unwrap() {
        at += record.len;
        if record.kind == APPLICATION_DATA {
            heard += record.content.len();
        }
        last = Some((record.kind, record.content.to_vec()));
    }
    let end = (ALERT, vec![1, CLOSE_NOTIFY]);
    assert_eq!((last, heard), (Some(end), sent));
}
