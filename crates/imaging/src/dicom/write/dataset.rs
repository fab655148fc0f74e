//! Data sets put together attribute by attribute, and the file made of one.
use dicom_core::value::{DataSetSequence, PrimitiveValue};
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::meta::Error as MetaError;
use dicom_object::{FileMetaTable, FileMetaTableBuilder, InMemDicomObject};

use super::uid::Uid;
use super::{Error, Kind, Object};

/// A data set or an item of a sequence while it is built.
#[derive(Clone)]
pub(super) struct DataSet(InMemDicomObject);

impl DataSet {
    pub(super) fn new() -> Self {
        Self(InMemDicomObject::new_empty())
    }

    /// Begins with the attributes of another object.
    pub(super) fn of(object: &InMemDicomObject) -> Self {
        Self(object.clone())
    }

    fn put(mut self, tag: Tag, vr: VR, value: PrimitiveValue) -> Self {
        self.0.put(DataElement::new(tag, vr, value));
        self
    }

    pub(super) fn has(&self, tag: Tag) -> bool {
        self.0.get(tag).is_some()
    }

    /// A text, cut to what its VR holds (PS3.5 table 6.2-1); no text is a value of zero length.
    pub(super) fn text(self, tag: Tag, vr: VR, text: &str) -> Self {
        let text = fitted(vr, text);
        let value = if text.is_empty() {
            PrimitiveValue::Empty
        } else {
            PrimitiveValue::from(text)
        };
        self.put(tag, vr, value)
    }

    /// Several values of a text VR.
    pub(super) fn texts<T: AsRef<str>>(self, tag: Tag, vr: VR, texts: &[T]) -> Self {
        let texts = texts.iter().map(|text| fitted(vr, text.as_ref())).collect();
        self.put(tag, vr, PrimitiveValue::Strs(texts))
    }

    pub(super) fn us(self, tag: Tag, number: u16) -> Self {
        self.put(tag, VR::US, PrimitiveValue::from(number))
    }

    pub(super) fn uss(self, tag: Tag, numbers: &[u16]) -> Self {
        self.put(tag, VR::US, PrimitiveValue::U16(numbers.into()))
    }

    pub(super) fn ul(self, tag: Tag, number: u32) -> Self {
        self.uls(tag, &[number])
    }

    pub(super) fn uls(self, tag: Tag, numbers: &[u32]) -> Self {
        self.put(tag, VR::UL, PrimitiveValue::U32(numbers.into()))
    }

    pub(super) fn fd(self, tag: Tag, number: f64) -> Self {
        self.put(tag, VR::FD, PrimitiveValue::from(number))
    }

    pub(super) fn numbers(self, tag: Tag, numbers: &[f64]) -> Self {
        let texts: Vec<String> = numbers.iter().map(|&n| decimal(n)).collect();
        self.texts(tag, VR::DS, &texts)
    }

    pub(super) fn integer(self, tag: Tag, number: usize) -> Self {
        self.text(tag, VR::IS, &number.to_string())
    }

    pub(super) fn pointer(self, tag: Tag, to: Tag) -> Self {
        self.put(tag, VR::AT, PrimitiveValue::from(to))
    }

    pub(super) fn bytes(self, tag: Tag, mut bytes: Vec<u8>) -> Self {
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        self.put(tag, VR::OB, PrimitiveValue::U8(bytes.into()))
    }

    pub(super) fn words(self, tag: Tag, words: Vec<u16>) -> Self {
        self.put(tag, VR::OW, PrimitiveValue::U16(words.into()))
    }

    pub(super) fn items(mut self, tag: Tag, items: Vec<DataSet>) -> Self {
        let items: Vec<InMemDicomObject> = items.into_iter().map(|item| item.0).collect();
        let value = DataSetSequence::from(items);
        self.0.put(DataElement::new(tag, VR::SQ, value));
        self
    }

    pub(super) fn item(self, tag: Tag, item: DataSet) -> Self {
        self.items(tag, vec![item])
    }

    /// Puts all attributes of `more` in, over those that are there.
    pub(super) fn with(mut self, more: DataSet) -> Self {
        for element in more.0 {
            self.0.put(element);
        }
        self
    }

    /// The file of this data set, which lacks nothing but its SOP Instance UID.
    ///
    /// That UID follows from all the rest, so that equal content has an equal UID and no two contents
    /// have the same.
    ///
    /// # Errors
    /// [`Error::Encode`] if the encoder refuses a value.
    pub(super) fn into_object(
        self,
        kind: Kind,
        series: Uid,
        name: String,
    ) -> Result<Object, Error> {
        let encode = |what: String| Error::Encode { kind, what };
        let meta = |uid: &Uid| meta(kind.sop_class_uid(), uid).map_err(|e| encode(e.to_string()));
        let mut content = Vec::new();
        let file = self.0.with_exact_meta(meta(&series)?);
        file.write_dataset(&mut content)
            .map_err(|e| encode(e.to_string()))?;
        let uid = Uid::of("instance", &[&content]);
        content.clear();
        let mut file = file.into_inner().with_exact_meta(meta(&uid)?);
        file.put(DataElement::new(
            tags::SOP_INSTANCE_UID,
            VR::UI,
            PrimitiveValue::from(uid.as_str()),
        ));
        file.write_all(&mut content)
            .map_err(|e| encode(e.to_string()))?;
        Ok(Object {
            kind,
            name,
            sop_instance_uid: uid,
            series_instance_uid: series,
            file: content,
        })
    }
}

/// The meta information of a file in Explicit VR Little Endian (PS3.10 7.1).
///
/// # Errors
/// What the encoder says of a UID.
pub(in crate::dicom) fn meta(
    sop_class_uid: &str,
    sop_instance_uid: &Uid,
) -> Result<FileMetaTable, MetaError> {
    FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(sop_class_uid)
        .media_storage_sop_instance_uid(sop_instance_uid.as_str())
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .implementation_class_uid(Uid::of("implementation", &[]).as_str())
        .implementation_version_name(concat!("DAWSON_", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The characters of a text that its VR can hold.
fn fitted(vr: VR, text: &str) -> String {
    let most = match vr {
        VR::SH | VR::CS | VR::DS => 16,
        VR::LO => 64,
        VR::ST => 1024,
        VR::LT => 10_240,
        _ => usize::MAX,
    };
    let lines = matches!(vr, VR::ST | VR::LT | VR::UT);
    let held = |c: &char| (!c.is_control() || (lines && *c == '\n')) && (lines || *c != '\\');
    text.chars().filter(held).take(most).collect()
}

/// A number as a Decimal String: at most 16 characters (PS3.5 table 6.2-1), as near as those allow.
pub(super) fn decimal(number: f64) -> String {
    let shortest = format!("{number}");
    if shortest.len() <= 16 {
        return if shortest == "-0" {
            "0".to_owned()
        } else {
            shortest
        };
    }
    // Fixed digits while they keep ten figures, else an exponent.
    let whole = format!("{:.0}", number.trunc()).len().max(2);
    if number.abs() >= 1e-4 && whole < 12 {
        let fixed = format!("{number:.*}", 15_usize.saturating_sub(whole + 1));
        return fixed.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    (0..=10)
        .rev()
        .map(|digits| format!("{number:.digits$e}"))
        .find(|text| text.len() <= 16)
        .unwrap_or_else(|| "0".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decimals_fit_and_keep_ten_figures(number in any::<f64>()) {
            prop_assume!(number.is_finite());
            let text = decimal(number);
            prop_assert!(text.len() <= 16, "{text}");
            let read: f64 = text.parse().unwrap();
            prop_assert!((read - number).abs() <= number.abs() * 1e-8, "{number} {text}");
        }

        #[test]
        fn positions_and_cosines_keep_a_billionth(number in -5000.0..5000.0_f64) {
            let text = decimal(number);
            prop_assert!(text.len() <= 16, "{text}");
            prop_assert!((text.parse::<f64>().unwrap() - number).abs() < 1e-9);
        }
    }

    #[test]
    fn decimals_are_as_short_as_they_can_be() {
        for (number, text) in [
            (7.436_520_000_000_001, "7.43652"),
            (-0.0, "0"),
            (3.0, "3"),
            (0.1 + 0.2, "0.3"),
            (100.000_000_000_000_01, "100"),
        ] {
            assert_eq!(decimal(number), text);
        }
    }

    #[test]
    fn texts_are_cut_to_their_field() {
        assert_eq!(fitted(VR::LO, &"ä".repeat(70)).chars().count(), 64);
        assert_eq!(fitted(VR::LO, "a\\b\nc"), "abc");
        assert_eq!(fitted(VR::ST, "a\\b\nc"), "a\\b\nc");
    }
}
