//! Images and results that do not say whose they are: the Basic Application Level Confidentiality Profile
//! (PS3.15 E.2), by a list of what is kept.
//!
//! Of an image stay its pixels and what a scanner wrote down in numbers and codes about how they were made and where
//! they lie; all else goes, whatever it is: names, dates, free text, private groups. Identifiers become others that
//! follow from them and from a key, so that images and results refer to each other as before, and whoever has the
//! key can tell which those are. A face that the images show stays on them.
use std::collections::BTreeSet;

use dicom_core::value::{DataSetSequence, PrimitiveValue, Value};
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::classify::has_agent;
use super::header::Image;
use super::protocol::{Protocol, text};
use super::write::{self, Uid};
use super::{Error, Identity, Source, caught, is_uid};

/// What an object says of how it came to be (PS3.3 C.12.1: (0012,0063), at most 64 characters).
const METHOD: &str = "PS3.15 basic profile by a list of what is kept; pixels unchanged";

/// What is kept of an image if its value has one of [`is_plain`]'s representations. Sequences are looked into.
const KEPT: &[Tag] = &[
    // What it is, and what made it.
    tags::IMAGE_TYPE,
    tags::MODALITY,
    tags::MANUFACTURER,
    tags::MANUFACTURER_MODEL_NAME,
    tags::SOFTWARE_VERSIONS,
    tags::BODY_PART_EXAMINED,
    tags::PATIENT_POSITION,
    tags::SERIES_NUMBER,
    tags::INSTANCE_NUMBER,
    tags::ACQUISITION_NUMBER,
    tags::LOSSY_IMAGE_COMPRESSION,
    tags::LOSSY_IMAGE_COMPRESSION_RATIO,
    tags::LOSSY_IMAGE_COMPRESSION_METHOD,
    tags::BURNED_IN_ANNOTATION,
    // How it was measured.
    tags::SCANNING_SEQUENCE,
    tags::SEQUENCE_VARIANT,
    tags::SCAN_OPTIONS,
    tags::MR_ACQUISITION_TYPE,
    tags::ANGIO_FLAG,
    tags::SLICE_THICKNESS,
    tags::SPACING_BETWEEN_SLICES,
    tags::REPETITION_TIME,
    tags::ECHO_TIME,
    tags::INVERSION_TIME,
    tags::NUMBER_OF_AVERAGES,
    tags::IMAGING_FREQUENCY,
    tags::IMAGED_NUCLEUS,
    tags::RESONANT_NUCLEUS,
    tags::ECHO_NUMBERS,
    tags::MAGNETIC_FIELD_STRENGTH,
    tags::NUMBER_OF_PHASE_ENCODING_STEPS,
    tags::ECHO_TRAIN_LENGTH,
    tags::PERCENT_SAMPLING,
    tags::PERCENT_PHASE_FIELD_OF_VIEW,
    tags::PIXEL_BANDWIDTH,
    tags::RECONSTRUCTION_DIAMETER,
    tags::ACQUISITION_MATRIX,
    tags::IN_PLANE_PHASE_ENCODING_DIRECTION,
    tags::FLIP_ANGLE,
    tags::VARIABLE_FLIP_ANGLE_FLAG,
    tags::SAR,
    tags::EFFECTIVE_ECHO_TIME,
    tags::INVERSION_TIMES,
    tags::INVERSION_RECOVERY,
    tags::ECHO_PULSE_SEQUENCE,
    tags::ECHO_PLANAR_PULSE_SEQUENCE,
    tags::TEMPORAL_POSITION_IDENTIFIER,
    tags::DIFFUSION_B_VALUE,
    tags::DIFFUSION_DIRECTIONALITY,
    tags::PIXEL_PRESENTATION,
    tags::VOLUMETRIC_PROPERTIES,
    tags::VOLUME_BASED_CALCULATION_TECHNIQUE,
    tags::COMPLEX_IMAGE_COMPONENT,
    tags::ACQUISITION_CONTRAST,
    tags::CONTENT_QUALIFICATION,
    tags::PRESENTATION_LUT_SHAPE,
    tags::FRAME_TYPE,
    // Where it lies.
    tags::IMAGE_POSITION_PATIENT,
    tags::IMAGE_ORIENTATION_PATIENT,
    tags::SLICE_LOCATION,
    tags::PIXEL_SPACING,
    // What its pixels are.
    tags::SAMPLES_PER_PIXEL,
    tags::PHOTOMETRIC_INTERPRETATION,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::COLUMNS,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::WINDOW_CENTER,
    tags::WINDOW_WIDTH,
    tags::RESCALE_INTERCEPT,
    tags::RESCALE_SLOPE,
    tags::RESCALE_TYPE,
    // The frames of an enhanced image.
    tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
    tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
    tags::PIXEL_MEASURES_SEQUENCE,
    tags::PLANE_POSITION_SEQUENCE,
    tags::PLANE_ORIENTATION_SEQUENCE,
    tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE,
    tags::FRAME_VOILUT_SEQUENCE,
    tags::FRAME_CONTENT_SEQUENCE,
    tags::FRAME_ACQUISITION_NUMBER,
    tags::DIMENSION_INDEX_VALUES,
    tags::STACK_ID,
    tags::IN_STACK_POSITION_NUMBER,
    tags::TEMPORAL_POSITION_INDEX,
    tags::MR_IMAGE_FRAME_TYPE_SEQUENCE,
    tags::MR_TIMING_AND_RELATED_PARAMETERS_SEQUENCE,
    tags::MR_ECHO_SEQUENCE,
    tags::MR_MODIFIER_SEQUENCE,
    tags::MRFOV_GEOMETRY_SEQUENCE,
    tags::MR_AVERAGES_SEQUENCE,
    tags::MR_DIFFUSION_SEQUENCE,
    tags::DIMENSION_ORGANIZATION_SEQUENCE,
    tags::DIMENSION_INDEX_SEQUENCE,
    tags::DIMENSION_INDEX_POINTER,
    tags::FUNCTIONAL_GROUP_POINTER,
    // An identifier, which becomes another; those of study, series, image and frame of reference do, too.
    tags::DIMENSION_ORGANIZATION_UID,
];

/// Stands for every moment, `YYYYMMDDHHMMSS`.
pub const NO_MOMENT: &str = "19000101000000";

/// What some images must have, and none may tell: where an image has one, this stands in its place (action D).
const DUMMIES: &[(Tag, VR, &str)] = &[
    (tags::CONTENT_DATE, VR::DA, "19000101"),
    (tags::CONTENT_TIME, VR::TM, "000000"),
    (tags::ACQUISITION_DATE_TIME, VR::DT, NO_MOMENT),
    (tags::FRAME_ACQUISITION_DATE_TIME, VR::DT, NO_MOMENT),
    (tags::FRAME_REFERENCE_DATE_TIME, VR::DT, NO_MOMENT),
    (tags::DEVICE_SERIAL_NUMBER, VR::LO, "0"),
];

/// Stands for every contrast agent (action D).
const SOME_AGENT: &str = "contrast agent";

/// Written by the scanner's maker, not by those who use it: the only texts that stay.
const BY_THE_MAKER: &[Tag] = &[
    tags::MANUFACTURER,
    tags::MANUFACTURER_MODEL_NAME,
    tags::SOFTWARE_VERSIONS,
];

/// Other names for patients, studies, series and images.
#[derive(Clone)]
pub struct Pseudonyms {
    key: [u8; 32],
}

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pseudonyms")
    }
}

impl Pseudonyms {
    /// Equal keys give equal names; without the key no name leads back.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// HMAC-SHA-256 (RFC 2104) of a name among those of its kind.
    fn mac(&self, kind: &str, name: &str) -> [u8; 32] {
        // A shorter key than a block is filled up with zeros (RFC 2104, 2).
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.key);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(kind.as_bytes());
        mac.update(&[0]);
        mac.update(name.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// The identifier in place of another one.
    #[must_use]
    pub fn uid(&self, uid: &str) -> Uid {
        let uid = uid.trim_matches(['\0', ' ']);
        Uid::of("de-identified", &[&self.mac("uid", uid)])
    }

    /// The name in place of a Patient ID: 16 letters and digits; none in place of none.
    #[must_use]
    pub fn patient(&self, id: &str) -> String {
        if id.is_empty() {
            return String::new();
        }
        let mac = self.mac("patient", id);
        mac.iter()
            .take(8)
            .fold(String::new(), |name, byte| format!("{name}{byte:02X}"))
    }

    /// What results say of their source.
    #[must_use]
    pub fn source(&self, source: &Source) -> Source {
        let uid = |uid: &String| self.uid(uid).as_str().to_owned();
        let images = source.images.iter().cloned();
        Source {
            study_instance_uid: uid(&source.study_instance_uid),
            series_instance_uid: uid(&source.series_instance_uid),
            frame_of_reference_uid: source.frame_of_reference_uid.as_ref().map(uid),
            position_reference_indicator: String::new(),
            images: images
                .map(|image| super::SourceImage {
                    sop_instance_uid: uid(&image.sop_instance_uid),
                    ..image
                })
                .collect(),
            identity: self.identity(&source.identity),
            ..*source
        }
    }

    /// The patient's pseudonym, and what says that it is one.
    fn identity(&self, of: &Identity) -> Identity {
        let id = text(of.attributes(), tags::PATIENT_ID);
        let name = self.patient(&id.unwrap_or_default());
        let profile = InMemDicomObject::from_element_iter([
            spoken(tags::CODE_VALUE, VR::SH, "113100"),
            spoken(tags::CODING_SCHEME_DESIGNATOR, VR::SH, "DCM"),
            spoken(
                tags::CODE_MEANING,
                VR::LO,
                "Basic Application Confidentiality Profile",
            ),
        ]);
        let code = DataElement::new(
            tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE,
            VR::SQ,
            DataSetSequence::from(vec![profile]),
        );
        let mut attributes = InMemDicomObject::from_element_iter([
            spoken(tags::PATIENT_NAME, VR::PN, &name),
            spoken(tags::PATIENT_ID, VR::LO, &name),
            spoken(tags::PATIENT_IDENTITY_REMOVED, VR::CS, "YES"),
            spoken(tags::DEIDENTIFICATION_METHOD, VR::LO, METHOD),
            spoken(
                tags::LONGITUDINAL_TEMPORAL_INFORMATION_MODIFIED,
                VR::CS,
                "REMOVED",
            ),
        ]);
        attributes.put(code);
        Identity::made(attributes)
    }

    /// The file of an image without what says whose it is, Explicit VR Little Endian.
    ///
    /// # Errors
    /// [`Error::Annotated`] if names may stand in its pixels; what decoding says; [`Error::Unwritable`].
    pub(super) fn image(&self, image: &Image) -> Result<Vec<u8>, Error> {
        let said = checked(image)?;
        let listed: BTreeSet<Tag> = KEPT.iter().copied().collect();
        let mut kept = self.of_these(&said, &listed);
        // Without the agent's name, or the series' names that speak of it, it would be taken for a scan before it.
        if has_agent(&Protocol::of(&said)) {
            kept.put(spoken(tags::CONTRAST_BOLUS_AGENT, VR::LO, SOME_AGENT));
        }
        let identity = self.identity(&image.identity);
        for element in identity.attributes().iter() {
            kept.put(element.clone());
        }
        let place = (tags::POSITION_REFERENCE_INDICATOR, VR::LO);
        for (tag, vr) in write::TYPE_2.into_iter().chain([place]) {
            if kept.get(tag).is_none() {
                kept.put(DataElement::new(tag, vr, PrimitiveValue::Empty));
            }
        }
        kept.put(spoken(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"));
        kept.put(spoken(tags::SOP_CLASS_UID, VR::UI, &image.sop_class));
        for (tag, uid) in [
            (tags::STUDY_INSTANCE_UID, Some(&image.study)),
            (tags::SERIES_INSTANCE_UID, Some(&image.series)),
            (tags::SOP_INSTANCE_UID, Some(&image.sop_instance)),
            (
                tags::FRAME_OF_REFERENCE_UID,
                image.frame_of_reference.as_ref(),
            ),
        ] {
            if let Some(uid) = uid {
                kept.put(spoken(tag, VR::UI, self.uid(uid).as_str()));
            }
        }
        // Nobody took the face away.
        kept.put(spoken(tags::RECOGNIZABLE_VISUAL_FEATURES, VR::CS, "YES"));
        kept.put(pixels(image)?);
        let meta = write::meta(&image.sop_class, &self.uid(&image.sop_instance));
        let whole = kept.with_exact_meta(meta.map_err(|_| Error::Unwritable)?);
        caught("DICOM writer", || {
            let mut file = Vec::new();
            let written = whole.write_all(&mut file);
            written.map_or(Err(Error::Unwritable), |()| Ok(file))
        })
    }

    fn of_these(&self, said: &InMemDicomObject, listed: &BTreeSet<Tag>) -> InMemDicomObject {
        let mut kept = InMemDicomObject::new_empty();
        for &(tag, vr, dummy) in DUMMIES.iter().filter(|(tag, ..)| said.get(*tag).is_some()) {
            kept.put(DataElement::new(tag, vr, PrimitiveValue::from(dummy)));
        }
        for element in said.iter().filter(|e| listed.contains(&e.header().tag)) {
            let (tag, vr) = (element.header().tag, element.header().vr());
            match element.value() {
                Value::Sequence(sequence) => {
                    let items = sequence.items().iter();
                    let items: Vec<_> = items.map(|item| self.of_these(item, listed)).collect();
                    kept.put(DataElement::new(tag, vr, DataSetSequence::from(items)));
                }
                Value::Primitive(value) if vr == VR::UI => {
                    let said = value.to_str();
                    if is_uid(said.trim_matches(['\0', ' '])) {
                        let uid = PrimitiveValue::from(self.uid(&said).as_str());
                        kept.put(DataElement::new(tag, vr, uid));
                    }
                }
                Value::Primitive(value) if is_plain(tag, vr, value) => {
                    kept.put(DataElement::new(tag, vr, value.clone()));
                }
                _ => {}
            }
        }
        kept
    }
}

/// The attributes of an image in whose pixels no names stand, by what it says.
///
/// # Errors
/// [`Error::Annotated`] unless Burned In Annotation is NO, empty or absent.
pub(super) fn checked(image: &Image) -> Result<InMemDicomObject, Error> {
    let said = image.attributes()?;
    let burned_in = text(&said, tags::BURNED_IN_ANNOTATION);
    if burned_in.is_some_and(|said| !said.is_empty() && !said.eq_ignore_ascii_case("NO")) {
        return Err(Error::Annotated);
    }
    Ok(said)
}

/// Whether a value is a number, a pointer, a code, or the maker's own text.
fn is_plain(tag: Tag, vr: VR, value: &PrimitiveValue) -> bool {
    let mut texts = value.to_multi_str().to_vec().into_iter();
    match vr {
        VR::US | VR::SS | VR::UL | VR::SL | VR::FL | VR::FD | VR::AT => true,
        VR::DS | VR::IS => texts.all(|text| {
            let text = text.trim_matches([' ', '\0']);
            text.is_empty() || text.parse::<f64>().is_ok()
        }),
        VR::CS => texts.all(|text| {
            let of_code =
                |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b" _\0".contains(&b);
            text.len() <= 16 && text.bytes().all(of_code)
        }),
        VR::LO => BY_THE_MAKER.contains(&tag),
        VR::SH => tag == tags::STACK_ID && texts.all(|text| text.trim().parse::<u32>().is_ok()),
        _ => false,
    }
}

fn spoken(tag: Tag, vr: VR, text: &str) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, vr, PrimitiveValue::from(text.to_owned()))
}

/// The cells of all frames, as they are without a packing.
fn pixels(image: &Image) -> Result<DataElement<InMemDicomObject>, Error> {
    let cells = image.cells;
    let mut words = Vec::new();
    let mut bytes = Vec::new();
    for frame in 0..cells.frames {
        let decoded = cells.decode(&image.pixels, image.syntax, frame)?;
        let bare = decoded.iter().map(|&cell| cells.bare(cell));
        match cells.allocated {
            8 => bytes.extend(bare.map(|cell| cell as u8)),
            16 => words.extend(bare.map(|cell| cell as u16)),
            // Little endian: the low word first.
            _ => words.extend(bare.flat_map(|cell| [cell as u16, (cell >> 16) as u16])),
        }
    }
    if cells.allocated == 8 {
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        let value = PrimitiveValue::U8(bytes.into());
        return Ok(DataElement::new(tags::PIXEL_DATA, VR::OB, value));
    }
    let value = PrimitiveValue::U16(words.into());
    Ok(DataElement::new(tags::PIXEL_DATA, VR::OW, value))
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{self, Slice};
    use super::super::{Limits, Study, choose};
    use super::*;

    fn pseudonyms() -> Pseudonyms {
        Pseudonyms::new([7; 32])
    }

    /// A study with a name wherever one can stand.
    fn named() -> Vec<Slice> {
        let mut slices = synthetic::head();
        for slice in &mut slices {
            let more = [
                synthetic::text((0x28, 0x1054), b"LO", "Doe"),
                synthetic::text((0x10, 0x20), b"LO", "Doe-4711"),
                synthetic::text((0x10, 0x30), b"DA", "19700405"),
                synthetic::text((0x8, 0x20), b"DA", "20200405"),
                synthetic::text((0x8, 0x80), b"LO", "Doe's clinic"),
                synthetic::text((0x18, 0x15), b"LO", "Doe"),
                synthetic::text((0x18, 0x22), b"CS", "Doe"),
                synthetic::text((0x18, 0x87), b"DS", "Doe"),
                synthetic::text((0x18, 0x1030), b"LO", "flair of Doe"),
                synthetic::text((0x29, 0x10), b"LO", "Doe"),
                synthetic::text((0x40, 0x275), b"UN", "Doe"),
                synthetic::text((0x8, 0x70), b"LO", "MAKER"),
                synthetic::text((0x8, 0x23), b"DA", "20200405"),
                synthetic::text((0x18, 0x1000), b"LO", "4711"),
            ];
            slice.more = more.concat();
        }
        slices
    }

    fn read(slices: &[Slice]) -> Study {
        Study::read_whole(slices.iter().map(Slice::file), &Limits::CLINICAL).unwrap()
    }

    fn holds(file: &[u8], text: &str) -> bool {
        file.windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
    }

    #[test]
    fn nothing_says_whose_an_image_is_and_its_voxels_are_the_same() {
        let study = read(&named());
        let stack = &study.stacks[0];
        let scan = study.decode(stack).unwrap();
        study.names_nobody(stack).unwrap();
        let images = study.nameless(&[stack, stack], &pseudonyms()).unwrap();
        assert_eq!(images.len(), 20); // Each once, behind however many contrasts it is.
        let images: Vec<Vec<u8>> = images.into_iter().map(|(_, image)| image).collect();
        for image in &images {
            for word in [
                "Doe", "Jane", "4711", "clinic", "2020", "1970", "1.2.3", "1.2.9",
            ] {
                assert!(!holds(image, word), "{word}");
            }
            for word in ["MAKER", "19000101", "113100", "ORIGINAL\\PRIMARY", "2500"] {
                assert!(holds(image, word), "{word}");
            }
        }
        let again = Study::read(images, &Limits::CLINICAL).unwrap();
        let found = again.decode(&again.stacks[0]).unwrap();
        assert_eq!(found.volume, scan.volume);
        // What results say of their source is what the images say of themselves.
        let source = pseudonyms().source(&scan.source);
        assert_eq!(found.source.study_instance_uid, source.study_instance_uid);
        assert_eq!(found.source.series_instance_uid, source.series_instance_uid);
        assert_eq!(
            found.source.frame_of_reference_uid,
            source.frame_of_reference_uid
        );
        assert_eq!(found.source.images, source.images);
        let patient = |source: &Source| {
            let id = source.identity.attributes().get(tags::PATIENT_ID);
            id.unwrap().to_str().unwrap().into_owned()
        };
        assert_eq!(patient(&source), pseudonyms().patient("Doe-4711"));
        assert_eq!(patient(&found.source), patient(&source));
        // What was kept suffices to know the contrast again.
        assert!(choose(&again, &[], &[]).is_ok());
    }

    #[test]
    fn a_scan_after_a_contrast_agent_stays_one() {
        let none = (synthetic::text((0x18, 0x10), b"LO", "none"), false);
        let named = (synthetic::text((0x18, 0x10), b"LO", "Doe's drops"), true);
        let told = (
            synthetic::text((0x8, 0x103e), b"LO", "t1 post gd Doe"),
            true,
        );
        for (more, wanted) in [none, named, told] {
            let mut slices = synthetic::head();
            for slice in &mut slices {
                slice.more.clone_from(&more);
            }
            let study = read(&slices);
            let images = study.nameless(&[&study.stacks[0]], &pseudonyms()).unwrap();
            for (_, image) in images {
                assert_eq!(holds(&image, SOME_AGENT), wanted);
                assert!(!holds(&image, "Doe"));
            }
        }
    }

    #[test]
    fn a_key_gives_one_name_and_another_key_another() {
        let other = Pseudonyms::new([8; 32]);
        assert_eq!(pseudonyms().uid("1.2.3"), pseudonyms().uid("1.2.3\0"));
        assert_ne!(pseudonyms().uid("1.2.3"), pseudonyms().uid("1.2.4"));
        assert_ne!(pseudonyms().uid("1.2.3"), other.uid("1.2.3"));
        assert_ne!(pseudonyms().patient("1"), other.patient("1"));
        assert_eq!(pseudonyms().patient(""), "");
        assert_eq!(format!("{other:?}"), "Pseudonyms");
    }

    #[test]
    fn the_code_is_that_of_another_implementation() {
        // python3: hmac.new(bytes([7]) * 32, b"patient\0" + b"4711", "sha256").hexdigest()[:16].upper()
        assert_eq!(pseudonyms().patient("4711"), "2F096A58444A0D21");
    }

    #[test]
    fn an_image_in_whose_pixels_names_may_stand_is_refused() {
        for said in ["YES", "yes", "PERHAPS", "NO\\YES"] {
            let mut slices = synthetic::head();
            slices[3].more = synthetic::text((0x28, 0x301), b"CS", said);
            let study = read(&slices);
            let refused = study.names_nobody(&study.stacks[0]).unwrap_err();
            assert_eq!(refused.name(), "annotated", "{said}");
            let images = study.nameless(&[&study.stacks[0]], &pseudonyms());
            assert_eq!(images.unwrap_err(), (0, refused));
        }
        let mut slices = synthetic::head();
        slices[3].more = synthetic::text((0x28, 0x301), b"CS", "NO");
        let study = read(&slices);
        assert_eq!(study.names_nobody(&study.stacks[0]), Ok(()));
    }

    #[test]
    fn identifiers_that_are_none_become_none() {
        let mut slices = synthetic::head();
        for slice in &mut slices {
            // The last of equal attributes counts.
            slice.more = synthetic::text((0x20, 0x52), b"UI", " ");
        }
        let study = read(&slices);
        let scan = study.decode(&study.stacks[0]).unwrap();
        assert_eq!(
            pseudonyms().source(&scan.source).frame_of_reference_uid,
            None
        );
        let constant = pseudonyms().uid("");
        for (_, image) in study.nameless(&[&study.stacks[0]], &pseudonyms()).unwrap() {
            assert!(!holds(&image, constant.as_str()));
        }
        assert_eq!(pseudonyms().uid(" 1.2.3 "), pseudonyms().uid("1.2.3"));
    }
}
