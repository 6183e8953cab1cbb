//! Names of segments, and ids as texts.

use swarm_core::id::Name;
use wasm_bindgen::prelude::wasm_bindgen;

/// The name of the object at `url`, as 16 hexadecimal digits.
#[wasm_bindgen]
pub fn name_of(url: &str) -> String {
    Name::of_url(url).to_string()
}

/// The name of `len` bytes from `first` on of the object at `url`.
#[wasm_bindgen]
pub fn name_of_range(url: &str, first: f64, len: f64) -> String {
    Name::of_range(url, first as u64, len as u64).to_string()
}

/// Reads an id of 16 hexadecimal digits.
pub(crate) fn id_of(digits: &str) -> Option<u64> {
    let is_id = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_cores() {
        let name = name_of("https://a.example/v/1.m4s?token=x");
        assert_eq!(name, Name::of("/v/1.m4s").to_string());
        assert_eq!(id_of(&name), Some(Name::of("/v/1.m4s").0));
        let range = name_of_range("https://a.example/v.mp4", 10.0, 20.0);
        assert_eq!(range, Name::of_range("/v.mp4", 10, 20).to_string());
    }

    #[test]
    fn only_sixteen_digits_are_an_id() {
        for text in [
            "",
            "+123456789abcdef",
            "0123456789abcdef0",
            "0123456789abcdeg",
        ] {
            assert_eq!(id_of(text), None, "{text}");
        }
    }
}
