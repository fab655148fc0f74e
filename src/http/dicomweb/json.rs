//! Data sets in the DICOM JSON model (PS3.18, annex F).
//!
//! Bulk values (pixels, documents, whatever has one of the binary VRs) are left out, with their elements: an
//! element without a value would say that it is empty.
use dicom_core::value::Value as Held;
use dicom_core::{PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde_json::{Map, Number, Value, json};

/// A data set: elements by their tags.
pub(super) type Dataset = Map<String, Value>;

/// A tag as the model writes it.
pub(super) fn key(tag: Tag) -> String {
    format!("{:04X}{:04X}", tag.group(), tag.element())
}

/// All of a data set that the model holds.
pub(super) fn dataset(object: &InMemDicomObject) -> Dataset {
    let mut all = Dataset::new();
    for element in object {
        let tag = element.header().tag;
        // Lengths of groups are about a file, not about what it says.
        if tag.element() == 0 {
            continue;
        }
        if tag == tags::SPECIFIC_CHARACTER_SET {
            // JSON is UTF-8, whatever the file was.
            all.insert(key(tag), self::element(VR::CS, "ISO_IR 192"));
        } else if let Some(value) = element_value(element.vr(), element.value()) {
            all.insert(key(tag), value);
        }
    }
    all
}

/// Those of `tags` that the data set has.
pub(super) fn some_of(object: &InMemDicomObject, tags: &[Tag]) -> Dataset {
    let mut some = Dataset::new();
    for &tag in tags {
        if let Some(element) = object.get(tag)
            && let Some(value) = element_value(element.vr(), element.value())
        {
            some.insert(key(tag), value);
        }
    }
    some
}

/// An element with one value.
pub(super) fn element(vr: VR, value: impl Into<Value>) -> Value {
    json!({ "vr": vr.to_string(), "Value": [value.into()] })
}

/// A sequence.
pub(super) fn sequence(items: &[Dataset]) -> Value {
    json!({ "vr": "SQ", "Value": items })
}

fn element_value(vr: VR, held: &Held<InMemDicomObject>) -> Option<Value> {
    let values: Vec<Value> = match held {
        Held::Sequence(items) => {
            let items = items.items().iter().map(|item| dataset(item).into());
            items.collect()
        }
        Held::PixelSequence(_) => return None,
        Held::Primitive(value) if is_bulk(vr) && !matches!(value, PrimitiveValue::Empty) => {
            return None;
        }
        Held::Primitive(value) => primitive(vr, value),
    };
    let vr = vr.to_string();
    Some(if values.iter().all(Value::is_null) {
        json!({ "vr": vr })
    } else {
        json!({ "vr": vr, "Value": values })
    })
}

fn is_bulk(vr: VR) -> bool {
    matches!(
        vr,
        VR::OB | VR::OD | VR::OF | VR::OL | VR::OV | VR::OW | VR::UN
    )
}

/// PS3.18, table F.2.3-1.
fn primitive(vr: VR, value: &PrimitiveValue) -> Vec<Value> {
    match vr {
        VR::PN => texts(value).iter().map(|name| person(name)).collect(),
        // A backslash belongs to the text.
        VR::ST | VR::LT | VR::UT | VR::UR => vec![plain(&value.to_str())],
        VR::AT => {
            let PrimitiveValue::Tags(tags) = value else {
                return Vec::new();
            };
            tags.iter().map(|&tag| key(tag).into()).collect()
        }
        VR::FL | VR::FD => {
            let numbers = value.to_multi_float64().unwrap_or_default();
            numbers.into_iter().map(float).collect()
        }
        VR::US | VR::SS | VR::UL | VR::SL | VR::UV | VR::SV => {
            let numbers = value.to_multi_int::<i128>().unwrap_or_default();
            numbers.into_iter().map(whole).collect()
        }
        VR::IS => texts(value).iter().map(|text| integer_text(text)).collect(),
        VR::DS => texts(value).iter().map(|text| decimal_text(text)).collect(),
        _ => texts(value).iter().map(|text| plain(text)).collect(),
    }
}

fn texts(value: &PrimitiveValue) -> Vec<String> {
    value.to_multi_str().to_vec()
}

fn trimmed(text: &str) -> &str {
    text.trim_end_matches(['\0', ' '])
}

/// An empty value among others is null.
fn plain(text: &str) -> Value {
    let text = trimmed(text);
    if text.is_empty() {
        Value::Null
    } else {
        text.into()
    }
}

/// A name in its alphabetic, ideographic and phonetic writing.
fn person(name: &str) -> Value {
    let mut groups = Map::new();
    let names = ["Alphabetic", "Ideographic", "Phonetic"];
    for (group, written) in names.iter().zip(name.split('=')) {
        if !trimmed(written).is_empty() {
            groups.insert((*group).to_owned(), trimmed(written).into());
        }
    }
    if groups.is_empty() {
        Value::Null
    } else {
        groups.into()
    }
}

/// What is not finite has no number in JSON.
fn float(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| number.to_string().into(), Value::Number)
}

fn whole(number: i128) -> Value {
    let small = i64::try_from(number).map(Value::from);
    small
        .or_else(|_| u64::try_from(number).map(Value::from))
        .unwrap_or(Value::Null)
}

fn integer_text(text: &str) -> Value {
    let number = text.trim_matches(['\0', ' ']).parse::<i64>();
    number.map_or_else(|_| plain(text), Value::from)
}

fn decimal_text(text: &str) -> Value {
    let number = text.trim_matches(['\0', ' ']).parse::<f64>().ok();
    let number = number.filter(|number| number.is_finite());
    number.map_or_else(|| plain(text), float)
}

#[cfg(test)]
mod tests {
    use dicom_core::value::DataSetSequence;
    use dicom_core::{DataElement, dicom_value};

    use super::*;

    fn written(vr: VR, value: PrimitiveValue) -> Value {
        let element = DataElement::new(tags::PATIENT_COMMENTS, vr, value);
        let object = InMemDicomObject::from_element_iter([element]);
        dataset(&object).remove("00104000").unwrap_or(Value::Null)
    }

    #[test]
    fn each_kind_of_value_is_written_as_the_table_says() {
        let cases = [
            (
                VR::PN,
                dicom_value!(Strs, ["Doe^Jane=\u{5c71}", "="]),
                json!({"vr": "PN",
                "Value": [{"Alphabetic": "Doe^Jane", "Ideographic": "\u{5c71}"}, null]}),
            ),
            (
                VR::LT,
                PrimitiveValue::from("a\\b "),
                json!({"vr": "LT", "Value": ["a\\b"]}),
            ),
            (
                VR::LO,
                dicom_value!(Strs, ["a", "", "b"]),
                json!({"vr": "LO", "Value": ["a", null, "b"]}),
            ),
            (
                VR::UI,
                PrimitiveValue::from("1.2\0"),
                json!({"vr": "UI", "Value": ["1.2"]}),
            ),
            (
                VR::IS,
                dicom_value!(Strs, [" 7", "x"]),
                json!({"vr": "IS", "Value": [7, "x"]}),
            ),
            (
                VR::DS,
                dicom_value!(Strs, ["0.5", "1e400"]),
                json!({"vr": "DS", "Value": [0.5, "1e400"]}),
            ),
            (
                VR::US,
                dicom_value!(U16, [1, 65535]),
                json!({"vr": "US", "Value": [1, 65535]}),
            ),
            (
                VR::SL,
                dicom_value!(I32, [-1]),
                json!({"vr": "SL", "Value": [-1]}),
            ),
            (
                VR::FD,
                dicom_value!(F64, [0.25, f64::NAN]),
                json!({"vr": "FD", "Value": [0.25, "NaN"]}),
            ),
            (
                VR::AT,
                dicom_value!(Tags, [tags::MODALITY]),
                json!({"vr": "AT", "Value": ["00080060"]}),
            ),
            (VR::LO, PrimitiveValue::Empty, json!({"vr": "LO"})),
            (VR::OB, PrimitiveValue::from(vec![1_u8, 2]), Value::Null),
        ];
        for (vr, value, expected) in cases {
            assert_eq!(written(vr, value), expected);
        }
    }

    #[test]
    fn sequences_hold_data_sets_and_lengths_of_groups_are_left_out() {
        let inner = InMemDicomObject::from_element_iter([DataElement::new(
            tags::MODALITY,
            VR::CS,
            PrimitiveValue::from("MR"),
        )]);
        let object = InMemDicomObject::from_element_iter([
            DataElement::new(Tag(8, 0), VR::UL, PrimitiveValue::from(4_u32)),
            DataElement::new(
                tags::SPECIFIC_CHARACTER_SET,
                VR::CS,
                PrimitiveValue::from("ISO_IR 100"),
            ),
            DataElement::new(
                tags::REQUEST_ATTRIBUTES_SEQUENCE,
                VR::SQ,
                DataSetSequence::from(vec![inner]),
            ),
        ]);
        let modality = json!({"00080060": {"vr": "CS", "Value": ["MR"]}});
        assert_eq!(
            Value::from(dataset(&object)),
            json!({
                "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
                "00400275": {"vr": "SQ", "Value": [modality]}
            })
        );
    }
}
