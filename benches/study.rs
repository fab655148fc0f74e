//! What a study costs beside its network.
//!
//! For a phantom of 182 x 218 x 182 voxels and, where it is there, a real case: the wall time from
//! bytes to the bytes of all artifacts over the time inside `Session::run`, and the peak memory beyond
//! what the engine alone needs for the same patch, over the study's volumes in f32. Both from one run
//! of this program; nothing is asserted, since machines are shared.
//!
//! ```text
//! cargo bench --bench study [-- single|full]
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark may fail loudly"
)]
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dawson_imaging::anatomy::view;
use dawson_imaging::nifti::{Compression, Limits, SpatialFields, decode, encode};
use dawson_imaging::phantom::{PhantomOptions, head};
use dawson_imaging::study::Contrast;
use dawson_inference::engine::{
    Cancel, DeviceChoice, Engine, EngineConfig, Network, Patch, Precision,
};
use dawson_inference::models::{Model, Registry, Voting, find_folder};
use dawson_inference::pipeline::{Asked, ContrastFile, Segmenter, Settings};
use dawson_inference::report::Timings;

/// Runs of the quick voting; the median counts.
const RUNS: usize = 5;

/// The program's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Case {
    name: &'static str,
    files: Vec<ContrastFile>,
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let registry = Registry::open(&find_folder().unwrap()).unwrap();
    let model = registry.get("ms-lesion").unwrap();
    let engine = engine();
    println!(
        "{} on {} ({} threads), ONNX Runtime {}",
        model.id(),
        engine.info().device,
        engine.info().threads,
        engine.info().runtime_version
    );
    let cases: Vec<Case> = [Some(phantom()), real()].into_iter().flatten().collect();
    // Once to open every session, then again to see what computing in one of them adds.
    let alone = |case| engine_alone(&engine, &registry, &model, case);
    let _opened: Vec<u64> = cases.iter().map(alone).collect();
    let engine_alone: Vec<u64> = cases.iter().map(alone).collect();
    let segmenter =
        Segmenter::new(engine, Limits::CLINICAL).with_anatomy(registry.anatomy().cloned());
    println!(
        "\n{:10} {:8} {:>5} {:>8} {:>10} {:>7}   {:>9} {:>9} {:>7}",
        "study", "voting", "looks", "wall s", "network s", "ratio", "peak MB", "engine MB", "ratio"
    );
    for voting in Voting::ALL.into_iter().rev() {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == voting.name()) {
            continue;
        }
        for (case, &alone) in cases.iter().zip(&engine_alone) {
            if voting == Voting::Single {
                measure(&segmenter, &model, case, (voting, false), alone);
            }
            measure(&segmenter, &model, case, (voting, true), alone);
        }
    }
}

fn engine() -> Engine {
    let config = EngineConfig::new(DeviceChoice::Auto);
    // Both networks for both studies stay open: what they hold is the engine's own.
    let max_sessions = NonZeroUsize::new(8).unwrap();
    Engine::start(&EngineConfig {
        max_sessions,
        ..config
    })
    .unwrap()
}

fn phantom() -> Case {
    let contrasts = vec![Contrast::Flair, Contrast::T1w, Contrast::T2w];
    let made = head(&PhantomOptions {
        contrasts,
        ..PhantomOptions::standard(1)
    });
    let files = made.scans.iter().map(|(contrast, volume)| {
        let stored = volume.map(|v| v.round().clamp(0.0, 32767.0) as i16);
        let bytes = encode(
            &stored,
            &SpatialFields::of(volume.grid()),
            Compression::Gzip,
        );
        ContrastFile {
            contrast: *contrast,
            bytes,
        }
    });
    Case {
        name: "phantom",
        files: files.collect(),
    }
}

fn real() -> Option<Case> {
    let shared =
        std::env::var_os("DAWSON_SHARED").map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(shared)
        .join("data/labelled/lesjak26");
    let read = |contrast: Contrast| {
        let bytes = std::fs::read(folder.join(format!("{contrast}.nii.gz"))).ok()?;
        Some(ContrastFile { contrast, bytes })
    };
    let files: Option<Vec<_>> = [Contrast::Flair, Contrast::T1w, Contrast::T2w]
        .into_iter()
        .map(read)
        .collect();
    if files.is_none() {
        println!("skipped: lesjak26 is not at {}", folder.display());
    }
    Some(Case {
        name: "lesjak26",
        files: files?,
    })
}

/// Peak memory, in bytes, of the engine with the patches of a study and nothing else.
fn engine_alone(engine: &Engine, registry: &Registry, model: &Arc<Model>, case: &Case) -> u64 {
    // Both studies' brains fit this one of the fixed shapes; the larger of its patches counts.
    let shape = if case.name == "lesjak26" {
        [144, 176, 144]
    } else {
        [160, 192, 160]
    };
    let head = registry.anatomy().map(|anatomy| {
        let flair = decode(&case.files[0].bytes, Limits::CLINICAL).unwrap();
        let view = view(&flair.volume, &anatomy.manifest.showing, true).unwrap();
        let multiple = anatomy.manifest.multiple.get();
        let shape = view.grid().shape().map(|n| n.next_multiple_of(multiple));
        (Arc::clone(&anatomy.network), shape)
    });
    reset_peak();
    if let Some((network, shape)) = head {
        compute(engine, network, shape);
    }
    compute(engine, Arc::clone(&model.network), shape);
    peak()
}

fn compute(engine: &Engine, network: Arc<Network>, shape: [usize; 3]) {
    let (answer, answers) = crossbeam_channel::bounded(1);
    engine
        .submit(Patch {
            shape,
            precision: Precision::F32,
            image: vec![0.0; shape.iter().product::<usize>() * network.channels],
            network,
            number: 0,
            cancel: Arc::default(),
            answer,
        })
        .unwrap();
    answers.recv().unwrap().outcome.unwrap();
}

fn measure(
    segmenter: &Segmenter,
    model: &Arc<Model>,
    case: &Case,
    (voting, flips): (Voting, bool),
    engine_alone: u64,
) {
    let asked = Asked {
        voting: Some(voting),
        flips: Some(flips),
        ..Asked::default()
    };
    let settings = Settings::resolve(&asked, &model.manifest).unwrap();
    let runs = if voting == Voting::Single { RUNS } else { 1 };
    let mut measured: Vec<(f64, f64, Timings, f64)> = Vec::new();
    let mut volumes = 0;
    reset_peak();
    for _ in 0..=runs {
        let files = case.files.clone();
        let started = Instant::now();
        let found = segmenter
            .segment(
                files,
                model,
                &settings,
                &mut |_| {},
                &Arc::new(Cancel::default()),
            )
            .unwrap();
        let computed = started.elapsed().as_secs_f64();
        let artifacts = found.artifacts(1_767_348_900_000).unwrap();
        let wall = started.elapsed().as_secs_f64();
        assert!(artifacts.len() >= 5);
        let t = found.report.timings_s;
        measured.push((wall, t.network + t.anatomy_network, t, wall - computed));
        let voxels: usize = found
            .report
            .study
            .contrasts
            .iter()
            .map(|c| c.shape.iter().product::<usize>())
            .sum();
        volumes = 4 * voxels as u64;
        if voting == Voting::Full {
            break; // Long enough to need no second run.
        }
    }
    let kept = &mut measured[runs.min(1)..]; // The first opened the session.
    let kept = if kept.is_empty() {
        &mut measured[..]
    } else {
        kept
    };
    kept.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let (wall, network, t, encode) = kept[kept.len() / 2].clone();
    let peak = peak();
    let beyond = peak.saturating_sub(engine_alone) as f64 / volumes as f64;
    println!(
        "{:10} {:8} {:>5} {wall:>8.2} {network:>10.2} {:>7.3}   {:>9} {:>9} {beyond:>7.2}",
        case.name,
        voting.name(),
        1 + u8::from(flips),
        wall / network,
        peak >> 20,
        engine_alone >> 20,
    );
    println!(
        "{:18} stages, ms: decode {:.0}, align {:.0}, anatomy {:.0} ({:.0} in its network), assemble {:.0}, normalise {:.0}, patches and votes {:.0}, restore {:.0}, count {:.0}, encode {:.0}",
        "",
        t.decode * 1e3,
        t.align * 1e3,
        t.anatomy * 1e3,
        t.anatomy_network * 1e3,
        t.assemble * 1e3,
        t.normalise * 1e3,
        (t.infer - t.network) * 1e3,
        t.restore * 1e3,
        t.count * 1e3,
        encode * 1e3,
    );
}

/// The peak resident memory since the last reset, in bytes; 0 where the system does not tell.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kb| kb.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn reset_peak() {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/clear_refs")
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"5"));
    if let Err(e) = written {
        println!("the peak cannot be reset here ({e}): memory figures are of the whole process");
    }
}
