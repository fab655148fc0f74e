//! Writes a head that nobody has as a DICOM series, and the results of its lesions as DICOM objects.
//!
//! ```text
//! cargo run --release -p dawson-imaging --example dicom_results -- OUT [PLANE] [--enhanced] [--descending]
//!     [--no-lesions] [--no-regions]
//! … OUT --from SERIES MASK
//! ```
//!
//! PLANE is `axial` (the default), `sagittal`, `coronal`, `oblique` or `negated` (axial with both
//! cosines negated). OUT gets `series/` (the FLAIR, classic or enhanced MR), `results/` (the
//! objects), `instances.nii.gz` (the lesions' numbers on the series' grid), `report.pdf` and
//! `lesions.tsv`, a line per lesion: its number, volume in ml, tracking UID and region. Viewers and
//! validators are tried on these without anybody's images. With `--from`, SERIES is a folder with the files
//! of one series, MASK a NIfTI file on its voxels that is not 0 in lesions.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "an example writes files, prints and may fail loudly"
)]
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dawson_imaging::dicom::write::{Captured, Findings, Flag, Kind, MadeBy, Model, Moment, Writer};
use dawson_imaging::dicom::{Identity, Limits, Source, SourceImage, Study};
use dawson_imaging::grid::{Grid, WorldPoint};
use dawson_imaging::lesions::{CountingRule, Lesions};
use dawson_imaging::nifti::{self, Compression, SpatialFields, encode};
use dawson_imaging::phantom::{PhantomOptions, Skull, head};
use dawson_imaging::preview::Frame;
use dawson_imaging::regions::{Place, Region};
use dawson_imaging::resample::reorder;
use dawson_imaging::study::Contrast;
use dawson_imaging::volume::Volume;
use dicom_core::value::{DataSetSequence, PrimitiveValue};
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use glam::{DAffine3, DMat3, DQuat, DVec3};

const STUDY: &str = "2.25.100000000000000000000000000000000001";
const SERIES: &str = "2.25.100000000000000000000000000000000002";
const FRAME_OF_REFERENCE: &str = "2.25.100000000000000000000000000000000003";
const INSTANCE: &str = "2.25.10000000000000000000000000000000001";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |flag: &str| arguments.iter().any(|a| a == flag);
    let mut words = arguments.iter().filter(|a| !a.starts_with("--"));
    let out = PathBuf::from(words.next().expect("give the folder to write to"));
    let rule = CountingRule {
        threshold: 0.5,
        min_lesion_ml: 0.0,
    };
    let subject = if asked("--from") {
        let series = words.next().expect("give the folder of the series");
        Subject::given(series, words.next().expect("give the mask"), rule)
    } else {
        let plane = words.next().map_or("axial", String::as_str);
        Subject::phantom(&arguments, plane, &out.join("series"), rule)
    };
    let Subject {
        source,
        flair,
        lesions,
        around: (low, high),
    } = &subject;
    let places = if asked("--no-regions") {
        Vec::new()
    } else {
        places(lesions)
    };
    let computed = Moment::parse("20260102101500").expect("a moment");
    let white = f64::from(flair.samples().iter().copied().fold(0.0, f32::max)) * 0.8;
    let writer = Writer::new(Findings {
        source,
        also_seen: &[],
        flair,
        lesions,
        places: &places,
        frame: Frame {
            low: *low,
            high: *high,
            black: 0.0,
            white,
        },
        made_by: MadeBy {
            version: env!("CARGO_PKG_VERSION"),
            model: Model {
                name: "phantom-truth",
                version: "1.0.0",
                sha256: "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
            },
            anatomy: None,
            method: "Voxels with a probability of at least 0.5, joined across faces, edges and corners.",
        },
        flags: &[Flag {
            code: "brain_not_extracted",
            detail: "the skull is in the picture; the network saw it",
        }],
        computed: &computed,
    })
    .expect("the lesions lie on the series");
    write_results(&out, &writer, lesions, &places);
    let file = encode(
        &lesions.instances,
        &SpatialFields::of(flair.grid()),
        Compression::Gzip,
    );
    write(&out.join("instances.nii.gz"), &file);
    println!(
        "{} lesions, {:.4} ml",
        lesions.items.len(),
        lesions.volume_ml()
    );
}

/// Whose lesions are written.
struct Subject {
    source: Source,
    flair: Volume<f32>,
    lesions: Lesions,
    /// The box that pictures show.
    around: (WorldPoint, WorldPoint),
}

impl Subject {
    /// A head that nobody has, whose series is written to a folder.
    fn phantom(arguments: &[String], plane: &str, series: &Path, rule: CountingRule) -> Self {
        let asked = |flag: &str| arguments.iter().any(|a| a == flag);
        let load = if asked("--no-lesions") { 0.0 } else { 8.0 };
        let mut phantom = head(&PhantomOptions {
            grid: slices(plane, asked("--descending")),
            skull: Skull::Kept,
            lesion_load_ml: load,
            contrasts: vec![Contrast::Flair],
            ..PhantomOptions::standard(11)
        });
        let (_, flair) = phantom.scans.pop().expect("the FLAIR was asked for");
        Self {
            source: write_series(series, &flair, asked("--enhanced")),
            lesions: Lesions::find(&phantom.lesions.map(f32::from), rule),
            around: around(&phantom.brain),
            flair,
        }
    }

    /// A series that is there, and a mask of its lesions.
    fn given(series: &str, mask: &str, rule: CountingRule) -> Self {
        let files = std::fs::read_dir(series).expect("the folder can be read");
        let files = files.map(|file| {
            let path = file.expect("an entry of the folder").path();
            std::fs::read(path).expect("the file can be read")
        });
        let study = Study::read(files, &Limits::CLINICAL).expect("the files are a study");
        let stack = study.stacks.first().expect("the files hold a stack");
        let scan = study.decode(stack).expect("the stack is a volume");
        let mask = std::fs::read(mask).expect("the mask can be read");
        let mask = nifti::decode(&mask, nifti::Limits::CLINICAL).expect("the mask is NIfTI");
        let inside = mask.volume.map(|value| f32::from(value > 0.0));
        let inside = reorder(&inside, scan.volume.grid(), 0.0).expect("the mask is on its voxels");
        Self {
            lesions: Lesions::find(&inside, rule),
            around: scan.volume.grid().bounds(),
            flair: scan.volume,
            source: scan.source,
        }
    }
}

/// 1.2 x 1.2 x 3 mm voxels around the head of the template.
fn slices(plane: &str, descending: bool) -> Grid {
    // Directions of a row and of a column in RAS+, and from slice to slice.
    let (row, column) = match plane {
        "sagittal" => (DVec3::NEG_Y, DVec3::NEG_Z),
        "coronal" => (DVec3::NEG_X, DVec3::NEG_Z),
        "negated" => (DVec3::X, DVec3::Y),
        _ => (DVec3::NEG_X, DVec3::NEG_Y),
    };
    let tilt = if plane == "oblique" {
        DQuat::from_euler(glam::EulerRot::XYZ, 0.22, -0.09, 0.06)
    } else {
        DQuat::IDENTITY
    };
    let (row, column) = (tilt * row, tilt * column);
    // LPS is RAS turned by half: a cross product is one there as here.
    let mut normal = row.cross(column);
    if descending {
        normal = -normal;
    }
    let extent = |along: DVec3| along.abs().dot(DVec3::new(190.0, 226.0, 190.0));
    let (across, down) = (1.2, 1.3);
    let shape = [
        (extent(row) / across) as usize,
        (extent(column) / down) as usize,
        (extent(normal) / 3.0) as usize,
    ];
    let matrix3 = DMat3::from_cols(row * across, column * down, normal * 3.0);
    let half = DVec3::from(shape.map(|n| (n - 1) as f64 / 2.0));
    let affine = DAffine3 {
        matrix3,
        translation: DVec3::new(0.0, -18.0, 18.0) - matrix3 * half,
    };
    Grid::new(shape, affine).expect("a grid of slices")
}

/// The box around a mask, with a margin of 8 mm.
fn around(mask: &Volume<u8>) -> (WorldPoint, WorldPoint) {
    let grid = mask.grid();
    let (mut low, mut high) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
    for (at, _) in mask.samples().iter().enumerate().filter(|(_, m)| **m != 0) {
        let WorldPoint(point) = grid.centre_of(grid.index(at));
        (low, high) = (low.min(point), high.max(point));
    }
    (WorldPoint(low - 8.0), WorldPoint(high + 8.0))
}

/// Each region in turn: the phantom's lesions carry no truth of them.
fn places(lesions: &Lesions) -> Vec<Place> {
    let regions = Region::ALL.into_iter().cycle().zip(&lesions.items);
    regions
        .map(|(region, _)| Place {
            region,
            to_ventricles_mm: f64::INFINITY,
            to_cortex_mm: f64::INFINITY,
            infratentorial: 0.0,
        })
        .collect()
}

fn write_results(out: &Path, writer: &Writer<'_>, lesions: &Lesions, places: &[Place]) {
    let objects = writer
        .objects(&Kind::ALL, Captured::WithLesions)
        .expect("every object");
    for object in &objects {
        write(&out.join("results").join(&object.name), &object.file);
    }
    write(&out.join("report.pdf"), &writer.pdf().expect("a page"));
    let mut table = String::new();
    for (n, lesion) in lesions.items.iter().enumerate() {
        let (_, uid) = writer.tracking(lesion);
        let region = places.get(n).map_or("", |place| place.region.name());
        writeln!(
            table,
            "{}\t{}\t{uid}\t{region}",
            lesion.id, lesion.volume_ml
        )
        .expect("a String takes all text");
    }
    write(&out.join("lesions.tsv"), table.as_bytes());
}

fn write(path: &Path, bytes: &[u8]) {
    let folder = path.parent().expect("a file in a folder");
    std::fs::create_dir_all(folder).expect("the folder can be made");
    std::fs::write(path, bytes).expect("the file can be written");
}

/// What the series is read back as.
fn write_series(folder: &Path, flair: &Volume<f32>, enhanced: bool) -> Source {
    let grid = *flair.grid();
    let [columns, rows, slices] = grid.shape();
    let unit = |v: DVec3| lps(v / v.length());
    let m = grid.affine().matrix3;
    let [a, b, c] = unit(m.x_axis);
    let [d, e, f] = unit(m.y_axis);
    let [across, down, through] = grid.spacing_mm();
    let position = |slice| lps(grid.centre_of([0, 0, slice]).0);
    let geometry = Geometry {
        orientation: [a, b, c, d, e, f],
        spacing: [down, across],
        through,
    };
    let stored: Vec<u16> = flair.samples().iter().map(|&v| v.round() as u16).collect();
    let of_slice = |slice: usize| stored[slice * rows * columns..][..rows * columns].to_vec();
    let mut images = Vec::new();
    if enhanced {
        // Frames in another order than in space, as scanners have them.
        let order: Vec<usize> = (0..slices).rev().collect();
        let frames: Vec<[f64; 3]> = order.iter().map(|&slice| position(slice)).collect();
        let pixels = order.iter().flat_map(|&slice| of_slice(slice)).collect();
        let uid = format!("{INSTANCE}0");
        let mut object = common(
            uids::ENHANCED_MR_IMAGE_STORAGE,
            &uid,
            [rows, columns],
            pixels,
        );
        geometry.enhance(&mut object, &frames);
        save(&folder.join("enhanced.dcm"), object);
        images.extend((0..slices).map(|slice| SourceImage {
            sop_class_uid: uids::ENHANCED_MR_IMAGE_STORAGE.to_owned(),
            sop_instance_uid: uid.clone(),
            frame_number: Some((slices - slice) as u32),
            position_mm: position(slice),
        }));
    } else {
        for slice in 0..slices {
            let uid = format!("{INSTANCE}{}", slice + 1);
            let at = position(slice);
            let class = uids::MR_IMAGE_STORAGE;
            let mut object = common(class, &uid, [rows, columns], of_slice(slice));
            geometry.describe(&mut object, at, slice + 1);
            save(&folder.join(format!("{:04}.dcm", slice + 1)), object);
            images.push(SourceImage {
                sop_class_uid: class.to_owned(),
                sop_instance_uid: uid,
                frame_number: None,
                position_mm: at,
            });
        }
    }
    Source {
        study_instance_uid: STUDY.to_owned(),
        series_instance_uid: SERIES.to_owned(),
        frame_of_reference_uid: Some(FRAME_OF_REFERENCE.to_owned()),
        position_reference_indicator: String::new(),
        orientation: geometry.orientation,
        pixel_spacing_mm: geometry.spacing,
        slice_spacing_mm: through,
        rows: rows as u16,
        columns: columns as u16,
        images,
        identity: Identity::of(&patient()),
    }
}

fn lps(v: DVec3) -> [f64; 3] {
    [-v.x, -v.y, v.z]
}

struct Geometry {
    orientation: [f64; 6],
    spacing: [f64; 2],
    through: f64,
}

impl Geometry {
    fn describe(&self, object: &mut InMemDicomObject, at: [f64; 3], number: usize) {
        decimals(object, tags::IMAGE_POSITION_PATIENT, &at);
        decimals(object, tags::IMAGE_ORIENTATION_PATIENT, &self.orientation);
        decimals(object, tags::PIXEL_SPACING, &self.spacing);
        decimals(object, tags::SLICE_THICKNESS, &[self.through]);
        text(object, tags::INSTANCE_NUMBER, VR::IS, &number.to_string());
    }

    fn enhance(&self, object: &mut InMemDicomObject, frames: &[[f64; 3]]) {
        let mut measures = InMemDicomObject::new_empty();
        decimals(&mut measures, tags::PIXEL_SPACING, &self.spacing);
        decimals(&mut measures, tags::SLICE_THICKNESS, &[self.through]);
        let mut orientation = InMemDicomObject::new_empty();
        let cosines = tags::IMAGE_ORIENTATION_PATIENT;
        decimals(&mut orientation, cosines, &self.orientation);
        let mut shared = InMemDicomObject::new_empty();
        sequence(&mut shared, tags::PIXEL_MEASURES_SEQUENCE, vec![measures]);
        let plane = tags::PLANE_ORIENTATION_SEQUENCE;
        sequence(&mut shared, plane, vec![orientation]);
        let per_frame = frames.iter().map(|at| {
            let mut place = InMemDicomObject::new_empty();
            decimals(&mut place, tags::IMAGE_POSITION_PATIENT, at);
            let mut frame = InMemDicomObject::new_empty();
            sequence(&mut frame, tags::PLANE_POSITION_SEQUENCE, vec![place]);
            frame
        });
        let per_frame = per_frame.collect();
        sequence(
            object,
            tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
            vec![shared],
        );
        sequence(
            object,
            tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
            per_frame,
        );
        text(object, tags::INSTANCE_NUMBER, VR::IS, "1");
        let n = frames.len().to_string();
        text(object, tags::NUMBER_OF_FRAMES, VR::IS, &n);
    }
}

/// A patient that nobody is.
fn patient() -> InMemDicomObject {
    let mut object = InMemDicomObject::new_empty();
    for (tag, vr, value) in [
        (tags::PATIENT_NAME, VR::PN, "Phäntom^Ada"),
        (tags::PATIENT_ID, VR::LO, "PHANTOM-11"),
        (tags::PATIENT_BIRTH_DATE, VR::DA, "19800229"),
        (tags::PATIENT_SEX, VR::CS, "F"),
        (tags::STUDY_DATE, VR::DA, "20260101"),
        (tags::STUDY_TIME, VR::TM, "101112"),
        (tags::STUDY_ID, VR::SH, "1"),
        (tags::ACCESSION_NUMBER, VR::SH, "A-11"),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        (tags::STUDY_DESCRIPTION, VR::LO, "MS brain"),
    ] {
        text(&mut object, tag, vr, value);
    }
    object
}

fn common(class: &str, uid: &str, size: [usize; 2], pixels: Vec<u16>) -> InMemDicomObject {
    let mut object = patient();
    for (tag, vr, value) in [
        (tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
        (tags::SOP_CLASS_UID, VR::UI, class),
        (tags::SOP_INSTANCE_UID, VR::UI, uid),
        (tags::STUDY_INSTANCE_UID, VR::UI, STUDY),
        (tags::SERIES_INSTANCE_UID, VR::UI, SERIES),
        (tags::SERIES_NUMBER, VR::IS, "2"),
        (tags::SERIES_DESCRIPTION, VR::LO, "t2 flair"),
        (tags::FRAME_OF_REFERENCE_UID, VR::UI, FRAME_OF_REFERENCE),
        (tags::POSITION_REFERENCE_INDICATOR, VR::LO, ""),
        (tags::MODALITY, VR::CS, "MR"),
        (tags::MANUFACTURER, VR::LO, "Phantom"),
        (tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\M\\ND"),
        (tags::SCANNING_SEQUENCE, VR::CS, "SE\\IR"),
        (tags::SEQUENCE_VARIANT, VR::CS, "SK"),
        (tags::SCAN_OPTIONS, VR::CS, ""),
        (tags::MR_ACQUISITION_TYPE, VR::CS, "2D"),
        (tags::REPETITION_TIME, VR::DS, "9000"),
        (tags::ECHO_TIME, VR::DS, "120"),
        (tags::INVERSION_TIME, VR::DS, "2500"),
        (tags::ECHO_TRAIN_LENGTH, VR::IS, "16"),
        (tags::BODY_PART_EXAMINED, VR::CS, "BRAIN"),
        (tags::PATIENT_POSITION, VR::CS, "HFS"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
    ] {
        text(&mut object, tag, vr, value);
    }
    let [rows, columns] = size;
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, rows as u16),
        (tags::COLUMNS, columns as u16),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    let pixels = PrimitiveValue::U16(pixels.into());
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
    object
}

fn text(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: &str) {
    let values: Vec<String> = value.split('\\').map(str::to_owned).collect();
    let value = if value.is_empty() {
        PrimitiveValue::Empty
    } else {
        PrimitiveValue::Strs(values.into())
    };
    object.put(DataElement::new(tag, vr, value));
}

fn decimals(object: &mut InMemDicomObject, tag: Tag, numbers: &[f64]) {
    let texts: Vec<String> = numbers.iter().map(|n| format!("{n:.9}")).collect();
    text(object, tag, VR::DS, &texts.join("\\"));
}

fn sequence(object: &mut InMemDicomObject, tag: Tag, items: Vec<InMemDicomObject>) {
    object.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
}

fn save(path: &Path, object: InMemDicomObject) {
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let file = object.with_meta(meta).expect("an object with its UIDs");
    let mut bytes = Vec::new();
    file.write_all(&mut bytes).expect("a file in memory");
    write(path, &bytes);
}
