//! The path of a study, on a phantom whose truth is known.
use std::sync::Arc;

use dawson_imaging::align::Align;
use dawson_imaging::evaluate::{EvaluationOptions, OverlapRule, evaluate};
use dawson_imaging::nifti::{Compression, SpatialFields, encode};
use dawson_imaging::study::Contrast;
use dawson_inference::models::{Registry, Voting};
use dawson_inference::pipeline::{Asked, Cancel, Error, Output, Settings, Stage};
use dawson_inference::problem::Code;

use super::support::{engine_config, models, phantom, segment, segmenter, study};

#[test]
fn lesions_are_found_where_they_are() {
    let found = segment(
        &segmenter(&engine_config("auto")),
        study(&[Contrast::Flair, Contrast::T2w]),
        &Asked::default(),
    )
    .unwrap();
    let options = EvaluationOptions {
        min_lesion_ml: 0.0,
        overlap_rule: OverlapRule::AnyVoxel,
    };
    let against = evaluate(
        &found.lesions.mask(),
        &phantom().lesions,
        None,
        None,
        options,
    )
    .unwrap();
    assert!(against.dsc > 0.5, "{}", against.dsc);
    assert_eq!(found.report.lesions.count, found.lesions.items.len());
    assert_eq!(found.report.study.foreground, "brain");
    // Voxels of 3 mm are not what is recommended, and nothing else is wrong.
    let warned: Vec<&str> = found
        .report
        .warnings
        .iter()
        .map(|w| w.code.as_str())
        .collect();
    assert_eq!(warned, ["coarse_voxels"]);
}

#[test]
fn one_look_and_many_with_every_overlap_agree_for_a_network_that_sees_little() {
    let segmenter = segmenter(&engine_config("auto"));
    let run = |asked: Asked| segment(&segmenter, study(&[Contrast::Flair]), &asked).unwrap();
    let single = run(Asked {
        voting: Some(Voting::Single),
        ..Asked::default()
    });
    assert_eq!(single.report.settings.patches, 1);
    for overlap in [0.25, 0.5] {
        let full = run(Asked {
            overlap: Some(overlap),
            ..Asked::default()
        });
        assert!(full.report.settings.patches > 8);
        // Patches' rims differ by the convolution's padding; B-spline votes weigh rims least.
        let off = full
            .probability
            .samples()
            .iter()
            .zip(single.probability.samples());
        let mean = off.map(|(a, b)| f64::from((a - b).abs())).sum::<f64>()
            / full.probability.samples().len() as f64;
        assert!(mean < 2e-3, "{mean}");
        assert!((full.report.lesions.count as i64 - single.report.lesions.count as i64).abs() <= 1);
    }
}

#[test]
fn turned_patches_vote_too_when_asked() {
    let segmenter = segmenter(&engine_config("auto"));
    let plain = segment(&segmenter, study(&[Contrast::Flair]), &Asked::default()).unwrap();
    let asked = Asked {
        flips: Some(true),
        ..Asked::default()
    };
    let flipped = segment(&segmenter, study(&[Contrast::Flair]), &asked).unwrap();
    assert_eq!(
        flipped.report.settings.patches,
        2 * plain.report.settings.patches
    );
    // The tiny network is symmetric, so a turned vote must say the same thing at the same place.
    let off = flipped
        .probability
        .samples()
        .iter()
        .zip(plain.probability.samples());
    assert!(off.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-4);
}

#[test]
fn a_contrast_that_the_model_does_not_know_is_said_and_changes_nothing() {
    let segmenter = segmenter(&engine_config("auto"));
    let mut files = study(&[Contrast::Flair, Contrast::T1w]);
    files[1].contrast = Contrast::T1gd;
    let with = segment(&segmenter, files, &Asked::default()).unwrap();
    let without = segment(&segmenter, study(&[Contrast::Flair]), &Asked::default()).unwrap();
    assert_eq!(with.probability, without.probability);
    assert_eq!(with.report.warnings[0].code, "contrast_not_used");
}

#[test]
fn a_head_with_its_skull_is_computed_and_says_so() {
    let flair = &phantom().scans[0].1;
    let noisy = flair.map(|v| v.max(20.0));
    let mut scalp = noisy.clone();
    let shape = scalp.grid().shape();
    for (offset, value) in scalp.samples_mut().iter_mut().enumerate() {
        // Uneven air around the brain: no exact background.
        *value += (offset * 7919 % 13) as f32;
    }
    assert!(shape.iter().product::<usize>() == scalp.samples().len());
    let bytes = encode(&scalp, &SpatialFields::of(scalp.grid()), Compression::None);
    let mut files = study(&[Contrast::Flair]);
    files[0].bytes = bytes;
    let found = segment(&segmenter(&engine_config("auto")), files, &Asked::default()).unwrap();
    assert_eq!(found.report.study.foreground, "head");
    assert!(
        found
            .report
            .warnings
            .iter()
            .any(|w| w.code == "brain_not_extracted")
    );
}

#[test]
fn only_what_was_asked_for_is_made() {
    let segmenter = segmenter(&engine_config("auto"));
    let asked = Asked {
        outputs: Some(vec![Output::Lesions, Output::Lesions]),
        ..Asked::default()
    };
    let found = segment(&segmenter, study(&[Contrast::Flair]), &asked).unwrap();
    let names: Vec<_> = found
        .artifacts(1_767_348_900_000)
        .unwrap()
        .iter()
        .map(|a| a.name.clone())
        .collect();
    assert_eq!(names, ["lesions.nii.gz", "report.json"]);
}

#[test]
fn a_study_that_is_no_longer_wanted_stops_between_patches() {
    let segmenter = segmenter(&engine_config("auto"));
    let model = Registry::open(&models())
        .unwrap()
        .get("tiny-lesion")
        .unwrap();
    let settings = Settings::resolve(&Asked::default(), &model.manifest).unwrap();
    let cancel = Arc::new(Cancel::default());
    let mut patches = 0;
    let outcome = segmenter.segment(
        study(&[Contrast::Flair]),
        &model,
        &settings,
        &mut |p| {
            if p.stage == Stage::Infer && p.done > 0 {
                patches = p.done;
                cancel.cancel();
            }
        },
        &cancel,
    );
    assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
    assert_eq!(patches, 1);
}

#[test]
fn each_thing_that_is_wrong_has_its_code() {
    let segmenter = segmenter(&engine_config("auto"));
    let code = |files| {
        segment(&segmenter, files, &Asked::default())
            .unwrap_err()
            .code()
    };
    assert_eq!(code(study(&[Contrast::T1w])), Code::MissingFlair);
    assert_eq!(
        code(study(&[Contrast::Flair, Contrast::Flair])),
        Code::DuplicatePart
    );
    let mut files = study(&[Contrast::Flair]);
    files[0].bytes.truncate(5000);
    assert_eq!(code(files), Code::DamagedImage);
    let constant = phantom().scans[0].1.map(|_| 5_u8);
    let mut files = study(&[Contrast::Flair]);
    files[0].bytes = encode(
        &constant,
        &SpatialFields::of(constant.grid()),
        Compression::Gzip,
    );
    assert_eq!(code(files), Code::NoContrast);
    let mut files = study(&[Contrast::Flair, Contrast::T1w]);
    let mut far = SpatialFields::of(constant.grid());
    far.srow[0][3] += 700.0;
    files[1].bytes = encode(&phantom().scans[1].1, &far, Compression::Gzip);
    let by_headers = Asked {
        align: Some(Align::None),
        ..Asked::default()
    };
    let refused = segment(&segmenter, files.clone(), &by_headers).unwrap_err();
    assert_eq!(refused.code(), Code::ContrastElsewhere);
    // Registration finds it, and says that no patient moves so far.
    let found = segment(&segmenter, files, &Asked::default()).unwrap();
    let warned: Vec<&str> = found
        .report
        .warnings
        .iter()
        .map(|w| w.code.as_str())
        .collect();
    assert!(warned.contains(&"alignment_doubtful"), "{warned:?}");
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_says_why() {
    use dawson_inference::engine::Engine;
    for device in ["cuda", "tensorrt:1"] {
        let refused = Engine::start(&engine_config(device))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(device.split(':').next().unwrap())
                && refused.contains("fetch_runtime.py --cuda"),
            "{refused}"
        );
    }
}

#[test]
fn a_session_is_opened_ahead_where_there_is_room_and_somebody_wants_it() {
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use dawson_inference::engine::{Engine, EngineConfig, Happening, Precision};

    static OPENED: AtomicUsize = AtomicUsize::new(0);
    fn count(happening: Happening) {
        if matches!(happening, Happening::SessionOpened { .. }) {
            OPENED.fetch_add(1, Ordering::SeqCst);
        }
    }
    let opened = || OPENED.load(Ordering::SeqCst);
    let engine = |max_sessions, batch| {
        Engine::start(&EngineConfig {
            max_sessions: NonZeroUsize::new(max_sessions).unwrap(),
            batch: NonZeroUsize::new(batch).unwrap(),
            observer: count,
            ..engine_config("cpu")
        })
        .unwrap()
    };
    let network = Registry::open(&models())
        .unwrap()
        .get("tiny-lesion")
        .unwrap();
    let network = &network.network;
    let (small, large, precision) = ([32; 3], [64; 3], Precision::F32);
    let (wanted, cancelled) = (Arc::new(Cancel::default()), Arc::new(Cancel::default()));
    cancelled.cancel();

    let one = engine(1, 1);
    one.get_ready(network, small, precision, &cancelled)
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(opened(), 0, "a study that nobody wants opened a session");
    one.open(network, large, precision).unwrap();
    assert_eq!(opened(), 1);
    one.get_ready(network, small, precision, &wanted).unwrap();
    one.open(network, large, precision).unwrap();
    one.open(network, large, precision).unwrap();
    assert_eq!(
        opened(),
        1,
        "an open session was closed for one that may be wanted"
    );

    let many = engine(2, 4);
    many.get_ready(network, small, precision, &wanted).unwrap();
    many.open(network, large, precision).unwrap();
    assert_eq!(opened(), 2, "which batch will be wanted is not known");

    let two = engine(2, 1);
    two.get_ready(network, small, precision, &wanted).unwrap();
    let begun = Instant::now();
    while opened() < 3 && begun.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(5));
    }
    two.open(network, small, precision).unwrap();
    assert_eq!(opened(), 3);
}
