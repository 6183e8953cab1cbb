//! The primitives of the wire formats.

use alloc::vec::Vec;

use thiserror::Error;

/// Why bytes could not be read. The fault is the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More bytes were announced or needed than are there.
    #[error("the message ends early")]
    Truncated,
    /// Bytes are left over after the last field.
    #[error("the message has {0} bytes too many")]
    Trailing(usize),
    /// The first byte names no message.
    #[error("unknown message kind {0:#04x}")]
    UnknownKind(u8),
    /// A list, text or number is over its limit.
    #[error("the field `{0}` is out of range")]
    OutOfRange(&'static str),
}

/// Reads fields in order.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader over one whole message.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// How many bytes are left.
    pub const fn left(&self) -> usize {
        self.0.len()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], as all readers.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A `u16` length and that many bytes, at most `max`.
    ///
    /// # Errors
    /// [`DecodeError::OutOfRange`] naming `field`, if there are more.
    pub fn blob(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(DecodeError::OutOfRange(field));
        }
        self.bytes(len)
    }

    /// A blob that is UTF-8.
    pub fn text(&mut self, field: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        core::str::from_utf8(self.blob(field, max)?).map_err(|_| DecodeError::OutOfRange(field))
    }

    /// A `u8` count of list items, at most `max`.
    pub fn count(&mut self, field: &'static str, max: usize) -> Result<usize, DecodeError> {
        let count = usize::from(self.u8()?);
        if count > max {
            return Err(DecodeError::OutOfRange(field));
        }
        Ok(count)
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`], if anything is left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// Writes fields in order, into a buffer of its own or one that is used again.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends to `buffer`.
    pub const fn onto(buffer: Vec<u8>) -> Self {
        Self(buffer)
    }

    /// The buffer.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// A `u16` length and the bytes; cut at 65,535, which no limit reaches.
    pub fn blob(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(usize::from(u16::MAX));
        self.u16(len as u16);
        self.bytes(&bytes[..len]);
    }
}
