//! Identifiers that follow from content.
//!
//! The same content gives the same identifier, so that a repeated job files nothing twice; other
//! content gives another, because an archive keeps the first of two objects with one UID.
use std::fmt;

use sha2::{Digest, Sha256};

/// A DICOM unique identifier below `2.25.` (PS3.5 B.2): at most 44 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(String);

impl Uid {
    /// Derives the identifier of a `kind` of thing from what it is made of.
    ///
    /// The first 128 bits of the SHA-256 of all parts, each preceded by its length, with the bits of
    /// a version 8 UUID (RFC 9562, 5.8), as a decimal number.
    ///
    /// ```
    /// # use dawson_imaging::dicom::write::Uid;
    /// let one = Uid::of("series", &[b"1.2.3", b"model"]);
    /// assert_eq!(one, Uid::of("series", &[b"1.2.3", b"model"]));
    /// assert_ne!(one, Uid::of("series", &[b"1.2.3m", b"odel"]));
    /// assert!(one.as_str().starts_with("2.25.") && one.as_str().len() <= 44);
    /// ```
    #[must_use]
    pub fn of(kind: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut number = digest
            .iter()
            .take(16)
            .fold(0_u128, |number, &byte| number << 8 | u128::from(byte));
        number = number & !(0xF << 76) | 0x8 << 76; // version 8: the high half of byte 6
        number = number & !(0x3 << 62) | 0x2 << 62; // variant 0b10: the top of byte 8
        Self(format!("2.25.{number}"))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_identifier_is_a_version_8_uuid_in_decimal(part in proptest::collection::vec(any::<u8>(), 0..40)) {
            let uid = Uid::of("instance", &[&part]);
            let number: u128 = uid.as_str().strip_prefix("2.25.").unwrap().parse().unwrap();
            prop_assert_eq!(number >> 76 & 0xF, 8);
            prop_assert_eq!(number >> 62 & 0x3, 2);
            prop_assert!(uid.as_str().len() <= 44);
        }
    }

    #[test]
    fn the_digest_is_that_of_another_implementation() {
        // python3: h = sha256(b"\0"*7 + b"\1k" + b"\0"*7 + b"\3abc").digest()[:16], then the UUID's bits.
        assert_eq!(
            Uid::of("k", &[b"abc"]).as_str(),
            "2.25.241964504873963909513681553898427970461"
        );
    }
}
