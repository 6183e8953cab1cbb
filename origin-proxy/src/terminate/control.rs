//! What a playlist says of its server, when the proxy does what its origin cannot.

use crate::lowlatency::{attribute, milliseconds};

const TAG: &str = "#EXT-X-SERVER-CONTROL:";
const PART_INF: &str = "#EXT-X-PART-INF:";
/// Delta updates need this `EXT-X-VERSION` (draft-pantos-hls-rfc8216bis section 8), which is the origin's to
/// choose.
const VERSION_OF_DELTAS: u64 = 9;
/// Segments further than so many target durations from the edge may be skipped: the least that section
/// 4.4.3.8 allows.
const SKIP_TARGETS: u64 = 6;
/// How far players stay from the edge where the origin does not say, in parts (section 4.4.3.8 asks for two
/// at least, and recommends three).
const HOLD_BACK_PARTS: u64 = 3;

/// Whether the live media playlist `text` has parts, and a server that cannot hold requests back. One that
/// makes delta updates can.
pub(crate) fn is_needed(text: &str) -> bool {
    // Without these there is no pace to ask the origin at.
    part_target_ms(text).is_some()
        && target_ms(text).is_some()
        && !text.contains("#EXT-X-SKIP:")
        && value(text, TAG, "CAN-BLOCK-RELOAD") != Some("YES")
        && !text.lines().any(|line| line.trim_end() == "#EXT-X-ENDLIST")
}

/// `text` with the attributes of a server that holds requests back, and makes delta updates where the
/// playlist's version allows them. Attributes that the origin has stay, but for `CAN-BLOCK-RELOAD`; all else
/// stays as it is, byte for byte.
pub(crate) fn announce(text: &str) -> String {
    let missing = missing(text);
    let has_tag = text.lines().any(|line| line.starts_with(TAG));
    let mut out = String::with_capacity(text.len() + TAG.len() + missing.len() + 2);
    let mut is_done = false;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\r', '\n']);
        let end = &line[bare.len()..];
        if !is_done && !has_tag && bare.starts_with(PART_INF) {
            // The last line of a text may have no end.
            let end = if end.is_empty() { "\n" } else { end };
            out.extend([TAG, &missing, end, line]);
            is_done = true;
        } else if let Some(list) = bare.strip_prefix(TAG).filter(|_| !is_done) {
            let list = without_block_reload(list);
            let comma = if list.is_empty() { "" } else { "," };
            out.extend([TAG, &list, comma, &missing, end]);
            is_done = true;
        } else {
            out.push_str(line);
        }
    }
    out
}

/// From how far back on segments may be skipped, in milliseconds; none if delta updates are not offered.
pub(crate) fn skip_until_ms(text: &str) -> Option<u64> {
    if version(text) < VERSION_OF_DELTAS {
        return None;
    }
    value(text, TAG, "CAN-SKIP-UNTIL").and_then(milliseconds)
}

/// The attributes that the tag lacks.
fn missing(text: &str) -> String {
    let mut out = String::from("CAN-BLOCK-RELOAD=YES");
    let lacks = |name| value(text, TAG, name).is_none();
    if let Some(part_ms) = part_target_ms(text).filter(|_| lacks("PART-HOLD-BACK")) {
        out += &format!(",PART-HOLD-BACK={}", seconds(part_ms * HOLD_BACK_PARTS));
    }
    let is_versed = version(text) >= VERSION_OF_DELTAS;
    if let Some(target_ms) = target_ms(text).filter(|_| is_versed && lacks("CAN-SKIP-UNTIL")) {
        out += &format!(",CAN-SKIP-UNTIL={}", seconds(target_ms * SKIP_TARGETS));
    }
    out
}

/// An attribute list without `CAN-BLOCK-RELOAD`.
fn without_block_reload(list: &str) -> String {
    let Some(value) = attribute(list, "CAN-BLOCK-RELOAD") else {
        return list.into();
    };
    let kept = list.replacen(&format!("CAN-BLOCK-RELOAD={value}"), "", 1);
    kept.replacen(",,", ",", 1).trim_matches(',').into()
}

fn part_target_ms(text: &str) -> Option<u64> {
    value(text, PART_INF, "PART-TARGET").and_then(milliseconds)
}

fn target_ms(text: &str) -> Option<u64> {
    after(text, "#EXT-X-TARGETDURATION:").and_then(milliseconds)
}

fn version(text: &str) -> u64 {
    let version = after(text, "#EXT-X-VERSION:");
    version.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// What comes after `tag` in the first line that begins with it.
fn after<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(tag)).map(str::trim)
}

fn value<'a>(text: &'a str, tag: &str, name: &str) -> Option<&'a str> {
    attribute(after(text, tag)?, name)
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn playlist(version: u64, control: &str) -> String {
        format!(
            "#EXTM3U\r\n#EXT-X-VERSION:{version}\r\n#EXT-X-TARGETDURATION:2\r\n{control}\
             #EXT-X-PART-INF:PART-TARGET=0.5\r\n#EXT-X-PART:DURATION=0.5,URI=\"p\"\r\n"
        )
    }

    #[test]
    fn what_the_server_lacks_is_added_and_nothing_else_changes() {
        let skip = "CAN-SKIP-UNTIL=12.000";
        let hold = "PART-HOLD-BACK=1.500";
        for (version, control, expected) in [
            (
                9,
                "",
                format!("{TAG}CAN-BLOCK-RELOAD=YES,{hold},{skip}\r\n"),
            ),
            (6, "", format!("{TAG}CAN-BLOCK-RELOAD=YES,{hold}\r\n")),
            (
                10,
                "#EXT-X-SERVER-CONTROL:HOLD-BACK=6.0,PART-HOLD-BACK=1.2\r\n",
                format!("{TAG}HOLD-BACK=6.0,PART-HOLD-BACK=1.2,CAN-BLOCK-RELOAD=YES,{skip}\r\n"),
            ),
            (
                9,
                "#EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.2,CAN-BLOCK-RELOAD=NO,CAN-SKIP-UNTIL=24\r\n",
                format!("{TAG}PART-HOLD-BACK=1.2,CAN-SKIP-UNTIL=24,CAN-BLOCK-RELOAD=YES\r\n"),
            ),
        ] {
            let text = playlist(version, control);
            assert!(is_needed(&text));
            let announced = announce(&text);
            assert_eq!(announced, playlist(version, &expected));
            assert!(!is_needed(&announced));
            let is_offered = skip_until_ms(&announced).is_some();
            assert_eq!(is_offered, version >= 9, "{announced}");
        }
    }

    #[test]
    fn only_live_playlists_with_parts_need_it() {
        assert!(!is_needed("#EXTM3U\n#EXT-X-TARGETDURATION:2\n"));
        assert!(!is_needed(&playlist(9, "").replace("PART-TARGET=0.5", "")));
        assert!(!is_needed(&(playlist(9, "") + "#EXT-X-ENDLIST\r\n")));
        assert!(!is_needed(
            &(playlist(9, "") + "#EXT-X-SKIP:SKIPPED-SEGMENTS=6\r\n")
        ));
        let able = "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\r\n";
        assert!(!is_needed(&playlist(9, able)));
    }

    proptest! {
        #[test]
        fn all_other_lines_stay(
            text in "(#EXT-X-SERVER-CONTROL:|#EXT-X-PART-INF:|CAN-BLOCK-RELOAD=|PART-TARGET=|,|[a-z0-9.é]{1,4}|\r?\n){0,30}",
        ) {
            let announced = announce(&text);
            let others = |text: &str| -> Vec<String> {
                let lines = text.split_inclusive('\n').filter(|line| !line.starts_with(TAG));
                lines.map(Into::into).collect()
            };
            let has_tag = text.lines().any(|line| line.starts_with(TAG));
            if has_tag || text.lines().any(|line| line.starts_with(PART_INF)) {
                prop_assert_eq!(others(&announced).concat(), others(&text).concat());
            } else {
                prop_assert_eq!(announced, text);
            }
        }
    }
}
