//! The records of a TLS 1.3 connection after its handshake (RFC 8446 section 5).
//!
//! rustls does handshakes, and hands over keys and the schedule of their updates; it would keep
//! three times as many bytes of each connection for what comes after them. That is application data,
//! key updates, and the end.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{
    ConnectionTrafficSecrets, ExtractedSecrets, kernel::KernelConnection,
    server::ServerConnectionData,
};

const HEADER_LEN: usize = 5;
const TAG_LEN: usize = 16;
/// Most plaintext of one record.
pub(super) const PLAIN_LEN_MAX: usize = 16 * 1024;
/// Most ciphertext of one record (5.2).
const CIPHER_LEN_MAX: usize = PLAIN_LEN_MAX + 256;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;
/// A key update, up to whether one is asked for in return (4.6.3).
pub(super) const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
pub(super) const CLOSE_NOTIFY: u8 = 0;
pub(super) const USER_CANCELED: u8 = 90;
/// Records under one key, below what AES-GCM is good for (5.5).
pub(super) const RECORDS_MAX: u64 = 1 << 23;
/// Records in a row that bring nothing: they cost time, and quotas do not count them.
pub(super) const VAIN_MAX: u8 = 32;

/// Why a connection ends: the alert that says so to the viewer (section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TLS alert {0}")]
pub(super) struct Alert(pub(super) u8);

pub(super) const UNEXPECTED_MESSAGE: Alert = Alert(10);
pub(super) const BAD_RECORD_MAC: Alert = Alert(20);
pub(super) const RECORD_OVERFLOW: Alert = Alert(22);
pub(super) const ILLEGAL_PARAMETER: Alert = Alert(47);
const INTERNAL_ERROR: Alert = Alert(80);

/// What is at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// A record of this length, which has been taken.
    Taken(usize),
    /// A record that has not come completely.
    Partial,
    /// The viewer will send nothing more.
    Closed,
}

/// Both directions of an established connection.
pub(super) struct Records {
    kernel: KernelConnection<ServerConnectionData>,
    rx: Half,
    pub(super) tx: Half,
    /// Records in a row that brought nothing.
    vain: u8,
    /// The viewer wants us to take new keys. We do before we send anything again, not at once: who
    /// asks time and again without reading would have us heap up answers.
    update_owed: bool,
}

/// One direction. It keeps the key, not what the cipher makes of it (544 bytes): making that anew for
/// each record takes a third of a microsecond, of the several that a system call takes anyway.
pub(super) struct Half {
    /// Overwritten when it goes.
    secrets: ConnectionTrafficSecrets,
    pub(super) count: u64,
}

/// A record that was opened.
pub(super) struct Record<'a> {
    pub(super) kind: u8,
    pub(super) content: &'a [u8],
    /// With header and tag.
    pub(super) len: usize,
}

impl Records {
    pub(super) fn new(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ServerConnectionData>,
    ) -> Self {
        Self {
            kernel,
            rx: Half::new(secrets.rx),
            tx: Half::new(secrets.tx),
            vain: 0,
            update_owed: false,
        }
    }

    /// Takes the first record of `input`; data goes to `plain`.
    ///
    /// # Errors
    /// The alert to end the connection with: the viewer broke the rules, or somebody on the way did.
    pub(super) fn open(&mut self, input: &mut [u8], plain: &mut Vec<u8>) -> Result<Opened, Alert> {
        let Some(record) = self.rx.open(input)? else {
            return Ok(Opened::Partial);
        };
        let len = record.len;
        self.vain += 1;
        match (record.kind, record.content) {
            (APPLICATION_DATA, content) => {
                plain.extend_from_slice(content);
                if !content.is_empty() {
                    self.vain = 0;
                }
            }
            (ALERT, [_, USER_CANCELED]) => {}
            // All others end it, the one that says so among them (6.2).
            (ALERT, [_, _]) => return Ok(Opened::Closed),
            (HANDSHAKE, [start @ .., asked]) if *start == KEY_UPDATE => {
                if *asked > 1 {
                    return Err(ILLEGAL_PARAMETER);
                }
                self.update_owed |= *asked == 1;
                let secrets = self.kernel.update_rx_secret();
                self.rx = Half::new(secrets.map_err(|_| INTERNAL_ERROR)?);
            }
            _ => return Err(UNEXPECTED_MESSAGE),
        }
        if self.vain > VAIN_MAX {
            return Err(UNEXPECTED_MESSAGE);
        }
        Ok(Opened::Taken(len))
    }

    /// Appends a record, or several, with application data.
    pub(super) fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Alert> {
        for part in data.chunks(PLAIN_LEN_MAX) {
            if self.update_owed || self.tx.count >= RECORDS_MAX {
                self.update_keys(out)?;
            }
            self.tx.seal(APPLICATION_DATA, part, out)?;
        }
        Ok(())
    }

    /// Appends the word that nothing more comes.
    pub(super) fn seal_close(&mut self, out: &mut Vec<u8>) -> Result<(), Alert> {
        self.tx.seal(ALERT, &[1, CLOSE_NOTIFY], out)
    }

    /// Appends the reason for the end.
    pub(super) fn seal_alert(&mut self, alert: Alert, out: &mut Vec<u8>) -> Result<(), Alert> {
        self.tx.seal(ALERT, &[2, alert.0], out)
    }

    fn update_keys(&mut self, out: &mut Vec<u8>) -> Result<(), Alert> {
        let [a, b, c, d] = KEY_UPDATE;
        self.tx.seal(HANDSHAKE, &[a, b, c, d, 0], out)?;
        let secrets = self.kernel.update_tx_secret();
        self.tx = Half::new(secrets.map_err(|_| INTERNAL_ERROR)?);
        self.update_owed = false;
        Ok(())
    }
}

impl Half {
    pub(super) fn new((count, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        Self { secrets, count }
    }

    /// The key, and the number that no other record under this key has: there are fewer records than
    /// numbers (5.3).
    fn next(&mut self) -> Result<(LessSafeKey, Nonce), Alert> {
        let (algorithm, key, iv) = match &self.secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(INTERNAL_ERROR),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| INTERNAL_ERROR)?;
        let mut nonce: [u8; NONCE_LEN] = iv.as_ref().try_into().map_err(|_| INTERNAL_ERROR)?;
        let counted = nonce[NONCE_LEN - 8..].iter_mut();
        for (byte, count) in counted.zip(self.count.to_be_bytes()) {
            *byte ^= count;
        }
        self.count += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        Ok((LessSafeKey::new(key), nonce))
    }

    /// The first record of `input`; `None` where it has not come completely.
    pub(super) fn open<'a>(&mut self, input: &'a mut [u8]) -> Result<Option<Record<'a>>, Alert> {
        let Some((header, rest)) = input.split_first_chunk_mut::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        // The handshake's other kinds, and what is not encrypted, come no more.
        if header[0] != APPLICATION_DATA {
            return Err(UNEXPECTED_MESSAGE);
        }
        if len > CIPHER_LEN_MAX {
            return Err(RECORD_OVERFLOW);
        }
        let Some(sealed) = rest.get_mut(..len) else {
            return Ok(None);
        };
        let (key, nonce) = self.next()?;
        let opened = key.open_in_place(nonce, Aad::from(&*header), sealed);
        let padded: &[u8] = opened.map_err(|_| BAD_RECORD_MAC)?;
        if padded.len() > PLAIN_LEN_MAX + 1 {
            return Err(RECORD_OVERFLOW);
        }
        // The kind stands behind the content, and zeros behind the kind (5.4).
        let end = padded.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or(UNEXPECTED_MESSAGE)?;
        Ok(Some(Record {
            kind: padded[end],
            content: &padded[..end],
            len: HEADER_LEN + len,
        }))
    }

    pub(super) fn seal(
        &mut self,
        kind: u8,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Alert> {
        let len = (content.len() + 1 + TAG_LEN) as u16;
        let [high, low] = len.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        out.extend_from_slice(&header);
        let begin = out.len();
        out.extend_from_slice(content);
        out.push(kind);
        let (key, nonce) = self.next()?;
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&header), &mut out[begin..]);
        out.extend_from_slice(tag.map_err(|_| INTERNAL_ERROR)?.as_ref());
        Ok(())
    }
}
