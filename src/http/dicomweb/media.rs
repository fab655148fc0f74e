//! Media types as headers carry them: one in `Content-Type`, several in `Accept`.
//!
//! DICOMweb says what it wants in their parameters (`type`, `boundary`, `transfer-syntax`), quoted or not, so
//! they are read by the grammar of RFC 9110 (5.6.6, 8.3.1) and not by splitting at semicolons.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

/// A media type and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaType {
    /// Such as `multipart/related`, in lower case.
    pub(super) essence: String,
    /// Names in lower case, each once; values as they are meant, without their quotes.
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Reads the value of `Content-Type`; none if it is not by the grammar or names a parameter twice.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut pieces = split(text, ';')?.into_iter();
        let essence = pieces.next()?.trim().to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) {
            return None;
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for piece in pieces {
            if piece.trim().is_empty() {
                continue;
            }
            let (name, value) = piece.split_once('=')?;
            let name = name.trim().to_ascii_lowercase();
            let twice = parameters.iter().any(|(known, _)| *known == name);
            if !is_token(&name) || twice {
                return None;
            }
            parameters.push((name, value_of(value.trim())?));
        }
        Some(Self {
            essence,
            parameters,
        })
    }

    /// Reads the value of `Accept`; what is not by the grammar is left out.
    pub(super) fn list(text: &str) -> Vec<Self> {
        let ranges = split(text, ',').unwrap_or_default();
        ranges.into_iter().filter_map(Self::parse).collect()
    }

    /// A parameter's value, by its name in lower case.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether `Accept` refuses it by `q=0`.
    pub(super) fn is_refused(&self) -> bool {
        let weight = self.parameter("q").and_then(|q| q.parse::<f32>().ok());
        weight.is_some_and(|q| q <= 0.0)
    }
}

/// The text cut at each `mark` outside quotes; none if a quote is left open.
fn split(text: &str, mark: char) -> Option<Vec<&str>> {
    let mut pieces = Vec::new();
    let (mut begin, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == mark && !quoted => {
                pieces.push(text.get(begin..at)?);
                begin = at.saturating_add(mark.len_utf8());
            }
            _ => {}
        }
    }
    pieces.push(text.get(begin..)?);
    (!quoted).then_some(pieces)
}

/// A parameter's value: a token, or a quoted string. `application/dicom` without quotes is no token, but is
/// what many send.
fn value_of(text: &str) -> Option<String> {
    let Some(inside) = text.strip_prefix('"') else {
        let plain = |b: u8| is_token_byte(b) || b"/:=?(),@".contains(&b);
        return (!text.is_empty() && text.bytes().all(plain)).then(|| text.to_owned());
    };
    let inside = inside.strip_suffix('"')?;
    let (mut value, mut escaped) = (String::new(), false);
    for c in inside.chars() {
        match c {
            _ if escaped => {
                escaped = false;
                value.push(c);
            }
            '\\' => escaped = true,
            '"' => return None,
            _ => value.push(c),
        }
    }
    (!escaped).then_some(value)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_however_they_are_written() {
        for text in [
            "multipart/related; type=\"application/dicom\"; boundary=a-b",
            "Multipart/Related;Boundary=\"a-b\";Type=application/dicom;",
            "multipart/related ; boundary = a-b ; type = \"application/dicom\"",
            "multipart/related; type=\"application/\\dicom\"; start=\"<x;y>\"; boundary=a-b",
        ] {
            let found = MediaType::parse(text).unwrap();
            assert_eq!(found.essence, "multipart/related", "{text}");
            assert_eq!(found.parameter("type"), Some("application/dicom"), "{text}");
            assert_eq!(found.parameter("boundary"), Some("a-b"), "{text}");
        }
    }

    #[test]
    fn what_is_not_by_the_grammar_is_no_media_type() {
        for text in [
            "",
            "multipart",
            "multipart/related; boundary=\"a",
            "multipart/related; boundary=a; Boundary=b",
            "multipart/related; boundary",
            "multipart/related; boundary=",
            "multipart/related; boundary=a b",
            "multi part/related",
        ] {
            assert_eq!(MediaType::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_is_cut_at_commas_outside_quotes() {
        let list = MediaType::list("a/b; x=\"1,2\", c/d;q=0, nonsense, */*");
        let names: Vec<&str> = list.iter().map(|m| m.essence.as_str()).collect();
        assert_eq!(names, ["a/b", "c/d", "*/*"]);
        assert_eq!(list[0].parameter("x"), Some("1,2"));
        assert!(list[1].is_refused() && !list[2].is_refused());
    }
}
