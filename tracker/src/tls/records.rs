//! The records of a TLS 1.3 connection after its handshake (RFC 8446 section 5).
//!
//! rustls does handshakes, and hands over keys and the schedule of their updates; it would keep
//! about twice as many bytes of each connection for what comes after them. That is application data,
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
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// A key update, up to whether one is asked for in return (4.6.3).
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
/// Records under one key, below what AES-GCM is good for (5.5).
const RECORDS_MAX: u64 = 1 << 23;
/// Records in a row that bring nothing: they cost time, and quotas do not count them.
const VAIN_MAX: u8 = 32;

/// Why a connection ends: the alert that says so to the viewer (section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TLS alert {0}")]
pub(super) struct Alert(u8);

const UNEXPECTED_MESSAGE: Alert = Alert(10);
const BAD_RECORD_MAC: Alert = Alert(20);
const RECORD_OVERFLOW: Alert = Alert(22);
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
    tx: Half,
    /// Records in a row that brought nothing.
    vain: u8,
}

struct Half {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    count: u64,
}

impl Records {
    pub(super) fn new(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, Alert> {
        Ok(Self {
            kernel,
            rx: Half::new(secrets.rx)?,
            tx: Half::new(secrets.tx)?,
            vain: 0,
        })
    }

    /// Takes the first record of `input`: data goes to `plain`, what is to be answered to `reply`.
    ///
    /// # Errors
    /// The alert to end the connection with: the viewer broke the rules, or somebody on the way did.
    pub(super) fn open(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Opened, Alert> {
        let Some((header, rest)) = input.split_first_chunk_mut::<HEADER_LEN>() else {
            return Ok(Opened::Partial);
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != APPLICATION_DATA {
            return Err(UNEXPECTED_MESSAGE);
        }
        if len > CIPHER_LEN_MAX {
            return Err(RECORD_OVERFLOW);
        }
        let Some(sealed) = rest.get_mut(..len) else {
            return Ok(Opened::Partial);
        };
        let nonce = self.rx.next_nonce();
        let opened = self
            .rx
            .key
            .open_in_place(nonce, Aad::from(&*header), sealed);
        let padded: &[u8] = opened.map_err(|_| BAD_RECORD_MAC)?;
        // The kind stands behind the content, and zeros behind the kind.
        let end = padded.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or(UNEXPECTED_MESSAGE)?;
        let content = &padded[..end];
        if end > PLAIN_LEN_MAX {
            return Err(RECORD_OVERFLOW);
        }
        self.vain += 1;
        match (padded[end], content) {
            (APPLICATION_DATA, content) => {
                plain.extend_from_slice(content);
                if !content.is_empty() {
                    self.vain = 0;
                }
            }
            (ALERT, [_, CLOSE_NOTIFY]) => return Ok(Opened::Closed),
            (ALERT, [_, USER_CANCELED]) => {}
            (ALERT, _) => return Ok(Opened::Closed),
            (HANDSHAKE, [start @ .., asked @ (0 | 1)]) if *start == KEY_UPDATE => {
                let secrets = self.kernel.update_rx_secret();
                self.rx = Half::new(secrets.map_err(|_| INTERNAL_ERROR)?)?;
                if *asked == 1 {
                    self.update_keys(reply)?;
                }
            }
            _ => return Err(UNEXPECTED_MESSAGE),
        }
        if self.vain > VAIN_MAX {
            return Err(UNEXPECTED_MESSAGE);
        }
        Ok(Opened::Taken(HEADER_LEN + len))
    }

    /// Appends a record, or several, with application data.
    pub(super) fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Alert> {
        for part in data.chunks(PLAIN_LEN_MAX) {
            if self.tx.count >= RECORDS_MAX {
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
        self.tx = Half::new(secrets.map_err(|_| INTERNAL_ERROR)?)?;
        Ok(())
    }
}

impl Half {
    fn new((count, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Alert> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(INTERNAL_ERROR),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| INTERNAL_ERROR)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().map_err(|_| INTERNAL_ERROR)?,
            count,
        })
    }

    /// Each is used once: there are fewer records than numbers (5.3).
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, count) in nonce[NONCE_LEN - 8..]
            .iter_mut()
            .zip(self.count.to_be_bytes())
        {
            *byte ^= count;
        }
        self.count += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), Alert> {
        let len = (content.len() + 1 + TAG_LEN) as u16;
        let [high, low] = len.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        out.extend_from_slice(&header);
        let begin = out.len();
        out.extend_from_slice(content);
        out.push(kind);
        let nonce = self.next_nonce();
        let aad = Aad::from(&header);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, aad, &mut out[begin..]);
        out.extend_from_slice(tag.map_err(|_| INTERNAL_ERROR)?.as_ref());
        Ok(())
    }
}
