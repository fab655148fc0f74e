//! Objects read back by a reader that shares nothing with the writer.
use std::collections::BTreeMap;

use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use glam::{DAffine3, DMat3, DQuat, DVec3};
use proptest::prelude::*;

use super::*;
use crate::dicom::{Identity, Source, SourceImage};
use crate::grid::{Orientation, WorldPoint};
use crate::lesions::{CountingRule, Lesions};
use crate::regions::Place;

const SHA256: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// A series along the axes of a grid, which may be left-handed: its slices then descend.
fn source(grid: &Grid, enhanced: bool) -> Source {
    let [i, j, k] = crate::grid::columns(grid.affine().matrix3);
    let lps = |v: DVec3| [-v.x, -v.y, v.z];
    let [row, column] = [i, j].map(|v| lps(v.normalize()));
    let images = (0..grid.shape()[2]).map(|slice| SourceImage {
        sop_class_uid: if enhanced {
            "1.2.840.10008.5.1.4.1.1.4.1".into()
        } else {
            "1.2.840.10008.5.1.4.1.1.4".into()
        },
        sop_instance_uid: if enhanced {
            "1.2.3.4".into()
        } else {
            format!("1.2.3.4.{}", slice + 1)
        },
        // Frames stand in the file in another order than in space.
        frame_number: enhanced.then_some(grid.shape()[2] as u32 - slice as u32),
        position_mm: lps(grid.centre_of([0, 0, slice]).0),
    });
    let text = |tag, vr, text: &str| DataElement::new(tag, vr, text);
    let identity = InMemDicomObject::from_element_iter([
        text(tags::PATIENT_NAME, VR::PN, "Döe^Jane"),
        text(tags::PATIENT_ID, VR::LO, "P-1"),
        text(tags::STUDY_DATE, VR::DA, "20260101"),
    ]);
    Source {
        study_instance_uid: "1.2.3".into(),
        series_instance_uid: "1.2.3.1".into(),
        frame_of_reference_uid: Some("1.2.3.9".into()),
        position_reference_indicator: String::new(),
        orientation: [row[0], row[1], row[2], column[0], column[1], column[2]],
        pixel_spacing_mm: [j.length(), i.length()],
        slice_spacing_mm: k.length(),
        rows: grid.shape()[1] as u16,
        columns: grid.shape()[0] as u16,
        images: images.collect(),
        identity: Identity::of(&identity),
    }
}

/// A grid of uneven shape and spacing, turned about a skew axis.
fn grid(orientation: Orientation, degrees: f64) -> Grid {
    let turn = DQuat::from_axis_angle(DVec3::new(1.0, 2.0, -0.5).normalize(), degrees.to_radians());
    let matrix3 = DMat3::from_quat(turn) * DMat3::from_diagonal(DVec3::new(0.9, 1.1, 3.0));
    let affine = DAffine3 {
        matrix3,
        translation: DVec3::new(-12.0, 31.5, -7.25),
    };
    Grid::new([9, 7, 5], affine).unwrap().oriented(orientation)
}

/// Lesions where a random sequence is high.
fn lesions(grid: Grid, seed: u64) -> Lesions {
    let mut state = seed | 1;
    let probability = Volume::from_fn(grid, |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f32::from(state >> 60 == 0)
    });
    let rule = CountingRule {
        threshold: 0.5,
        min_lesion_ml: 0.0,
    };
    Lesions::find(&probability, rule)
}

fn places(lesions: &Lesions) -> Vec<Place> {
    let regions = Region::ALL.into_iter().cycle();
    let place = |(region, _)| Place {
        region,
        to_ventricles_mm: 1.0,
        to_cortex_mm: 1.0,
        infratentorial: 0.0,
    };
    regions.zip(&lesions.items).map(place).collect()
}

const MADE_BY: MadeBy<'_> = MadeBy {
    version: "0.1.0",
    model: Model {
        name: "unet",
        version: "1.2.0",
        sha256: SHA256,
    },
    anatomy: None,
    method: "voxels of at least 0.5, joined across corners",
};

/// What a writer is made of, kept alive for it.
struct Case {
    source: Source,
    flair: Volume<f32>,
    lesions: Lesions,
    places: Vec<Place>,
    computed: Moment,
}

impl Case {
    fn new(grid: Grid, enhanced: bool, lesions: Lesions) -> Self {
        Self {
            source: source(&grid, enhanced),
            flair: Volume::from_fn(grid, |[i, j, k]| (i + j + k) as f32),
            places: places(&lesions),
            lesions,
            computed: Moment::parse("20260102101500").unwrap(),
        }
    }

    fn writer(&self) -> Writer<'_> {
        self.try_writer().unwrap()
    }

    fn try_writer(&self) -> Result<Writer<'_>, Error> {
        Writer::new(Findings {
            source: &self.source,
            also_seen: &[],
            flair: &self.flair,
            lesions: &self.lesions,
            places: &self.places,
            frame: preview::Frame::around(self.flair.grid(), 0.0, 20.0),
            made_by: MADE_BY,
            flags: &[Flag {
                code: "brain_not_extracted",
                detail: "no brain was found",
            }],
            computed: &self.computed,
        })
    }
}

fn standard(seed: u64) -> Case {
    let grid = grid(Orientation::parse("LPS").unwrap(), 20.0);
    Case::new(grid, false, lesions(grid, seed))
}

fn read(object: &Object) -> DefaultDicomObject {
    let file = dicom_object::from_reader(object.file.as_slice()).unwrap();
    let uid = file.element(tags::SOP_INSTANCE_UID).unwrap();
    assert_eq!(uid.to_str().unwrap(), object.sop_instance_uid.as_str());
    assert_eq!(
        file.meta().media_storage_sop_instance_uid(),
        object.sop_instance_uid.as_str()
    );
    file
}

fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    object.get(tag).map_or(&[], |e| e.items().unwrap_or(&[]))
}

fn text(object: &InMemDicomObject, tag: Tag) -> String {
    object.element(tag).unwrap().to_str().unwrap().into_owned()
}

fn numbers(object: &InMemDicomObject, tag: Tag) -> Vec<f64> {
    object.element(tag).unwrap().to_multi_float64().unwrap()
}

/// Segment numbers by world voxel of `onto`, each pixel placed by the file's own geometry.
fn voxels(file: &InMemDicomObject, onto: &Grid) -> BTreeMap<(u16, [usize; 3]), usize> {
    let n = |tag| file.element(tag).unwrap().to_int::<usize>().unwrap();
    let (rows, columns, depth) = (n(tags::ROWS), n(tags::COLUMNS), n(tags::BITS_ALLOCATED));
    let bytes = file.element(tags::PIXEL_DATA).unwrap().to_bytes().unwrap();
    let shared = &items(file, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE)[0];
    let measures = &items(shared, tags::PIXEL_MEASURES_SEQUENCE)[0];
    let spacing = numbers(measures, tags::PIXEL_SPACING);
    let orientation = &items(shared, tags::PLANE_ORIENTATION_SEQUENCE)[0];
    let cosines = numbers(orientation, tags::IMAGE_ORIENTATION_PATIENT);
    let frames = items(file, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    assert_eq!(frames.len(), n(tags::NUMBER_OF_FRAMES));
    assert_eq!(
        bytes.len(),
        (frames.len() * rows * columns * depth).div_ceil(16) * 2
    );
    let mut found = BTreeMap::new();
    for (f, frame) in frames.iter().enumerate() {
        let place = &items(frame, tags::PLANE_POSITION_SEQUENCE)[0];
        let position = numbers(place, tags::IMAGE_POSITION_PATIENT);
        let segment = items(frame, tags::SEGMENT_IDENTIFICATION_SEQUENCE).first();
        for row in 0..rows {
            for column in 0..columns {
                let at = (f * rows + row) * columns + column;
                let value = match depth {
                    1 => u16::from(bytes[at / 8] >> (at % 8) & 1),
                    8 => u16::from(bytes[at]),
                    _ => u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]),
                };
                let lps = [0, 1, 2].map(|a| {
                    position[a]
                        + cosines[a] * spacing[1] * column as f64
                        + cosines[3 + a] * spacing[0] * row as f64
                });
                let world = WorldPoint(DVec3::new(-lps[0], -lps[1], lps[2]));
                let voxel = onto.voxel(world).0;
                assert!((voxel - voxel.round()).length() < 1e-6, "{voxel}");
                if value != 0 {
                    let number = segment.map_or(value, |s| {
                        let number = s.element(tags::REFERENCED_SEGMENT_NUMBER).unwrap();
                        number.to_int().unwrap()
                    });
                    let voxel = voxel.round().to_array().map(|x| x as usize);
                    *found.entry((number, voxel)).or_insert(0) += 1;
                }
            }
        }
    }
    found
}

/// The same from the lesions: `segments` gives those of a lesion.
fn wanted(
    lesions: &Lesions,
    segments: impl Fn(u32) -> Vec<u16>,
) -> BTreeMap<(u16, [usize; 3]), usize> {
    let grid = lesions.instances.grid();
    let samples = lesions.instances.samples().iter().enumerate();
    samples
        .filter(|(_, id)| **id != 0)
        .flat_map(|(at, &id)| {
            segments(id)
                .into_iter()
                .map(move |s| ((s, grid.index(at)), 1))
        })
        .collect()
}

#[test]
fn no_voxel_differs_in_any_of_the_48_orientations() {
    for (n, orientation) in Orientation::all().into_iter().enumerate() {
        for (degrees, enhanced) in [(0.0, false), (17.0, true), (-38.0, false)] {
            let slices = grid(orientation, degrees);
            // Found on RAS+ axes, written on those of the series.
            let found = lesions(slices.canonical(), 7 * n as u64 + 1);
            let case = Case::new(slices, enhanced, found);
            let writer = case.writer();
            let ras = case.lesions.instances.grid();
            let each = read(&writer.each_lesion().unwrap().unwrap());
            let by_id = wanted(&case.lesions, |id| vec![id as u16]);
            assert!(!by_id.is_empty());
            assert_eq!(voxels(&each, ras), by_id, "{orientation}");
            assert_eq!(voxels(&read(&writer.label_map().unwrap()), ras), by_id);
            let regions = writer.regions();
            let burden = wanted(&case.lesions, |id| {
                let region = case.places[id as usize - 1].region;
                let at = regions.iter().position(|&r| r == region).unwrap();
                vec![1, at as u16 + 2]
            });
            assert_eq!(voxels(&read(&writer.burden().unwrap()), ras), burden);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_voxel_differs_on_oblique_planes(seed in any::<u64>(), degrees in -180.0..180.0_f64, n in 0..48_usize) {
        let slices = grid(Orientation::all()[n], degrees);
        let case = Case::new(slices, seed % 2 == 0, lesions(slices, seed));
        prop_assume!(!case.lesions.items.is_empty());
        let each = read(&case.writer().each_lesion().unwrap().unwrap());
        let by_id = wanted(&case.lesions, |id| vec![id as u16]);
        prop_assert_eq!(voxels(&each, &slices), by_id);
    }
}

#[test]
fn every_frame_names_the_slice_at_its_place() {
    for enhanced in [false, true] {
        let grid = grid(Orientation::parse("RSP").unwrap(), 12.0);
        let case = Case::new(grid, enhanced, lesions(grid, 3));
        let file = read(&case.writer().burden().unwrap());
        for frame in items(&file, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE) {
            let place = &items(frame, tags::PLANE_POSITION_SEQUENCE)[0];
            let position = numbers(place, tags::IMAGE_POSITION_PATIENT);
            let derivation = &items(frame, tags::DERIVATION_IMAGE_SEQUENCE)[0];
            let image = &items(derivation, tags::SOURCE_IMAGE_SEQUENCE)[0];
            let uid = text(image, tags::REFERENCED_SOP_INSTANCE_UID);
            let number = image.get(tags::REFERENCED_FRAME_NUMBER);
            let number = number.map(|e| e.to_int::<u32>().unwrap());
            let there = case
                .source
                .images
                .iter()
                .find(|i| i.sop_instance_uid == uid && i.frame_number == number);
            let there = there.unwrap().position_mm;
            let off = (0..3)
                .map(|a| (there[a] - position[a]).abs())
                .fold(0.0, f64::max);
            assert!(off < 1e-9, "{off}");
        }
        let named = items(&file, tags::REFERENCED_SERIES_SEQUENCE);
        let instances = items(&named[0], tags::REFERENCED_INSTANCE_SEQUENCE);
        let distinct = if enhanced { 1 } else { grid.shape()[2] };
        assert_eq!(instances.len(), distinct);
    }
}

/// Groups of the measurements: tracking identifier and UID, volume, count, segmentation and segment.
fn groups(file: &InMemDicomObject) -> Vec<(String, String, f64, Option<f64>, String, u16)> {
    let code_of = |item: &InMemDicomObject| {
        text(
            &items(item, tags::CONCEPT_NAME_CODE_SEQUENCE)[0],
            tags::CODE_VALUE,
        )
    };
    let content = items(file, tags::CONTENT_SEQUENCE);
    let measurements = content
        .iter()
        .find(|item| code_of(item) == "126010")
        .unwrap();
    let group = |group: &InMemDicomObject| {
        let item = |code: &str| {
            let items = items(group, tags::CONTENT_SEQUENCE);
            items.iter().find(|item| code_of(item) == code)
        };
        let number = |code: &str| {
            let value = &items(item(code)?, tags::MEASURED_VALUE_SEQUENCE)[0];
            let exact = value.get(tags::FLOATING_POINT_VALUE);
            let exact = exact.map(|e| e.to_float64().unwrap());
            Some(exact.unwrap_or_else(|| numbers(value, tags::NUMERIC_VALUE)[0]))
        };
        let image = &items(item("121191").unwrap(), tags::REFERENCED_SOP_SEQUENCE)[0];
        let segment = image.element(tags::REFERENCED_SEGMENT_NUMBER).unwrap();
        (
            text(item("112039").unwrap(), tags::TEXT_VALUE),
            text(item("112040").unwrap(), tags::UID),
            number("118565006").unwrap(),
            number("LESION_COUNT"),
            text(image, tags::REFERENCED_SOP_INSTANCE_UID),
            segment.to_int().unwrap(),
        )
    };
    items(measurements, tags::CONTENT_SEQUENCE)
        .iter()
        .map(group)
        .collect()
}

#[test]
fn measurements_are_those_of_the_report_and_track_the_segments() {
    let case = standard(5);
    let writer = case.writer();
    let (burden, each) = (
        writer.burden().unwrap(),
        writer.each_lesion().unwrap().unwrap(),
    );
    let groups = groups(&read(&writer.measurements(&burden, Some(&each)).unwrap()));
    let segments = |object: &Object| -> Vec<(String, String)> {
        let file = read(object);
        let segments = items(&file, tags::SEGMENT_SEQUENCE).iter();
        segments
            .map(|s| (text(s, tags::TRACKING_ID), text(s, tags::TRACKING_UID)))
            .collect()
    };
    let (of_burden, of_each) = (segments(&burden), segments(&each));
    assert_eq!(groups.len(), of_burden.len() + of_each.len());
    for (id, uid, _, _, instance, segment) in &groups {
        let segments = if *instance == burden.sop_instance_uid.as_str() {
            &of_burden
        } else {
            assert_eq!(*instance, each.sop_instance_uid.as_str());
            &of_each
        };
        assert_eq!(
            segments[usize::from(*segment) - 1],
            (id.clone(), uid.clone())
        );
    }
    let items = &case.lesions.items;
    assert!(items.len() > 4);
    assert_eq!(groups[0].2.to_bits(), case.lesions.volume_ml().to_bits());
    assert_eq!(groups[0].3, Some(items.len() as f64));
    let last = &groups[of_burden.len()..];
    for (lesion, group) in items.iter().zip(last) {
        assert_eq!(group.0, format!("Lesion {}", lesion.id));
        assert_eq!(group.2.to_bits(), lesion.volume_ml.to_bits());
    }
    let by_region = groups[1..of_burden.len()]
        .iter()
        .map(|g| g.3.unwrap() as usize);
    assert_eq!(by_region.sum::<usize>(), items.len());
}

#[test]
fn no_lesion_is_an_empty_frame_for_each_slice_and_a_count_of_zero() {
    let grid = grid(Orientation::parse("LPS").unwrap(), 0.0);
    let none = Lesions::find(
        &Volume::filled(grid, 0.0),
        CountingRule {
            threshold: 0.5,
            min_lesion_ml: 0.0,
        },
    );
    let case = Case::new(grid, false, none);
    let writer = case.writer();
    let burden = writer.burden().unwrap();
    let file = read(&burden);
    assert_eq!(text(&file, tags::NUMBER_OF_FRAMES), "5");
    assert!(voxels(&file, &grid).is_empty());
    assert!(writer.each_lesion().unwrap().is_none());
    let groups = groups(&read(&writer.measurements(&burden, None).unwrap()));
    assert_eq!(groups.len(), 1);
    assert_eq!((groups[0].2, groups[0].3), (0.0, Some(0.0)));
    assert_eq!(writer.captures(Captured::WithLesions).unwrap().len(), 1);
    assert!(!writer.document().unwrap().file.is_empty());
    assert!(voxels(&read(&writer.label_map().unwrap()), &grid).is_empty());
}

fn all(writer: &Writer<'_>) -> Vec<Object> {
    writer.objects(&Kind::ALL, Captured::EverySlice).unwrap()
}

#[test]
fn measurements_bring_what_they_refer_to_and_nothing_else_comes_unasked() {
    let kinds = |asked: &[Kind]| -> Vec<Kind> {
        let objects = standard(5).writer().objects(asked, Captured::WithLesions);
        objects.unwrap().iter().map(|o| o.kind).collect()
    };
    let with = [Kind::Burden, Kind::EachLesion, Kind::Measurements];
    assert_eq!(kinds(&[Kind::Measurements]), with);
    assert_eq!(kinds(&[Kind::Document]), [Kind::Document]);
    assert_eq!(kinds(&[]), []);
    assert!(kinds(&Kind::ALL).is_sorted());
}

#[test]
fn a_repetition_gives_the_same_bytes_and_other_content_other_identifiers() {
    let once = all(&standard(5).writer());
    assert_eq!(once, all(&standard(5).writer()));
    let mut later = standard(5);
    later.computed = Moment::parse("20260102101501").unwrap();
    let uids = |objects: &[Object]| -> Vec<Uid> {
        let uids = objects.iter();
        uids.flat_map(|o| [o.sop_instance_uid.clone(), o.series_instance_uid.clone()])
            .collect()
    };
    let before = uids(&once);
    for other in [later, standard(6)] {
        assert!(
            uids(&all(&other.writer()))
                .iter()
                .all(|uid| !before.contains(uid))
        );
    }
    // Lesions are the same ones an hour later.
    let (a, b) = (standard(5), standard(5));
    assert_eq!(
        a.writer().tracking(&a.lesions.items[0]),
        b.writer().tracking(&b.lesions.items[0])
    );
}

#[test]
fn every_object_says_whose_it_is_and_what_made_it() {
    let case = standard(5);
    for object in all(&case.writer()) {
        let file = read(&object);
        assert_eq!(text(&file, tags::PATIENT_NAME), "Döe^Jane");
        assert_eq!(text(&file, tags::STUDY_INSTANCE_UID), "1.2.3");
        assert!(text(&file, tags::SOFTWARE_VERSIONS).contains(SHA256));
        let bytes = String::from_utf8_lossy(&object.file).into_owned();
        assert!(
            bytes.contains("unet") && bytes.contains("1.2.0"),
            "{:?}",
            object.kind
        );
        assert!(
            bytes.contains("1.2.3.4.1"),
            "{:?} names no source",
            object.kind
        );
        assert!(object.kind == Kind::Document || bytes.contains("Not for diagnostic use."));
    }
}

#[test]
fn what_lies_elsewhere_is_refused() {
    let shifted = grid(Orientation::parse("LPS").unwrap(), 20.0);
    let mut case = standard(5);
    let affine = DAffine3 {
        translation: shifted.world(crate::grid::VoxelPoint(DVec3::X)).0,
        ..shifted.affine()
    };
    case.lesions = lesions(Grid::new(shifted.shape(), affine).unwrap(), 5);
    case.places = places(&case.lesions);
    assert!(matches!(
        case.try_writer(),
        Err(Error::Grid {
            what: "lesions",
            ..
        })
    ));
    let mut case = standard(5);
    case.places.pop();
    assert!(matches!(case.try_writer(), Err(Error::Places { .. })));
    let mut case = standard(5);
    case.source.images[2].position_mm[0] += 1.0;
    assert!(matches!(
        case.try_writer(),
        Err(Error::SourceSlice { slice: 2, .. })
    ));
    let mut case = standard(5);
    case.source.images.clear();
    assert!(matches!(case.try_writer(), Err(Error::SourceGrid(_))));
}

#[test]
fn a_source_without_a_frame_of_reference_gets_one_for_all_its_objects() {
    let mut case = standard(5);
    case.source.frame_of_reference_uid = None;
    let writer = case.writer();
    let frame = |object: &Object| text(&read(object), tags::FRAME_OF_REFERENCE_UID);
    let one = frame(&writer.burden().unwrap());
    assert!(one.starts_with("2.25."));
    assert_eq!(one, frame(&writer.each_lesion().unwrap().unwrap()));
}
