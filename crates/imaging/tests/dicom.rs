//! DICOM studies with known truth, malformed files, and mutants of good ones. Without the data beside the
//! repository these tests say so and pass.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests read the files that imaging itself may not, say why they skip, and may fail loudly"
)]
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dawson_imaging::dicom::{
    Decision, Limits, NoChoice, SiteRule, Stack, Study, StudyError, Wish, choose, members,
};
use dawson_imaging::study::Contrast;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn data() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/dicom");
    if root.is_dir() {
        return Some(root);
    }
    println!("skipped: there is no ../shared/data/dicom beside the repository");
    None
}

/// The files of each folder of an archive.
fn folders(zip: &Path) -> BTreeMap<String, Vec<(String, Vec<u8>)>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(std::fs::read(zip).unwrap())).unwrap();
    let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for n in 0..archive.len() {
        let mut member = archive.by_index(n).unwrap();
        let name = member.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        if member.is_file() {
            let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
            let folder = folder.rsplit('/').next().unwrap();
            all.entry(folder.to_owned())
                .or_default()
                .push((file.to_owned(), bytes));
        }
    }
    all
}

fn read(files: Vec<Vec<u8>>) -> Study {
    Study::read(files, &Limits::CLINICAL).unwrap()
}

fn expected(root: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Holds a decoded stack against the truth: affine and, unless slices are known to be missing, voxels.
fn assert_truth(study: &Study, stack: &Stack, truth: &Value, offset: f32) {
    let scan = study
        .decode(stack)
        .unwrap_or_else(|e| panic!("{truth}: {e}"));
    let shape: Vec<u64> = truth["shape"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap())
        .collect();
    let [i, j, k] = scan.volume.grid().shape();
    assert_eq!([i as u64, j as u64, k as u64], shape[..], "{truth}");
    assert_affine(stack, truth);
    let stored: Vec<u8> = scan
        .volume
        .samples()
        .iter()
        .flat_map(|v| ((v + offset) as u16).to_le_bytes())
        .collect();
    let digest = hex::encode(Sha256::digest(&stored));
    assert_eq!(
        digest,
        truth["sha256_u16_fortran"].as_str().unwrap(),
        "{truth}"
    );
    assert_eq!(scan.source.images.len(), k);
    assert_eq!(
        scan.source.series_instance_uid,
        truth["series_uid"].as_str().unwrap()
    );
}

fn assert_affine(stack: &Stack, truth: &Value) {
    let affine = stack.grid().unwrap().affine();
    for (r, row) in truth["affine"].as_array().unwrap()[..3].iter().enumerate() {
        let m = affine.matrix3;
        let found = [m.x_axis[r], m.y_axis[r], m.z_axis[r], affine.translation[r]];
        for (found, wanted) in found.iter().zip(row.as_array().unwrap()) {
            let wanted = wanted.as_f64().unwrap();
            assert!(
                (found - wanted).abs() < 2e-3,
                "{found} is not {wanted}: {truth}"
            );
        }
    }
}

fn class(truth: &Value) -> &str {
    match truth["cls"].as_str().unwrap() {
        "FLAIR" | "FLAIR2D" => "flair",
        "T1" => "t1w",
        "T1GD" => "t1gd",
        "T2" => "t2w",
        "PD" => "pdw",
        "LOCALIZER" => "localizer",
        "ADC" => "echo_planar",
        other => panic!("{other}"),
    }
}

fn echo_ms(stack: &Stack) -> Option<String> {
    let mut said = stack.classified.because.iter();
    said.find_map(|why| why.strip_prefix("EchoTime ")?.strip_suffix(" ms"))
        .map(str::to_owned)
}

#[test]
fn every_series_of_the_study_is_known_for_what_it_is_and_lies_where_it_lay() {
    let Some(root) = data() else { return };
    let zip = std::fs::read(root.join("study.zip")).unwrap();
    let study = read(members(&zip, &Limits::CLINICAL).unwrap());
    let choice = choose(&study, &[], &[]).unwrap();
    let mut seen = 0;
    for truth in expected(&root, "expected_study.json") {
        let uid = truth["series_uid"].as_str().unwrap();
        let echo = truth["split"]
            .as_str()
            .and_then(|split| split.strip_prefix("EchoTime="));
        let of_series = |stack: &&Stack| {
            stack.series_instance_uid == uid
                && echo.is_none_or(|echo| echo_ms(stack).as_deref() == Some(echo))
        };
        let Some(stack) = study.stacks.iter().find(of_series) else {
            // The enhanced series are in a file of their own.
            assert!(
                truth["series"].as_str().unwrap().contains("enhanced"),
                "{truth}"
            );
            continue;
        };
        seen += 1;
        assert_eq!(stack.classified.class.name(), class(&truth), "{truth}");
        let rows = choice
            .series
            .iter()
            .filter(|row| row.series_instance_uid == uid);
        let decisions: Vec<&str> = rows.map(|row| row.decision.name()).collect();
        match truth["series"].as_str().unwrap() {
            "01_localizer" => {
                assert_eq!(decisions, ["refused"; 3]);
                continue;
            }
            "08_adc" => assert_eq!(decisions, ["excluded"]),
            "07_flair_post_gd_2d" | "09_flair_mpr_ax" => assert_eq!(decisions, ["runner_up"]),
            "05_pd_t2_dual_e1" => assert_eq!(decisions, ["chosen", "runner_up"]),
            "05_pd_t2_dual_e2" => {}
            _ => assert_eq!(decisions, ["chosen"], "{truth}"),
        }
        assert_truth(&study, stack, &truth, 0.0);
    }
    assert_eq!(seen, 10);
    let derived: Vec<bool> = study
        .stacks
        .iter()
        .map(|stack| stack.classified.derived)
        .collect();
    assert_eq!(derived.iter().filter(|&&derived| derived).count(), 2);
}

#[test]
fn enhanced_images_in_any_order_of_frames_are_read() {
    let Some(root) = data() else { return };
    let all = expected(&root, "expected_study.json");
    let folders = folders(&root.join("enhanced.zip"));
    assert_eq!(folders.len(), 2);
    for (name, files) in folders {
        let truth = all.iter().find(|truth| truth["series"] == *name).unwrap();
        let study = read(files.into_iter().map(|(_, bytes)| bytes).collect());
        let choice = choose(&study, &[], &[]).unwrap();
        assert_eq!(choice.chosen.len(), 1);
        assert_eq!(choice.series[0].class.name(), class(truth));
        assert_truth(&study, &study.stacks[0], truth, 0.0);
    }
}

/// What each series of bad.zip must come to: a refusal's name, or how many stacks are volumes.
const VERDICTS: &[(&str, Result<usize, &str>)] = &[
    ("good_reference", Ok(1)),
    ("missing_slice", Err("missing_slice")),
    ("missing_last", Ok(1)),
    ("duplicate_slice_same_pixels", Ok(1)),
    ("duplicate_slice_other_pixels", Err("duplicate_position")),
    ("duplicate_sop_uid", Ok(1)),
    ("sheared", Err("sheared")),
    ("mixed_orientation", Ok(1)),
    ("localizer_mixed_in", Ok(1)),
    ("uneven_spacing", Err("uneven_spacing")),
    ("temporal", Ok(2)),
    ("rescale_per_slice", Ok(1)),
    ("descending_instance_number", Ok(1)),
    ("no_ipp", Err("no_position")),
    ("iop_jitter", Ok(1)),
    ("nonsquare_pixels", Ok(1)),
    ("signed_12bit", Ok(1)),
    ("philips_private_scale", Ok(1)),
    ("mosaic", Err("mosaic")),
];

#[test]
fn what_other_readers_get_wrong_in_silence_is_refused_by_name() {
    let Some(root) = data() else { return };
    let all = expected(&root, "expected_bad.json");
    let folders = folders(&root.join("bad.zip"));
    assert_eq!((all.len(), folders.len()), (19, 19));
    for (name, verdict) in VERDICTS {
        let truth = all.iter().find(|truth| truth["series"] == **name).unwrap();
        let files = folders[*name]
            .iter()
            .map(|(_, bytes)| bytes.clone())
            .collect();
        let study = read(files);
        let outcomes: Vec<_> = study
            .stacks
            .iter()
            .map(|stack| (stack, study.decode(stack)))
            .collect();
        match verdict {
            Err(refusal) => {
                let found: Vec<&str> = outcomes
                    .iter()
                    .filter_map(|(_, o)| Some(o.as_ref().err()?.name()))
                    .collect();
                assert_eq!(
                    (found.as_slice(), outcomes.len()),
                    (&[*refusal][..], 1),
                    "{name}"
                );
            }
            Ok(volumes) => {
                let good: Vec<_> = outcomes.iter().filter(|(_, o)| o.is_ok()).collect();
                assert_eq!(good.len(), *volumes, "{name}");
                for (stack, _) in good {
                    assert_eq!(stack.classified.class.name(), class(truth), "{name}");
                    match *name {
                        // What there is lies where it lay.
                        "missing_last" => assert_eq!(stack.grid().unwrap().shape()[2], 19),
                        "mixed_orientation" => assert_eq!(stack.grid().unwrap().shape()[2], 17),
                        "signed_12bit" => assert_truth(&study, stack, truth, 100.0),
                        _ => assert_truth(&study, stack, truth, 0.0),
                    }
                    if !matches!(*name, "missing_last" | "mixed_orientation") {
                        continue;
                    }
                    assert_affine(stack, truth);
                }
            }
        }
    }
}

#[test]
fn the_caller_and_the_site_decide_before_the_rules_do() {
    let Some(root) = data() else { return };
    let zip = std::fs::read(root.join("study.zip")).unwrap();
    let study = read(members(&zip, &Limits::CLINICAL).unwrap());
    let truth = expected(&root, "expected_study.json");
    let uid = |name: &str| {
        let found = truth.iter().find(|truth| truth["series"] == name).unwrap();
        found["series_uid"].as_str().unwrap().to_owned()
    };
    let chosen =
        |wishes: &[Wish], rules: &[SiteRule], contrast| -> Result<Option<String>, NoChoice> {
            let choice = choose(&study, wishes, rules)?;
            let found = choice
                .chosen
                .iter()
                .find(|chosen| chosen.contrast == contrast);
            Ok(found.map(|chosen| study.stacks[chosen.stack].series_instance_uid.clone()))
        };
    let wish = |contrast, name: &str| Wish {
        contrast,
        series_instance_uid: uid(name),
    };
    let flair = Contrast::Flair;
    assert_eq!(chosen(&[], &[], flair), Ok(Some(uid("02_flair_sag3d"))));
    let asked = [wish(flair, "07_flair_post_gd_2d")];
    assert_eq!(
        chosen(&asked, &[], flair),
        Ok(Some(uid("07_flair_post_gd_2d")))
    );
    // Of a dual echo, the part that shows the contrast.
    let asked = [wish(Contrast::T2w, "05_pd_t2_dual_e2")];
    assert_eq!(
        chosen(&asked, &[], Contrast::T2w),
        Ok(Some(uid("05_pd_t2_dual_e2")))
    );
    assert_eq!(
        chosen(&asked, &[], Contrast::Pdw),
        Ok(Some(uid("05_pd_t2_dual_e2")))
    );
    let rule = SiteRule {
        series_description: Some("SPACE_dark".to_owned()),
        ..SiteRule::default()
    };
    assert_eq!(
        chosen(&[], &[rule], flair),
        Ok(Some(uid("07_flair_post_gd_2d")))
    );
    let asked = [wish(flair, "01_localizer")];
    assert!(matches!(
        chosen(&asked, &[], flair),
        Err(NoChoice::Refused { .. })
    ));
    let asked = [Wish {
        contrast: flair,
        series_instance_uid: "1.2.3".to_owned(),
    }];
    assert!(matches!(
        chosen(&asked, &[], flair),
        Err(NoChoice::UnknownSeries { .. })
    ));
    let choice = choose(&study, &[], &[]).unwrap();
    assert_eq!(
        choice
            .series
            .iter()
            .filter(|row| row.decision == Decision::RunnerUp(flair))
            .count(),
        2
    );
}

/// Reads a file as a study and decodes whatever it holds; true if it was a sound image.
fn try_all(file: &[u8]) -> Result<usize, StudyError> {
    let study = Study::read([file.to_vec()], &Limits::CLINICAL)?;
    for stack in &study.stacks {
        let _volume_or_refusal = study.decode(stack);
    }
    // One slice is no volume; its pixels are decoded all the same.
    Ok(study
        .decode_all()
        .iter()
        .filter(|frame| frame.is_ok())
        .count())
}

/// The greatest resident memory of this process in MiB.
fn peak_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok())
        .unwrap_or(0)
        / 1024
}

#[test]
fn hostile_files_are_refused_or_read_on_a_small_stack_in_little_time_and_memory() {
    let Some(root) = data() else { return };
    let files: Vec<(String, Vec<u8>)> = folders(&root.join("hostile.zip"))
        .into_values()
        .flatten()
        .collect();
    assert_eq!(files.len(), 59);
    for (name, file) in files {
        let small = std::thread::Builder::new().stack_size(2 << 20);
        let named = name.clone();
        let began = Instant::now();
        let outcome = small.spawn(move || try_all(&file)).unwrap().join();
        let took = began.elapsed();
        let outcome = outcome.unwrap_or_else(|_| panic!("{name} panicked"));
        println!("{named}: {outcome:?} {took:?}");
        assert!(took < Duration::from_secs(2), "{name} took {took:?}");
        if name.starts_with("00_good") || name.starts_with("01_good") {
            assert_eq!(outcome, Ok(1), "{name}");
        }
    }
    assert!(peak_mib() < 512, "{} MiB", peak_mib());
}

/// A small generator of its own (`SplitMix64`), so that mutants are the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    fn mutate(&mut self, file: &mut Vec<u8>) {
        for _ in 0..=self.next(4) {
            // Half of the changes fall on header and codestream starts, where most is decided.
            let reach = if self.next(2) == 0 { 2600 } else { file.len() };
            let at = 132 + self.next(reach.min(file.len()).saturating_sub(140));
            match self.next(6) {
                0 => file[at] ^= 1 << self.next(8),
                1 => file[at] = self.next(256) as u8,
                2 => file[at..at + 4].fill(0xff),
                3 => file[at..at + 2].fill(0),
                4 => file.truncate(at.max(600)),
                _ => {
                    let from = 132 + self.next(file.len().saturating_sub(140));
                    let bytes: Vec<u8> = file[from..from + 4].to_vec();
                    file[at..at + 4].copy_from_slice(&bytes);
                }
            }
            if file.len() < 800 {
                return;
            }
        }
    }
}

#[test]
fn mutants_of_good_files_end_nothing() {
    let Some(root) = data() else { return };
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for zip in ["study.zip", "enhanced.zip"] {
        // One file of each series, so one of each transfer syntax.
        let folders = folders(&root.join(zip));
        seeds.extend(
            folders
                .into_values()
                .filter_map(|files| Some(files.into_iter().next()?.1)),
        );
    }
    assert_eq!(seeds.len(), 11);
    let mut chance = Chance(12);
    let (mut read, mut refused, mut slowest) = (0, 0, Duration::ZERO);
    // `DICOM_MUTANTS=100000 cargo test --release -p dawson-imaging --test dicom mutants -- --nocapture` takes minutes.
    let wanted = std::env::var("DICOM_MUTANTS").ok();
    let count = wanted.map_or(4400, |text| text.parse().expect("a number"));
    for n in 0..count {
        let mut file = seeds[n % seeds.len()].clone();
        chance.mutate(&mut file);
        let began = Instant::now();
        match try_all(&file) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
        slowest = slowest.max(began.elapsed());
    }
    println!("{read} mutants read, {refused} refused, slowest {slowest:?}");
    // Both sides were met.
    assert!(read > 500 && refused > 500);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
