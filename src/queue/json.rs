//! JSON as JavaScript writes it.

use serde_json::Value;

/// Reads JSON. A text that was cut inside a surrogate pair, which JavaScript writes as a lone `\ud83d`, is read with the
/// replacement character in its place.
pub(super) fn read(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).or_else(|error| match without_lone_surrogates(text) {
        Some(mended) => serde_json::from_str(&mended),
        None => Err(error),
    })
}

/// The text with `\ufffd` for each escaped half of a surrogate pair; `None` if there is none.
fn without_lone_surrogates(text: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut mended = String::with_capacity(text.len());
    let (mut kept, mut at, mut found) = (0, 0, false);
    while let Some(offset) = text[at..].find('\\') {
        at += offset;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                mended.push_str(&text[kept..at]);
                mended.push_str("\\ufffd");
                found = true;
                kept = at + 6;
                6
            }
            // An escape has two characters at least; the second may be of several bytes where this is no JSON at all.
            _ => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    mended.push_str(&text[kept..]);
    found.then_some(mended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cut_emoji_is_replaced_and_a_whole_one_is_not() {
        assert_eq!(read(r#""a\ud83d""#).unwrap(), json!("a\u{fffd}"));
        assert_eq!(read(r#""\udc00b\ud83d\ude00""#).unwrap(), json!("\u{fffd}b\u{1f600}"));
        assert_eq!(read(r#""\\ud83d \ud83dx""#).unwrap(), json!("\\ud83d \u{fffd}x"));
    }

    #[test]
    fn what_is_no_json_stays_an_error() {
        for text in ["", "{", r#""\"#, r#""\é"#, r#""\ud8"#, r#""\ud83d"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
