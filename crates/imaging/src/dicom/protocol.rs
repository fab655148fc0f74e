//! How an image was acquired: what tells one contrast from another.
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

/// The attributes by which series are split and classified; empty or none where the source has none.
///
/// Texts may hold anything that somebody typed, a name among it: they are compared, never shown.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Protocol {
    pub(super) image_type: Vec<String>,
    /// Lower case: series description, protocol and sequence names.
    pub(super) description: String,
    pub(super) protocol: String,
    pub(super) sequence: String,
    pub(super) scanning_sequence: Vec<String>,
    pub(super) sequence_variant: Vec<String>,
    pub(super) acquisition_type: String,
    pub(super) acquisition_contrast: String,
    pub(super) contrast_agent: bool,
    pub(super) echo_ms: Option<f64>,
    pub(super) repetition_ms: Option<f64>,
    pub(super) inversion_ms: Option<f64>,
    pub(super) flip_deg: Option<f64>,
    pub(super) echo_number: Option<i64>,
    pub(super) b_value: Option<f64>,
    pub(super) stack: String,
    pub(super) temporal: Option<i64>,
    pub(super) acquisition: Option<i64>,
    pub(super) instance: Option<i64>,
    /// When it was acquired, as the source writes it: later ones sort last.
    pub(super) time: String,
}

/// The values of an attribute, trimmed, in upper case.
pub(super) fn words(object: &InMemDicomObject, tag: Tag) -> Vec<String> {
    let values = object
        .get(tag)
        .and_then(|element| element.to_multi_str().ok().map(|v| v.to_vec()));
    values
        .unwrap_or_default()
        .iter()
        .map(|word| word.trim_matches(['\0', ' ']).to_uppercase())
        .collect()
}

pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let element = object.get(tag)?;
    let text = element.to_str().ok()?;
    Some(text.trim_matches(['\0', ' ']).to_owned())
}

/// The numbers of an attribute; none if one of them is no finite number.
pub(super) fn numbers(object: &InMemDicomObject, tag: Tag) -> Option<Vec<f64>> {
    let element = object.get(tag)?;
    let words = element.to_multi_str().ok()?;
    words
        .iter()
        .map(|word| {
            word.trim_matches(['\0', ' '])
                .parse()
                .ok()
                .filter(|n: &f64| n.is_finite())
        })
        .collect()
}

pub(super) fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    numbers(object, tag)?.first().copied()
}

pub(super) fn whole(object: &InMemDicomObject, tag: Tag) -> Option<i64> {
    let number = number(object, tag)?;
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// The items of a sequence.
pub(super) fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    object
        .get(tag)
        .and_then(|element| element.items())
        .unwrap_or_default()
}

pub(super) fn item(object: &InMemDicomObject, tag: Tag) -> Option<&InMemDicomObject> {
    items(object, tag).first()
}

impl Protocol {
    /// What the data set's own level says: all of a classic image.
    pub(super) fn of(object: &InMemDicomObject) -> Self {
        let lower = |tag| text(object, tag).unwrap_or_default().to_lowercase();
        let sequence = [tags::SEQUENCE_NAME, tags::PULSE_SEQUENCE_NAME]
            .map(lower)
            .concat();
        let mut scanning_sequence = words(object, tags::SCANNING_SEQUENCE);
        scanning_sequence.extend(enhanced_sequence(object));
        Self {
            image_type: words(object, tags::IMAGE_TYPE),
            description: lower(tags::SERIES_DESCRIPTION),
            protocol: lower(tags::PROTOCOL_NAME),
            sequence,
            scanning_sequence,
            sequence_variant: words(object, tags::SEQUENCE_VARIANT),
            acquisition_type: lower(tags::MR_ACQUISITION_TYPE),
            acquisition_contrast: lower(tags::ACQUISITION_CONTRAST),
            contrast_agent: contrast_agent(object),
            echo_ms: number(object, tags::ECHO_TIME),
            repetition_ms: number(object, tags::REPETITION_TIME),
            inversion_ms: number(object, tags::INVERSION_TIME),
            flip_deg: number(object, tags::FLIP_ANGLE),
            echo_number: whole(object, tags::ECHO_NUMBERS),
            b_value: number(object, tags::DIFFUSION_B_VALUE),
            stack: String::new(),
            temporal: whole(object, tags::TEMPORAL_POSITION_IDENTIFIER),
            acquisition: whole(object, tags::ACQUISITION_NUMBER),
            instance: whole(object, tags::INSTANCE_NUMBER),
            time: [
                tags::ACQUISITION_DATE,
                tags::ACQUISITION_TIME,
                tags::ACQUISITION_DATE_TIME,
            ]
            .map(lower)
            .concat(),
        }
    }

    /// Adds what the functional groups of an enhanced image say, shared ones first, the frame's own last.
    pub(super) fn refine(&mut self, group: &InMemDicomObject) {
        if let Some(timing) = item(group, tags::MR_TIMING_AND_RELATED_PARAMETERS_SEQUENCE) {
            self.repetition_ms = number(timing, tags::REPETITION_TIME).or(self.repetition_ms);
            self.flip_deg = number(timing, tags::FLIP_ANGLE).or(self.flip_deg);
        }
        if let Some(echo) = item(group, tags::MR_ECHO_SEQUENCE) {
            self.echo_ms = number(echo, tags::EFFECTIVE_ECHO_TIME).or(self.echo_ms);
        }
        if let Some(modifier) = item(group, tags::MR_MODIFIER_SEQUENCE) {
            self.inversion_ms = number(modifier, tags::INVERSION_TIMES).or(self.inversion_ms);
            if text(modifier, tags::INVERSION_RECOVERY).as_deref() == Some("YES") {
                self.scanning_sequence.push("IR".to_owned());
                self.scanning_sequence.dedup();
            }
        }
        if let Some(kind) = item(group, tags::MR_IMAGE_FRAME_TYPE_SEQUENCE) {
            let words = words(kind, tags::FRAME_TYPE);
            if !words.is_empty() {
                self.image_type = words;
            }
            if let Some(contrast) = text(kind, tags::ACQUISITION_CONTRAST) {
                self.acquisition_contrast = contrast.to_lowercase();
            }
        }
        if let Some(diffusion) = item(group, tags::MR_DIFFUSION_SEQUENCE) {
            self.b_value = number(diffusion, tags::DIFFUSION_B_VALUE).or(self.b_value);
        }
        if let Some(content) = item(group, tags::FRAME_CONTENT_SEQUENCE) {
            self.stack = text(content, tags::STACK_ID).unwrap_or_default();
            self.temporal = whole(content, tags::TEMPORAL_POSITION_INDEX).or(self.temporal);
        }
    }

    /// Whether `word` is among the values of `ImageType`.
    pub(super) fn is_type(&self, word: &str) -> bool {
        self.image_type.iter().any(|value| value == word)
    }

    pub(super) fn scans(&self, word: &str) -> bool {
        self.scanning_sequence.iter().any(|value| value == word)
    }
}

/// What an enhanced image says of its sequence, in the words of the classic `ScanningSequence`.
fn enhanced_sequence(object: &InMemDicomObject) -> Vec<String> {
    let mut found = Vec::new();
    match text(object, tags::ECHO_PULSE_SEQUENCE).as_deref() {
        Some("SPIN") => found.push("SE".to_owned()),
        Some("GRADIENT") => found.push("GR".to_owned()),
        Some("BOTH") => found.extend(["SE".to_owned(), "GR".to_owned()]),
        _ => {}
    }
    if text(object, tags::ECHO_PLANAR_PULSE_SEQUENCE).as_deref() == Some("YES") {
        found.push("EP".to_owned());
    }
    found
}

fn contrast_agent(object: &InMemDicomObject) -> bool {
    let agent = text(object, tags::CONTRAST_BOLUS_AGENT)
        .unwrap_or_default()
        .to_uppercase();
    let named = !matches!(agent.as_str(), "" | "NONE" | "NO" | "-" | "N");
    named
        || !items(object, tags::CONTRAST_BOLUS_AGENT_SEQUENCE).is_empty()
        || !items(object, tags::CONTRAST_BOLUS_USAGE_SEQUENCE).is_empty()
}
