//! What players say of themselves with their requests (CTA-5004, Common Media Client Data).

use std::borrow::Cow;

use http::HeaderMap;

/// What of it is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cmcd {
    /// The player's session.
    pub(crate) session: Option<String>,
    /// Media in the buffer, in milliseconds.
    pub(crate) buffer_ms: Option<u64>,
    /// Measured throughput, in kbit/s.
    pub(crate) throughput_kbps: Option<u64>,
    /// Playback stood still since the last request.
    pub(crate) is_starved: bool,
    /// Playback is starting, seeking or recovering.
    pub(crate) is_startup: bool,
}

/// The four headers that it can come in.
const HEADERS: [&str; 4] = ["cmcd-object", "cmcd-request", "cmcd-session", "cmcd-status"];
const HEADERS_PREFIX: &str = "cmcd-";
/// No more is read of one request, in bytes.
const TEXT_LEN_MAX: usize = 4096;
const SESSION_LEN_MAX: usize = 64;

impl Cmcd {
    /// Of the `CMCD` argument of a query, or of the headers; `None` if there is neither.
    pub(crate) fn read(query: Option<&str>, headers: &HeaderMap) -> Option<Self> {
        let argument = query.and_then(|query| {
            let mut arguments = query.split('&');
            arguments.find_map(|argument| argument.strip_prefix("CMCD="))
        });
        let mut out = Self::default();
        let mut is_there = false;
        if let Some(text) = argument.filter(|text| text.len() <= TEXT_LEN_MAX) {
            is_there = true;
            out.take(&decode(text));
        }
        let is_one = |name: &str| name.starts_with(HEADERS_PREFIX) && HEADERS.contains(&name);
        for (name, value) in headers {
            let value = Some(value).filter(|_| is_one(name.as_str()));
            let value = value.and_then(|value| value.to_str().ok());
            if let Some(text) = value.filter(|text| text.len() <= TEXT_LEN_MAX) {
                is_there = true;
                out.take(text);
            }
        }
        is_there.then_some(out)
    }

    fn take(&mut self, text: &str) {
        for pair in split_unquoted(text) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let number = || least_number(value);
            match key.trim() {
                "bl" => self.buffer_ms = number(),
                "mtp" => self.throughput_kbps = number(),
                "bs" => self.is_starved = value != "false",
                "su" => self.is_startup = value != "false",
                "sid" => {
                    let text = value.trim_matches('"');
                    self.session = Some(text.chars().take(SESSION_LEN_MAX).collect());
                }
                _ => {}
            }
        }
    }
}

/// A number, or the least one of a list of version 2, which has one for each kind of media: `(2100;v 1800;a)`.
fn least_number(value: &str) -> Option<u64> {
    let value = value.trim();
    let Some(list) = value
        .strip_prefix('(')
        .and_then(|list| list.strip_suffix(')'))
    else {
        return value.parse().ok();
    };
    let items = list.split_ascii_whitespace();
    let numbers = items.map(|item| item.split(';').next().unwrap_or(item).parse().ok());
    numbers.collect::<Option<Vec<u64>>>()?.into_iter().min()
}

/// The parts between commas that are not within quotes.
fn split_unquoted(text: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    })
}

/// Percent-decoding; what makes no sense stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let is_hex = |text: &&str| text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let digits = digits.filter(is_hex);
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn query_and_headers_say_the_same() {
        let query = "a=b&CMCD=bl%3D2100%2Cbs%2Cmtp%3D25400%2Csid%3D%226e2f%2Cb550%22%2Csu%3Dfalse";
        let mut headers = HeaderMap::new();
        headers.insert("cmcd-request", "bl=2100,mtp=25400".parse().unwrap());
        headers.insert("cmcd-status", "bs".parse().unwrap());
        headers.insert("cmcd-session", "sid=\"6e2f,b550\"".parse().unwrap());
        let expected = Cmcd {
            session: Some("6e2f,b550".into()),
            buffer_ms: Some(2100),
            throughput_kbps: Some(25_400),
            is_starved: true,
            is_startup: false,
        };
        assert_eq!(
            Cmcd::read(Some(query), &HeaderMap::new()),
            Some(expected.clone())
        );
        assert_eq!(Cmcd::read(None, &headers), Some(expected));
        assert_eq!(Cmcd::read(Some("cmcd=1"), &HeaderMap::new()), None);
    }

    #[test]
    fn of_lists_the_least_counts() {
        for (text, buffer_ms) in [
            ("bl=2100", Some(2100)),
            ("bl=(2100;v%201800;a)", Some(1800)),
            ("bl=(2100)", Some(2100)),
            ("bl=()", None),
            ("bl=(2100;v%20much;a)", None),
            ("bl=2100;v)", None),
        ] {
            let read = Cmcd::read(Some(&format!("CMCD={text}")), &HeaderMap::new());
            assert_eq!(read.unwrap().buffer_ms, buffer_ms, "{text}");
        }
    }

    #[test]
    fn what_is_no_escape_stays_as_it_is() {
        for (text, said) in [
            ("a%2Cb", "a,b"),
            ("%+fa", "%+fa"),
            ("%4", "%4"),
            ("%é", "%é"),
        ] {
            assert_eq!(decode(text), said, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,64}") {
            let _ = Cmcd::read(Some(&format!("CMCD={text}")), &HeaderMap::new());
            let _ = Cmcd::read(Some(&format!("CMCD=%{text}%2")), &HeaderMap::new());
        }
    }
}
