//! DASH manifests whose URLs lead back to the endpoint. Event by event; what is not a URL stays as
//! it is.

use std::borrow::Cow;

use quick_xml::events::{BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};
use thiserror::Error;

use super::urls::Place;

/// Elements whose text is a URL of media or of the manifest itself.
const TEXTS: [&str; 2] = ["BaseURL", "Location"];
/// Attributes that are URLs of media.
const ATTRIBUTES: [&str; 5] = [
    "media",
    "initialization",
    "sourceURL",
    "index",
    "bitstreamSwitching",
];
/// Elements that have such attributes.
const ELEMENTS: [&str; 4] = [
    "SegmentTemplate",
    "SegmentURL",
    "Initialization",
    "RepresentationIndex",
];

/// Why a manifest cannot be rewritten. The fault is the origin's.
#[derive(Debug, Error)]
#[error("origin sent a manifest that is not XML: {0}")]
pub(crate) struct MpdError(String);

/// The manifest with its absolute URLs changed; relative ones lead to the endpoint anyway.
pub(crate) fn rewrite(text: &str, place: &Place<'_>) -> Result<String, MpdError> {
    let bad = |error: &dyn ToString| MpdError(error.to_string());
    let mut reader = Reader::from_str(text);
    let mut writer = Writer::new(Vec::with_capacity(text.len() + 256));
    let mut url_begins = false;
    loop {
        let event = reader.read_event().map_err(|error| bad(&error))?;
        let was_begin = std::mem::take(&mut url_begins);
        let changed = match event {
            Event::Eof => break,
            Event::Start(element) => {
                url_begins = TEXTS.contains(&element.local_name().as_ref());
                Event::Start(rewrite_element(element, place))
            }
            Event::Empty(element) => Event::Empty(rewrite_element(element, place)),
            Event::Text(content) if was_begin => rewrite_text(content, place),
            other => other,
        };
        writer.write_event(changed).map_err(|error| bad(&error))?;
    }
    String::from_utf8(writer.into_inner()).map_err(|error| bad(&error))
}

/// Escapes in a URL come after its host, so they can stay as they are.
fn rewrite_text<'t>(content: BytesText<'t>, place: &Place<'_>) -> Event<'t> {
    let changed = match place.inward(content.trim()) {
        Cow::Owned(changed) => changed,
        Cow::Borrowed(_) => return Event::Text(content),
    };
    Event::Text(BytesText::from_escaped(changed))
}

fn rewrite_element<'t>(element: BytesStart<'t>, place: &Place<'_>) -> BytesStart<'t> {
    if !ELEMENTS.contains(&element.local_name().as_ref()) {
        return element;
    }
    let mut content = element.to_string();
    let mut is_changed = false;
    for attribute in element.attributes().flatten() {
        let value = attribute.value.as_ref();
        if !ATTRIBUTES.contains(&attribute.key.as_ref()) {
            continue;
        }
        if let Cow::Owned(changed) = place.inward(value) {
            for quote in ['"', '\''] {
                let old = format!("={quote}{value}{quote}");
                content = content.replace(&old, &format!("={quote}{changed}{quote}"));
            }
            is_changed = true;
        }
    }
    match is_changed {
        true => BytesStart::from_content(content, element.name().as_ref().len()),
        false => element,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::tests::gateway;
    use url::Url;

    fn rewritten(text: &str) -> Result<String, MpdError> {
        let gateway = gateway();
        let cdn = "https://cdn.example";
        let url = Url::parse("https://cdn.example/live/main.mpd").unwrap();
        rewrite(
            text,
            &Place {
                gateway: &gateway,
                cdn,
                url,
            },
        )
    }

    #[tokio::test]
    async fn absolute_urls_lead_to_the_endpoint() {
        let text = r#"<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><!-- a --><Location>https://cdn.example/live/main.mpd?a=1&amp;b=2</Location>
 <BaseURL>https://b.example/x/</BaseURL><BaseURL>rel/</BaseURL>
 <UTCTiming schemeIdUri="urn:x" value="https://cdn.example/time"/>
 <SegmentTemplate media='https://cdn.example/v/$Number$.m4s?a=1&amp;b' initialization="init.mp4"/></MPD>"#;
        let expected = r#"<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><!-- a --><Location>/live/main.mpd?a=1&amp;b=2</Location>
 <BaseURL>/.shoal/via/https/b.example/x/</BaseURL><BaseURL>rel/</BaseURL>
 <UTCTiming schemeIdUri="urn:x" value="https://cdn.example/time"/>
 <SegmentTemplate media='/v/$Number$.m4s?a=1&amp;b' initialization="init.mp4"/></MPD>"#;
        assert_eq!(rewritten(text).unwrap(), expected);
    }

    #[tokio::test]
    async fn what_is_not_xml_is_refused_without_panic() {
        assert!(rewritten("<MPD><BaseURL></MPD>").is_err());
        assert!(rewritten("<MPD").is_err());
    }
}
