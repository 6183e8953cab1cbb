//! What one part of the world sends to another: handed over at the end of each window of time.

/// No message between parts takes less than this, in microseconds: parts can go on by themselves
/// for as long. Two access links and one network between them.
pub(crate) const WINDOW_US: u64 = 5_000;
/// Bits of a viewer's number that say where in its part it is.
const LOCAL_BITS: u32 = 24;

/// A viewer's number from the part that it is in and its place there.
pub(crate) const fn number(part: u32, local: u32) -> u32 {
    part << LOCAL_BITS | local
}

/// The part that a viewer is in.
pub(crate) const fn part_of(number: u32) -> usize {
    (number >> LOCAL_BITS) as usize
}

/// A viewer's place in its part.
pub(crate) const fn local_of(number: u32) -> u32 {
    number & ((1 << LOCAL_BITS) - 1)
}

/// An event that may deliver a message.
pub(crate) trait Framed {
    /// The same event, its message being at `index`.
    fn with_frame(self, index: u32) -> Self;
}

/// Events on their way from one part to another, with the messages that they refer to.
pub(crate) struct Letters<E> {
    list: Vec<Letter<E>>,
    bytes: Vec<u8>,
    earliest: u64,
}

/// One event. Its message, if there is one, is a span of the bytes beside.
struct Letter<E> {
    at: u64,
    event: E,
    span: Option<(u32, u32)>,
}

impl<E> Default for Letters<E> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            bytes: Vec::new(),
            earliest: u64::MAX,
        }
    }
}

impl<E: Framed> Letters<E> {
    pub(crate) fn send(&mut self, at: u64, event: E) {
        self.add(at, event, None);
    }

    /// Sends an event together with the message that it delivers.
    pub(crate) fn send_framed(&mut self, at: u64, event: E, frame: &[u8]) {
        let from = self.bytes.len() as u32;
        self.bytes.extend_from_slice(frame);
        self.add(at, event, Some((from, self.bytes.len() as u32)));
    }

    fn add(&mut self, at: u64, event: E, span: Option<(u32, u32)>) {
        self.earliest = self.earliest.min(at);
        self.list.push(Letter { at, event, span });
    }

    /// When the first of them arrives; never, if there are none.
    pub(crate) const fn earliest(&self) -> u64 {
        self.earliest
    }

    /// Hands all of them over in the order in which they were sent, and is empty again.
    pub(crate) fn open(&mut self, frames: &mut Frames, mut deliver: impl FnMut(u64, E)) {
        for letter in self.list.drain(..) {
            let event = match letter.span {
                None => letter.event,
                Some((from, to)) => {
                    let frame = frames.add(&self.bytes[from as usize..to as usize]);
                    letter.event.with_frame(frame)
                }
            };
            deliver(letter.at, event);
        }
        self.bytes.clear();
        self.earliest = u64::MAX;
    }
}

/// Messages that are no longer than this lie with what is known of them.
const SHORT_LEN: usize = 50;

/// The bytes of a message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    len: u8,
    short: [u8; SHORT_LEN],
    long: Option<Box<[u8]>>,
}

impl Message {
    fn new(bytes: &[u8]) -> Self {
        let mut message = Self {
            len: 0,
            short: [0; SHORT_LEN],
            long: None,
        };
        match message.short.get_mut(..bytes.len()) {
            Some(short) => {
                short.copy_from_slice(bytes);
                message.len = bytes.len() as u8;
            }
            None => message.long = Some(bytes.into()),
        }
        message
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.long {
            Some(long) => long,
            None => &self.short[..usize::from(self.len)],
        }
    }
}

/// Messages on their way, with the number of their readers. Those sent to several viewers are kept once.
#[derive(Default)]
pub(crate) struct Frames {
    list: Vec<(Message, u32)>,
    free: Vec<u32>,
}

impl Frames {
    /// Keeps a message for one reader.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> u32 {
        let frame = (Message::new(bytes), 1);
        match self.free.pop() {
            Some(index) => {
                self.list[index as usize] = frame;
                index
            }
            None => {
                self.list.push(frame);
                self.list.len() as u32 - 1
            }
        }
    }

    pub(crate) fn add_reader(&mut self, index: u32) {
        self.list[index as usize].1 += 1;
    }

    /// One reader takes the message.
    pub(crate) fn take(&mut self, index: u32) -> Message {
        let (message, readers) = &mut self.list[index as usize];
        *readers -= 1;
        if *readers > 0 {
            return message.clone();
        }
        self.free.push(index);
        let long = message.long.take();
        Message { long, ..*message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::event::Event;

    #[test]
    fn letters_keep_their_order_and_their_messages() {
        let (mut letters, mut frames) = (Letters::default(), Frames::default());
        letters.send(9, Event::Poll { node: 1 });
        letters.send_framed(7, Event::TrackerSays { node: 2, frame: 0 }, b"abc");
        letters.send_framed(8, Event::TrackerSays { node: 3, frame: 0 }, b"de");
        assert_eq!(letters.earliest(), 7);
        let mut got = Vec::new();
        letters.open(&mut frames, |at, event| got.push((at, event)));
        assert_eq!(got.iter().map(|g| g.0).collect::<Vec<_>>(), [9, 7, 8]);
        let Event::TrackerSays { frame, .. } = got[2].1 else {
            panic!("{:?}", got[2])
        };
        assert_eq!(frames.take(frame).bytes(), b"de");
        assert_eq!(letters.earliest(), u64::MAX);
    }

    #[test]
    fn messages_of_any_length_are_there_for_each_of_their_readers() {
        let mut frames = Frames::default();
        for len in [0, 1, SHORT_LEN, SHORT_LEN + 1, 5000] {
            let bytes = vec![len as u8; len];
            let index = frames.add(&bytes);
            frames.add_reader(index);
            let other = frames.add(b"other");
            assert_ne!(index, other);
            for _ in 0..2 {
                assert_eq!(frames.take(index).bytes(), bytes);
            }
            assert_eq!(frames.take(other).bytes(), b"other");
        }
        assert_eq!(frames.list.len(), 2, "places are used again");
    }

    #[test]
    fn a_number_names_a_part_and_a_place() {
        let number = number(7, 123_456);
        assert_eq!((part_of(number), local_of(number)), (7, 123_456));
    }
}
