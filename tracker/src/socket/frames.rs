//! The frames of RFC 6455, without input and output.

use std::{io::Cursor, ops::ControlFlow};

use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// Largest payload of a control frame (section 5.5).
const CONTROL_LEN_MAX: usize = 125;

/// What a frame, or several together, say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// A part of a message that is not whole yet. Parts are told because they cost as much as whole
    /// messages, the empty ones too.
    Part(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// The other side closes.
    Close,
}

/// How the other side broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    Protocol,
    NotUtf8,
    TooLarge,
}

/// Takes bytes as they come. Idle connections keep one pointer.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    kept: Option<Box<Kept>>,
}

/// What is incomplete.
#[derive(Debug, Default)]
struct Kept {
    /// The beginning of a frame.
    frame: Vec<u8>,
    /// The fragments of a message so far.
    message: Option<Fragments>,
}

#[derive(Debug)]
struct Fragments {
    text: bool,
    bytes: Vec<u8>,
}

impl Violation {
    /// The close code (section 7.4.1).
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::TooLarge => 1009,
        }
    }
}

impl Decoder {
    /// Reads the frames in `bytes`, which are unmasked in place; what is incomplete is kept. Stops
    /// where `on` breaks; what lies behind is kept too, and comes first when it is fed again. After a
    /// violation nothing more may be fed.
    pub(crate) fn feed(
        &mut self,
        bytes: &mut [u8],
        message_len_max: usize,
        on: &mut dyn FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        let begun = self
            .kept
            .as_mut()
            .map(|kept| std::mem::take(&mut kept.frame));
        let flow = match begun.filter(|begun| !begun.is_empty()) {
            Some(mut joined) => {
                joined.extend_from_slice(bytes);
                let (used, flow) = self.scan(&mut joined, message_len_max, on)?;
                if used == 0 {
                    self.kept.get_or_insert_default().frame = joined;
                } else {
                    self.keep(&joined[used..]);
                }
                flow
            }
            None => {
                let (used, flow) = self.scan(bytes, message_len_max, on)?;
                self.keep(&bytes[used..]);
                flow
            }
        };
        if let Some(kept) = &self.kept
            && kept.frame.is_empty()
            && kept.message.is_none()
        {
            self.kept = None;
        }
        Ok(flow)
    }

    /// Whether a frame or message is incomplete.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.kept.is_some()
    }

    fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.kept.get_or_insert_default().frame = rest.to_vec();
        }
    }

    /// Bytes of whole frames that were used.
    fn scan(
        &mut self,
        bytes: &mut [u8],
        message_len_max: usize,
        on: &mut dyn FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Result<(usize, ControlFlow<()>), Violation> {
        let mut used = 0;
        while used < bytes.len() {
            let mut cursor = Cursor::new(&bytes[used..]);
            let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Protocol)?;
            let Some((header, len)) = parsed else {
                break;
            };
            let begin = used + cursor.position() as usize;
            let mask = check(&header, len, cursor.position())?;
            let len = self.check_len(&header, len, message_len_max)?;
            let Some(payload) = bytes.get_mut(begin..begin + len) else {
                break;
            };
            unmask(payload, mask);
            used = begin + len;
            if self.take_frame(&header, payload, on)?.is_break() {
                return Ok((used, ControlFlow::Break(())));
            }
        }
        Ok((used, ControlFlow::Continue(())))
    }

    fn check_len(&self, header: &FrameHeader, len: u64, max: usize) -> Result<usize, Violation> {
        let fragments = self.kept.as_ref().and_then(|kept| kept.message.as_ref());
        let so_far = match header.opcode {
            OpCode::Data(_) => fragments.map_or(0, |fragments| fragments.bytes.len()),
            OpCode::Control(_) => 0,
        };
        let len = usize::try_from(len).map_err(|_| Violation::TooLarge)?;
        match so_far.checked_add(len) {
            Some(sum) if sum <= max => Ok(len),
            _ => Err(Violation::TooLarge),
        }
    }

    fn take_frame(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        on: &mut dyn FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        let data = match header.opcode {
            OpCode::Control(Control::Ping) => return Ok(on(Frame::Ping(payload))),
            OpCode::Control(Control::Pong) => return Ok(on(Frame::Pong)),
            OpCode::Control(_) => {
                check_close(payload)?;
                return Ok(on(Frame::Close));
            }
            OpCode::Data(data) => data,
        };
        let fragments = self.kept.as_mut().and_then(|kept| kept.message.take());
        let fragments = match (data, fragments) {
            (Data::Continue, Some(mut fragments)) => {
                fragments.bytes.extend_from_slice(payload);
                fragments
            }
            (Data::Text | Data::Binary, None) => {
                let text = data == Data::Text;
                if header.is_final {
                    return whole(text, payload, on);
                }
                let bytes = payload.to_vec();
                Fragments { text, bytes }
            }
            _ => return Err(Violation::Protocol),
        };
        if header.is_final {
            return whole(fragments.text, &fragments.bytes, on);
        }
        self.kept.get_or_insert_default().message = Some(fragments);
        Ok(on(Frame::Part(payload)))
    }
}

fn whole(
    text: bool,
    payload: &[u8],
    on: &mut dyn FnMut(Frame<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    if !text {
        return Ok(on(Frame::Binary(payload)));
    }
    let text = std::str::from_utf8(payload).map_err(|_| Violation::NotUtf8)?;
    Ok(on(Frame::Text(text)))
}

/// What section 5 demands of every frame of a client. The mask.
fn check(header: &FrameHeader, len: u64, header_len: u64) -> Result<[u8; 4], Violation> {
    let reserved = header.rsv1 || header.rsv2 || header.rsv3;
    let control = matches!(header.opcode, OpCode::Control(_));
    let bad_control = control && (!header.is_final || len > CONTROL_LEN_MAX as u64);
    let not_minimal = header.len(len) as u64 != header_len;
    match header.mask {
        Some(mask) if !reserved && !bad_control && !not_minimal => Ok(mask),
        _ => Err(Violation::Protocol),
    }
}

/// The content of a close frame: nothing, or a code that may be sent, and a reason in UTF-8.
fn check_close(payload: &[u8]) -> Result<(), Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(())
        } else {
            Err(Violation::Protocol)
        };
    };
    if !matches!(u16::from_be_bytes(*code), 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol);
    }
    std::str::from_utf8(reason).map_or(Err(Violation::NotUtf8), |_| Ok(()))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    if wide == 0 {
        return;
    }
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the header of a whole message or control frame of the server's.
pub(crate) fn write_header(opcode: OpCode, len: usize, out: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    // Writing into memory does not fail.
    let _ = header.format(len as u64, out);
}

/// Appends a close frame.
pub(crate) fn write_close(code: u16, out: &mut Vec<u8>) {
    write_header(OpCode::Control(Control::Close), 2, out);
    out.extend_from_slice(&code.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1000;

    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | len as u8),
            len @ 126..65536 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        let masked = payload.iter().zip(mask.into_iter().cycle());
        bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// What comes out when `bytes` come in pieces of `step`.
    fn read(bytes: &[u8], step: usize) -> (Vec<String>, Result<(), Violation>) {
        let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(step) {
            let fed = decoder.feed(&mut piece.to_vec(), MAX, &mut |frame| {
                seen.push(format!("{frame:?}"));
                ControlFlow::Continue(())
            });
            if let Err(violation) = fed {
                return (seen, Err(violation));
            }
        }
        assert!(!decoder.is_waiting(), "the last frame is incomplete");
        (seen, Ok(()))
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let mask = [0x6d, 0xb6, 0xb2, 0x80];
        let long = "é".repeat(200);
        let bytes = [
            frame(0x81, b"one", mask),
            frame(0x82, &[7; 130], [1, 0, 0, 0]),
            frame(0x01, &long.as_bytes()[..3], mask),
            frame(0x89, b"ping", mask),
            frame(0x00, &long.as_bytes()[3..9], mask),
            frame(0x80, &long.as_bytes()[9..], mask),
            frame(0x8a, b"", [0; 4]),
            frame(0x88, &[&1000_u16.to_be_bytes()[..], b"bye"].concat(), mask),
        ]
        .concat();
        let expected = [
            format!("{:?}", Frame::Text("one")),
            format!("{:?}", Frame::Binary(&[7; 130])),
            format!("{:?}", Frame::Part(&long.as_bytes()[..3])),
            format!("{:?}", Frame::Ping(b"ping")),
            format!("{:?}", Frame::Part(&long.as_bytes()[3..9])),
            format!("{:?}", Frame::Text(&long)),
            "Pong".into(),
            "Close".into(),
        ];
        for step in [1, 2, 3, 7, 100, bytes.len()] {
            assert_eq!(
                read(&bytes, step),
                (expected.to_vec(), Ok(())),
                "step {step}"
            );
        }
    }

    #[test]
    fn violations_are_told_apart() {
        let mask = [1, 2, 3, 4];
        let unmasked = vec![0x81, 1, b'x'];
        let not_minimal = vec![0x81, 0x80 | 126, 0, 1, 0, 0, 0, 0, b'x'];
        let giant = vec![
            0x82,
            0x80 | 127,
            0x7f,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ];
        let fragments = [frame(0x02, &[0; 600], mask), frame(0x80, &[0; 401], mask)].concat();
        let twice = [frame(0x01, b"a", mask), frame(0x81, b"b", mask)].concat();
        for (bytes, expected) in [
            (unmasked, Violation::Protocol),
            (not_minimal, Violation::Protocol),
            (frame(0xc1, b"rsv1", mask), Violation::Protocol),
            (frame(0x83, b"", mask), Violation::Protocol),
            (frame(0x8b, b"", mask), Violation::Protocol),
            (frame(0x09, b"fragmented ping", mask), Violation::Protocol),
            (frame(0x89, &[0; 126], mask), Violation::Protocol),
            (
                frame(0x80, b"nothing to continue", mask),
                Violation::Protocol,
            ),
            (twice, Violation::Protocol),
            (frame(0x88, &[3], mask), Violation::Protocol),
            (
                frame(0x88, &1005_u16.to_be_bytes(), mask),
                Violation::Protocol,
            ),
            (frame(0x88, &[3, 0xe8, 0xff], mask), Violation::NotUtf8),
            (frame(0x81, &[b'a', 0xff], mask), Violation::NotUtf8),
            (frame(0x81, &[0xed, 0xa0, 0x80], mask), Violation::NotUtf8),
            (frame(0x82, &[0; MAX + 1], mask), Violation::TooLarge),
            (giant, Violation::TooLarge),
            (fragments, Violation::TooLarge),
        ] {
            assert_eq!(read(&bytes, bytes.len()).1, Err(expected), "{bytes:?}");
            assert_eq!(read(&bytes, 1).1, Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_has_come() {
        let mut head = frame(0x82, &[0; MAX + 1], [9; 4])[..8].to_vec();
        let fed = Decoder::default().feed(&mut head, MAX, &mut |_| ControlFlow::Continue(()));
        assert_eq!(fed, Err(Violation::TooLarge));
    }

    #[test]
    fn idle_decoders_keep_nothing() {
        let mut decoder = Decoder::default();
        let bytes = frame(0x81, &[b'x'; 900], [5; 4]);
        for half in [&bytes[..400], &bytes[400..]] {
            let fed = decoder.feed(&mut half.to_vec(), MAX, &mut |_| ControlFlow::Continue(()));
            assert_eq!(fed, Ok(ControlFlow::Continue(())));
        }
        assert!(!decoder.is_waiting());
        assert_eq!(size_of::<Decoder>(), size_of::<usize>());
    }

    #[test]
    fn a_break_stops_the_reading() {
        let mut bytes = [frame(0x81, b"a", [0; 4]), frame(0x81, b"b", [0; 4])].concat();
        let mut count = 0;
        let fed = Decoder::default().feed(&mut bytes, MAX, &mut |_| {
            count += 1;
            ControlFlow::Break(())
        });
        assert_eq!((fed, count), (Ok(ControlFlow::Break(())), 1));
    }

    #[test]
    fn headers_are_what_the_rfc_says() {
        let mut out = Vec::new();
        write_header(OpCode::Data(Data::Text), 126, &mut out);
        write_close(1001, &mut out);
        assert_eq!(out, [0x81, 126, 0, 126, 0x88, 2, 3, 0xe9]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_a_violation(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1..50_usize) {
            // Most random first bytes are refused at once: make the beginning plausible.
            if let [first, second, ..] = bytes.as_mut_slice() {
                *first &= 0x8f;
                *second |= 0x80;
            }
            let mut decoder = Decoder::default();
            for piece in bytes.chunks(step) {
                let fed = decoder.feed(&mut piece.to_vec(), MAX, &mut |_| ControlFlow::Continue(()));
                if fed.is_err() {
                    break;
                }
                let kept = decoder.kept.as_ref().map_or(0, |kept| {
                    kept.frame.len() + kept.message.as_ref().map_or(0, |m| m.bytes.len())
                });
                prop_assert!(kept <= 2 * (MAX + 14));
            }
        }
    }
}
