//! Lays one NIfTI file on another and prints the motion, one JSON object a line.
//!
//! ```text
//! cargo run --release -p dawson-imaging --example align -- [--affine] FIXED MOVING [--starts]
//! ```
//!
//! `matrix` has the first three rows of the map from RAS+ millimetres of FIXED to those of MOVING. With
//! `--starts`, each line of standard input is twelve numbers in the same form: MOVING's header is moved by
//! them first, `matrix` is given for the header as it was, and so tells how well a known motion is undone.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "an example reads files, prints, takes the time and may fail loudly"
)]
use std::time::Instant;

use dawson_imaging::align::{Freedom, Settings, register};
use dawson_imaging::grid::Grid;
use dawson_imaging::nifti::{Limits, decode};
use dawson_imaging::volume::Volume;
use glam::{DAffine3, DMat3, DVec3};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |flag: &str| arguments.iter().any(|a| a == flag);
    let mut files = arguments.iter().filter(|a| !a.starts_with("--"));
    let fixed = read(files.next().expect("give the fixed scan's file"));
    let moving = read(files.next().expect("give the moving scan's file"));
    let freedom = if asked("--affine") {
        Freedom::Affine
    } else {
        Freedom::Rigid
    };
    let settings = Settings { freedom, seed: 11 };
    if asked("--starts") {
        for line in std::io::stdin().lines() {
            let start = motion(&line.expect("a line of text"));
            run(&fixed, &moving, start, &settings);
        }
    } else {
        run(&fixed, &moving, DAffine3::IDENTITY, &settings);
    }
}

fn read(path: &String) -> Volume<f32> {
    let bytes = std::fs::read(path).expect("the file can be read");
    decode(&bytes, Limits::CLINICAL)
        .expect("the file is NIfTI")
        .volume
}

/// Twelve numbers, row by row.
fn motion(line: &str) -> DAffine3 {
    let numbers = line
        .split_whitespace()
        .map(|x| x.parse().expect("a number"));
    let n: Vec<f64> = numbers.collect();
    let row = |r: usize| DVec3::from_slice(&n[4 * r..4 * r + 3]);
    DAffine3 {
        matrix3: DMat3::from_cols(row(0), row(1), row(2)).transpose(),
        translation: DVec3::new(n[3], n[7], n[11]),
    }
}

fn run(fixed: &Volume<f32>, moving: &Volume<f32>, start: DAffine3, settings: &Settings) {
    let grid = Grid::new(moving.grid().shape(), start * moving.grid().affine());
    let samples = moving.samples().to_vec();
    let moved = Volume::new(grid.expect("a motion keeps a grid a grid"), samples);
    let moved = moved.expect("as many samples as before");
    let (begun, spent) = (Instant::now(), processor_seconds());
    let found = register(fixed, &moved, settings);
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_seconds = processor_seconds() - spent;
    let motion = start.inverse() * found.motion;
    let rows = motion.matrix3.transpose();
    let row = |r: usize| {
        let turned = rows.col(r);
        let shift = motion.translation[r];
        format!("[{}, {}, {}, {shift}]", turned.x, turned.y, turned.z)
    };
    let (similarity, way) = (found.similarity, found.translation_mm);
    println!(
        "{{\"matrix\": [{}, {}, {}], \"rotation_deg\": {:.4}, \"translation_mm\": {:.4}, \
         \"before\": {:.5}, \"after\": {:.5}, \"astray\": {:.5}, \"overlap\": {:.4}, \
         \"doubt\": \"{}\", \"seconds\": {seconds:.4}, \
         \"cpu_seconds\": {cpu_seconds:.2}}}",
        row(0),
        row(1),
        row(2),
        found.rotation_deg,
        way.length(),
        similarity.before,
        similarity.after,
        similarity.astray,
        found.overlap,
        found.doubt.map(|d| d.to_string()).unwrap_or_default(),
    );
}

/// What all threads of this process have spent, to a hundredth; 0 where there is no /proc.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| -> f64 {
        let text = after_name.split_whitespace().nth(field);
        text.and_then(|t| t.parse().ok()).unwrap_or_default()
    };
    (ticks(11) + ticks(12)) / 100.0
}
