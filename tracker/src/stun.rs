//! The embedded STUN server: tells a viewer the address that the world sees (RFC 8489, Binding).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio::net::UdpSocket;

use crate::{metrics::Counters, quota::Bucket};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER_LEN: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Attributes below this one must be understood or refused.
const OPTIONAL_FROM: u16 = 0x8000;
/// Attributes that must be understood and change nothing: of credentials that nobody needs here,
/// and of ICE.
const HARMLESS: [u16; 8] = [
    0x0006, 0x0008, 0x001c, 0x0014, 0x0015, 0x001d, 0x0024, 0x0025,
];
/// Longest request that is read, in bytes.
const REQUEST_LEN_MAX: usize = 548;
/// Unknown attributes that an error names.
const UNKNOWN_MAX: usize = 4;

/// Answers until the task is dropped.
pub(crate) async fn serve(socket: UdpSocket, answers_per_s: u32, counters: Arc<Counters>) {
    let mut bucket = Bucket::full(answers_per_s, Instant::now());
    let mut request = [0; REQUEST_LEN_MAX];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut request).await else {
            // On some systems an earlier answer's "port unreachable" is reported here.
            tokio::task::yield_now().await;
            continue;
        };
        let Some(answer) = answer(&request[..len], from) else {
            Counters::add(&counters.stun_ignored);
            continue;
        };
        if !bucket.take(answers_per_s, answers_per_s, Instant::now()) {
            Counters::add(&counters.stun_ignored);
            continue;
        }
        Counters::add(&counters.stun_answers);
        if let Err(error) = socket.send_to(&answer, from).await {
            tracing::debug!(%error, %from, "STUN answer could not be sent");
        }
    }
}

/// The answer to a datagram; `None` if it is no Binding request.
pub(crate) fn answer(request: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let (header, attributes) = request.split_at_checked(HEADER_LEN)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if kind != BINDING_REQUEST || header[4..8] != COOKIE || len != attributes.len() || len % 4 != 0
    {
        return None;
    }
    let transaction = &header[8..HEADER_LEN];
    let unknown = unknown_attributes(attributes)?;
    if unknown.is_empty() {
        let value = xor_address(from, transaction);
        return Some(message(
            BINDING_SUCCESS,
            transaction,
            &[(XOR_MAPPED_ADDRESS, value)],
        ));
    }
    let mut error = vec![0, 0, 4, 20];
    error.extend_from_slice(b"Unknown Attribute   ");
    let list = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    Some(message(
        BINDING_ERROR,
        transaction,
        &[(ERROR_CODE, error), (UNKNOWN_ATTRIBUTES, list)],
    ))
}

/// The attributes that would have to be understood; `None` if they are malformed.
fn unknown_attributes(mut rest: &[u8]) -> Option<Vec<u16>> {
    let mut unknown = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        rest = tail.get(len.next_multiple_of(4)..)?;
        let understood = kind >= OPTIONAL_FROM || HARMLESS.contains(&kind);
        if !understood && unknown.len() < UNKNOWN_MAX {
            unknown.push(kind);
        }
    }
    Some(unknown)
}

fn xor_address(from: SocketAddr, transaction: &[u8]) -> Vec<u8> {
    let port = from.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let (family, octets) = match from.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mask = COOKIE.iter().chain(transaction);
    let mut value = vec![0, family];
    value.extend_from_slice(&port.to_be_bytes());
    value.extend(octets.iter().zip(mask).map(|(octet, mask)| octet ^ mask));
    value
}

fn message(kind: u16, transaction: &[u8], attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&(value.len() as u16).to_be_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut message = kind.to_be_bytes().to_vec();
    message.extend_from_slice(&(body.len() as u16).to_be_bytes());
    message.extend_from_slice(&COOKIE);
    message.extend_from_slice(transaction);
    message.extend_from_slice(&body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: [u8; 12] = [
        0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    ];

    #[test]
    fn addresses_are_masked_as_in_the_vectors_of_rfc_5769() {
        let v4 = xor_address("192.0.2.1:32853".parse().unwrap(), &TRANSACTION);
        assert_eq!(v4, [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let from = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";
        let v6 = xor_address(from.parse().unwrap(), &TRANSACTION);
        assert_eq!(
            v6,
            [
                0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4,
                0xb5, 0xbe, 0xd2, 0xb9, 0xd9
            ]
        );
    }

    #[test]
    fn requests_are_answered_and_everything_else_is_ignored() {
        let from = "192.0.2.1:32853".parse().unwrap();
        let request = message(BINDING_REQUEST, &TRANSACTION, &[(0x8022, b"x".to_vec())]);
        let reply = answer(&request, from).unwrap();
        assert_eq!(&reply[..2], &BINDING_SUCCESS.to_be_bytes());
        assert_eq!(&reply[8..20], &TRANSACTION);
        let strange = message(BINDING_REQUEST, &TRANSACTION, &[(0x0077, vec![])]);
        let reply = answer(&strange, from).unwrap();
        assert_eq!(&reply[..2], &BINDING_ERROR.to_be_bytes());
        assert!(reply.ends_with(&[0x00, 0x77, 0, 0]));
        let cut = [&request[..], &[0x00, 0x20, 0x00, 0x10]].concat();
        for bad in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n..",
            &request[..24],
            &cut,
            &reply,
        ] {
            assert_eq!(answer(bad, from), None);
        }
        for len in 0..request.len() {
            let _ = answer(&request[..len], from);
        }
    }
}
