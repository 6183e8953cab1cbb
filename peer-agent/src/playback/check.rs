//! Whether bytes are a media segment that a decoder could take.

const TS_PACKET: usize = 188;
const TS_SYNC: u8 = 0x47;

/// Whether the bytes are whole boxes with a fragment among them, or whole MPEG-TS packets, or
/// packed audio with an ID3 tag before it. `Err` says what is wrong.
pub(super) fn check_segment(bytes: &[u8]) -> Result<(), &'static str> {
    match bytes {
        [] => Err("it is empty"),
        [TS_SYNC, ..] => check_ts(bytes),
        [b'I', b'D', b'3', ..] | [0xff, 0xf0..=0xff, ..] => Ok(()),
        _ => {
            let kinds = boxes(bytes)?;
            let has = |kind: &[u8; 4]| kinds.contains(kind);
            if has(b"moof") && has(b"mdat") {
                Ok(())
            } else {
                Err("it has no fragment")
            }
        }
    }
}

/// Whether the bytes are an initialisation segment.
pub(super) fn check_init(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.first() == Some(&TS_SYNC) {
        return check_ts(bytes);
    }
    let kinds = boxes(bytes)?;
    if kinds.contains(b"moov") {
        Ok(())
    } else {
        Err("it has no moov box")
    }
}

fn check_ts(bytes: &[u8]) -> Result<(), &'static str> {
    let whole = bytes.len().is_multiple_of(TS_PACKET);
    let synced = bytes.chunks(TS_PACKET).all(|packet| packet[0] == TS_SYNC);
    if whole && synced {
        Ok(())
    } else {
        Err("it is not whole MPEG-TS packets")
    }
}

/// The types of the boxes at the top level.
fn boxes(bytes: &[u8]) -> Result<Vec<[u8; 4]>, &'static str> {
    let mut kinds = Vec::new();
    let mut at = 0usize;
    while at < bytes.len() {
        let head = bytes
            .get(at..at + 8)
            .ok_or("it ends within the head of a box")?;
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let size = match size {
            0 => bytes.len() - at,
            1 => {
                let large = bytes
                    .get(at + 8..at + 16)
                    .ok_or("it ends within the head of a box")?;
                let large = large
                    .iter()
                    .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
                usize::try_from(large).map_err(|_| "a box is too large")?
            }
            size => size as usize,
        };
        let end = at.checked_add(size).ok_or("a box is too large")?;
        if size < 8 || end > bytes.len() {
            return Err("a box does not end where it says");
        }
        kinds.push([head[4], head[5], head[6], head[7]]);
        at = end;
    }
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mp4_box(kind: &[u8; 4], len: usize) -> Vec<u8> {
        let mut bytes = ((len + 8) as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(kind);
        bytes.resize(len + 8, 0);
        bytes
    }

    #[test]
    fn fragments_and_packets_pass() {
        let fragment = [
            mp4_box(b"styp", 4),
            mp4_box(b"moof", 20),
            mp4_box(b"mdat", 99),
        ]
        .concat();
        assert_eq!(check_segment(&fragment), Ok(()));
        let mut packets = vec![0; TS_PACKET * 3];
        packets
            .iter_mut()
            .step_by(TS_PACKET)
            .for_each(|byte| *byte = TS_SYNC);
        assert_eq!(check_segment(&packets), Ok(()));
        let init = [mp4_box(b"ftyp", 4), mp4_box(b"moov", 4)].concat();
        assert_eq!(check_init(&init), Ok(()));
        assert!(check_segment(&init).is_err());
    }

    #[test]
    fn broken_ones_do_not() {
        let fragment = [mp4_box(b"moof", 20), mp4_box(b"mdat", 99)].concat();
        assert!(check_segment(&fragment[..fragment.len() - 1]).is_err());
        assert!(check_segment(&fragment[..4]).is_err());
        assert!(check_segment(&[]).is_err());
        assert!(check_segment(&[0, 0, 0, 2, 1, 2, 3, 4]).is_err());
        assert!(
            check_segment(&[
                0, 0, 0, 1, 1, 2, 3, 4, 255, 255, 255, 255, 255, 255, 255, 255
            ])
            .is_err()
        );
        assert!(check_segment(&[TS_SYNC; 189]).is_err());
        assert!(check_segment(b"<html>not found</html>").is_err());
    }
}
