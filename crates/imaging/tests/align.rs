//! Registration of real scans: raw ones against transforms that came with them, prepared ones against
//! the identity. Without the data beside the repository these tests say so and pass.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests read the scans that imaging itself may not, say why they skip, and may fail loudly"
)]
use std::path::{Path, PathBuf};

use dawson_imaging::align::{Alignment, Freedom, Settings, register};
use dawson_imaging::grid::{Grid, WorldPoint};
use dawson_imaging::nifti::{Limits, decode};
use dawson_imaging::volume::Volume;
use glam::{DAffine3, DMat3, DVec3, EulerRot};

const RIGID: Settings = Settings {
    freedom: Freedom::Rigid,
    seed: 11,
};

fn data() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if root.is_dir() {
        return Some(root);
    }
    println!("skipped: there is no ../shared/data beside the repository");
    None
}

fn scan(path: &Path) -> Volume<f32> {
    decode(&std::fs::read(path).unwrap(), Limits::CLINICAL)
        .unwrap()
        .volume
}

/// An ITK text transform (y = A (x − c) + t + c, LPS+ mm) as a map of RAS+ mm.
fn itk(path: &Path) -> DAffine3 {
    let text = std::fs::read_to_string(path).unwrap();
    let numbers = |name: &str| -> Vec<f64> {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .map(|x| x.parse().unwrap())
            .collect()
    };
    let (p, c) = (
        numbers("Parameters:"),
        DVec3::from_slice(&numbers("FixedParameters:")),
    );
    let row = |r: usize| DVec3::from_slice(&p[3 * r..3 * r + 3]);
    let matrix3 = DMat3::from_cols(row(0), row(1), row(2)).transpose();
    let translation = DVec3::from_slice(&p[9..]) + c - matrix3 * c;
    let flip = DAffine3::from_scale(DVec3::new(-1.0, -1.0, 1.0));
    flip * DAffine3 {
        matrix3,
        translation,
    } * flip
}

/// World points of every `step`th voxel of a mask.
fn inside(mask: &Volume<f32>, step: usize) -> Vec<DVec3> {
    let voxels = mask
        .samples()
        .iter()
        .enumerate()
        .filter(|(_, m)| **m != 0.0);
    voxels
        .step_by(step)
        .map(|(n, _)| {
            let WorldPoint(at) = mask.grid().centre_of(mask.grid().index(n));
            at
        })
        .collect()
}

/// The rigid map nearest to an affine one over points: its polar part, as the cloud is round enough.
fn best_rigid(map: DAffine3, points: &[DVec3]) -> DAffine3 {
    let middle = points.iter().sum::<DVec3>() / points.len() as f64;
    let turn = (0..30).fold(map.matrix3, |m, _| (m + m.inverse().transpose()) * 0.5);
    DAffine3 {
        matrix3: turn,
        translation: map.transform_point3(middle) - turn * middle,
    }
}

fn error_mm(found: DAffine3, truth: DAffine3, points: &[DVec3]) -> f64 {
    let apart = |p: &DVec3| (found.transform_point3(*p) - truth.transform_point3(*p)).length();
    points.iter().map(apart).sum::<f64>() / points.len() as f64
}

#[test]
fn raw_contrasts_come_to_lie_where_their_transforms_put_them() {
    let Some(data) = data() else { return };
    for (patient, study, contrast) in [
        ("long01", "study1", "t1w"),
        ("long01", "study1", "t2w"),
        ("long01", "study2", "t1w"),
        ("long20", "study2", "t1w"),
    ] {
        let folder = data.join("raw").join(patient);
        let file = |name: String| folder.join(name);
        let to_flair = itk(&file(format!("{study}_flair_to_common_space.txt")));
        let brain: Vec<DVec3> = inside(&scan(&file("common_brainmask.nii.gz".into())), 23)
            .into_iter()
            .map(|p| to_flair.transform_point3(p))
            .collect();
        let truth = itk(&file(format!("{study}_{contrast}_intrastudy_to_flair.txt")));
        let truth = best_rigid(truth, &brain);
        let flair = scan(&file(format!("{study}_flair.nii.gz")));
        let moving = scan(&file(format!("{study}_{contrast}.nii.gz")));
        let found = register(&flair, &moving, &RIGID);
        let error = error_mm(found.motion, truth, &brain);
        println!("{patient} {study} {contrast}: {error:.2} mm");
        assert!(error < 1.0, "{patient} {study} {contrast}: {error} mm");
        assert_eq!(found.doubt, None);
    }
}

#[test]
fn two_visits_of_a_patient_meet() {
    let Some(data) = data() else { return };
    let folder = data.join("raw/long01");
    let to = [1, 2].map(|n| itk(&folder.join(format!("study{n}_flair_to_common_space.txt"))));
    let brain: Vec<DVec3> = inside(&scan(&folder.join("common_brainmask.nii.gz")), 23)
        .into_iter()
        .map(|p| to[0].transform_point3(p))
        .collect();
    let truth = best_rigid(to[1] * to[0].inverse(), &brain);
    let visits = [1, 2].map(|n| scan(&folder.join(format!("study{n}_flair.nii.gz"))));
    let found = register(&visits[0], &visits[1], &RIGID);
    assert!(error_mm(DAffine3::IDENTITY, truth, &brain) > 8.0);
    assert!(error_mm(found.motion, truth, &brain) < 0.5);
    assert!((found.rotation_deg - 7.1).abs() < 0.2);
}

/// Numbers in −1..1, always the same ones (Knuth's MMIX generator).
fn chance() -> impl FnMut() -> f64 {
    let mut state = 7_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1_u32 << 30) - 1.0
    }
}

#[test]
fn a_hundred_random_starts_of_a_prepared_case_come_home() {
    let Some(data) = data() else { return };
    let folder = data.join("labelled/lesjak26");
    let flair = scan(&folder.join("flair.nii.gz"));
    let brain = inside(&flair, 97);
    let middle = brain.iter().sum::<DVec3>() / brain.len() as f64;
    let mut draw = chance();
    let (mut home, mut all) = (0, 0);
    for (contrast, starts) in [("t1w", 34), ("t2w", 33), ("t1gd", 33)] {
        let moving = scan(&folder.join(format!("{contrast}.nii.gz")));
        for _ in 0..starts {
            let mut three = |most: f64| DVec3::new(draw(), draw(), draw()) * most;
            let (shift, turn) = (three(20.0), three(15.0_f64.to_radians()));
            let start = DAffine3::from_translation(middle + shift)
                * DAffine3::from_mat3(DMat3::from_euler(EulerRot::XYZ, turn.x, turn.y, turn.z))
                * DAffine3::from_translation(-middle);
            let grid = Grid::new(moving.grid().shape(), start * moving.grid().affine()).unwrap();
            let moved = Volume::new(grid, moving.samples().to_vec()).unwrap();
            let Alignment { motion, .. } = register(&flair, &moved, &RIGID);
            let error = error_mm(start.inverse() * motion, DAffine3::IDENTITY, &brain);
            home += u32::from(error <= 0.5);
            all += 1;
        }
    }
    println!("{home} of {all} starts end within 0.5 mm");
    assert!(home >= 97, "{home} of {all}");
}
