//! One scan stored in every way that NIfTI allows gives the same lesions in the world.
//!
//! The files are written here, byte by byte, so that the program's own encoder proves nothing.
use std::io::Write;

use dawson_imaging::grid::{Grid, Orientation};
use dawson_imaging::nifti::{Limits, decode};
use dawson_imaging::resample::resample;
use dawson_imaging::study::Contrast;
use dawson_imaging::volume::Volume;
use dawson_inference::pipeline::{Asked, ContrastFile, Segmenter};
use dawson_inference::report::LesionReport;

use super::support::{engine_config, phantom, segment, segmenter};

/// How numbers are stored.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Int8,
    Uint8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Float32,
    Float64,
}

impl Stored {
    /// Its code in a header, and its bits.
    fn code(self) -> (i16, i16) {
        match self {
            Self::Uint8 => (2, 8),
            Self::Int16 => (4, 16),
            Self::Int32 => (8, 32),
            Self::Float32 => (16, 32),
            Self::Float64 => (64, 64),
            Self::Int8 => (256, 8),
            Self::Uint16 => (512, 16),
            Self::Uint32 => (768, 32),
            Self::Int64 => (1024, 64),
            Self::Uint64 => (1280, 64),
        }
    }

    /// A number as its bytes, little endian.
    fn bytes(self, number: f64) -> Vec<u8> {
        match self {
            Self::Int8 => (number.round() as i8).to_le_bytes().to_vec(),
            Self::Uint8 => vec![number.round() as u8],
            Self::Int16 => (number.round() as i16).to_le_bytes().to_vec(),
            Self::Uint16 => (number.round() as u16).to_le_bytes().to_vec(),
            Self::Int32 => (number.round() as i32).to_le_bytes().to_vec(),
            Self::Uint32 => (number.round() as u32).to_le_bytes().to_vec(),
            Self::Int64 => (number.round() as i64).to_le_bytes().to_vec(),
            Self::Uint64 => (number.round() as u64).to_le_bytes().to_vec(),
            Self::Float32 => (number as f32).to_le_bytes().to_vec(),
            Self::Float64 => number.to_le_bytes().to_vec(),
        }
    }
}

/// Which fields place the voxels.
#[derive(Clone, Copy, PartialEq)]
enum Placed {
    Sform,
    Qform,
    Both,
}

/// A number's bytes, little endian, in the file's order.
fn ordered(bytes: &[u8], big: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if big {
        bytes.reverse();
    }
    bytes
}

/// Writes a NIfTI-1 file by hand; values are `slope · stored + intercept`.
fn nifti(
    volume: &Volume<f32>,
    stored: Stored,
    placed: Placed,
    big: bool,
    slope: f32,
    intercept: f32,
) -> Vec<u8> {
    let mut file = vec![0_u8; 352];
    let grid = volume.grid();
    let mut put = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(&ordered(bytes, big));
    };
    put(0, &348_i32.to_le_bytes());
    let shape = grid.shape().map(|n| n as i16);
    for (n, dim) in [3, shape[0], shape[1], shape[2], 1, 1, 1, 1]
        .into_iter()
        .enumerate()
    {
        put(40 + 2 * n, &dim.to_le_bytes());
    }
    let (code, bits) = stored.code();
    put(70, &code.to_le_bytes());
    put(72, &bits.to_le_bytes());
    put(108, &352_f32.to_le_bytes());
    put(112, &slope.to_le_bytes());
    put(116, &intercept.to_le_bytes());
    put(123, &[2]);
    let m = grid.affine().matrix3;
    let origin = grid.affine().translation;
    let spacing = grid.spacing_mm();
    let columns = [m.x_axis, m.y_axis, m.z_axis];
    let mut axes = [0, 1, 2].map(|a| columns[a] / spacing[a]);
    let qfac = if axes[0].cross(axes[1]).dot(axes[2]) < 0.0 {
        -1.0_f32
    } else {
        1.0
    };
    axes[2] *= f64::from(qfac);
    put(76, &qfac.to_le_bytes());
    for a in 0..3 {
        put(80 + 4 * a, &(spacing[a] as f32).to_le_bytes());
    }
    put(252, &i16::from(placed != Placed::Sform).to_le_bytes());
    put(254, &i16::from(placed != Placed::Qform).to_le_bytes());
    let quaternion = quaternion(axes.map(|v| v.to_array()));
    for (n, value) in quaternion.into_iter().chain(origin.to_array()).enumerate() {
        put(256 + 4 * n, &(value as f32).to_le_bytes());
    }
    if placed != Placed::Qform {
        for row in 0..3 {
            for column in 0..3 {
                put(
                    280 + 16 * row + 4 * column,
                    &(columns[column][row] as f32).to_le_bytes(),
                );
            }
            put(292 + 16 * row, &(origin[row] as f32).to_le_bytes());
        }
    }
    file[344..348].copy_from_slice(b"n+1\0");
    for &value in volume.samples() {
        let bytes = stored.bytes((f64::from(value) - f64::from(intercept)) / f64::from(slope));
        file.extend(ordered(&bytes, big));
    }
    file
}

/// b, c, d of the rotation whose columns are `axes`, by the largest component of the quaternion.
fn quaternion(axes: [[f64; 3]; 3]) -> [f64; 3] {
    let m = |row: usize, column: usize| axes[column][row];
    let trace = m(0, 0) + m(1, 1) + m(2, 2);
    let squares = [
        1.0 + trace,
        1.0 + 2.0 * m(0, 0) - trace,
        1.0 + 2.0 * m(1, 1) - trace,
        1.0 + 2.0 * m(2, 2) - trace,
    ];
    let largest = (0..4)
        .max_by(|&a, &b| squares[a].total_cmp(&squares[b]))
        .unwrap();
    let s = squares[largest].sqrt() * 2.0;
    let [a, b, c, d] = match largest {
        0 => [
            s / 4.0,
            (m(2, 1) - m(1, 2)) / s,
            (m(0, 2) - m(2, 0)) / s,
            (m(1, 0) - m(0, 1)) / s,
        ],
        1 => [
            (m(2, 1) - m(1, 2)) / s,
            s / 4.0,
            (m(0, 1) + m(1, 0)) / s,
            (m(0, 2) + m(2, 0)) / s,
        ],
        2 => [
            (m(0, 2) - m(2, 0)) / s,
            (m(0, 1) + m(1, 0)) / s,
            s / 4.0,
            (m(1, 2) + m(2, 1)) / s,
        ],
        _ => [
            (m(1, 0) - m(0, 1)) / s,
            (m(0, 2) + m(2, 0)) / s,
            (m(1, 2) + m(2, 1)) / s,
            s / 4.0,
        ],
    };
    let sign = if a < 0.0 { -1.0 } else { 1.0 };
    [b * sign, c * sign, d * sign]
}

fn gzip(file: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(file).unwrap();
    packer.finish().unwrap()
}

/// The phantom's FLAIR, tilted, with integers that every type holds exactly.
fn tilted() -> Volume<f32> {
    let flair = &phantom().scans[0].1;
    let most = flair.samples().iter().copied().fold(0.0, f32::max);
    let tilt = glam::DAffine3::from_mat3(glam::DMat3::from_euler(
        glam::EulerRot::XYZ,
        0.2,
        -0.15,
        0.3,
    ));
    let grid = Grid::new(flair.grid().shape(), tilt * flair.grid().affine()).unwrap();
    let values = flair
        .samples()
        .iter()
        .map(|v| (v / most * 250.0).round())
        .collect();
    Volume::new(grid, values).unwrap()
}

fn oriented(volume: &Volume<f32>, orientation: Orientation) -> Volume<f32> {
    resample(volume, &volume.grid().oriented(orientation), f32::NAN).0
}

fn lesions(segmenter: &Segmenter, file: Vec<u8>) -> Vec<LesionReport> {
    let files = vec![ContrastFile {
        contrast: Contrast::Flair,
        bytes: file,
    }];
    let mut found = segment(segmenter, files, &Asked::default())
        .unwrap()
        .report
        .lesions
        .items;
    // Lesions of one size are numbered by file order, which is another one here.
    let place = |l: &LesionReport| l.centroid_mm.map(|c| (c * 10.0).round() as i64);
    found.sort_by_key(|l| (l.voxels, place(l)));
    found
}

fn assert_same(found: &[LesionReport], want: &[LesionReport], what: &str) {
    assert!(want.len() > 5);
    assert_eq!(found.len(), want.len(), "{what}");
    for (a, b) in found.iter().zip(want) {
        assert_eq!(a.voxels, b.voxels, "{what}");
        for axis in 0..3 {
            assert!(
                (a.centroid_mm[axis] - b.centroid_mm[axis]).abs() < 0.01,
                "{what}: {a:?} {b:?}"
            );
            assert!(
                (a.bbox_mm.min[axis] - b.bbox_mm.min[axis]).abs() < 0.02,
                "{what}"
            );
        }
        assert!(
            (a.mean_probability - b.mean_probability).abs() < 1e-4,
            "{what}"
        );
    }
}

#[test]
fn one_scan_in_48_orientations_has_the_same_lesions_in_the_world() {
    let segmenter = segmenter(&engine_config("auto"));
    let scan = tilted();
    let want = lesions(
        &segmenter,
        nifti(&scan, Stored::Int16, Placed::Both, false, 1.0, 0.0),
    );
    let mut turn = 0;
    for orientation in Orientation::all() {
        // Each orientation in one of the other forms, so that forms and orientations mix.
        turn += 1;
        let placed = [Placed::Sform, Placed::Qform, Placed::Both][turn % 3];
        let stored = [Stored::Int16, Stored::Uint8, Stored::Float64][turn / 3 % 3];
        let file = nifti(
            &oriented(&scan, orientation),
            stored,
            placed,
            turn % 2 == 0,
            1.0,
            0.0,
        );
        let file = if turn % 5 < 2 { gzip(&file) } else { file };
        assert_same(&lesions(&segmenter, file), &want, &orientation.to_string());
    }
}

#[test]
fn every_type_byte_order_and_scaling_gives_the_same_lesions() {
    let segmenter = segmenter(&engine_config("auto"));
    let scan = tilted();
    let want = lesions(
        &segmenter,
        nifti(&scan, Stored::Int16, Placed::Both, false, 1.0, 0.0),
    );
    for stored in [Stored::Int16, Stored::Uint8, Stored::Float64] {
        for big in [false, true] {
            for (slope, intercept) in [(1.0, 0.0), (2.0, 0.0), (0.25, 0.0), (1.0, -5.0)] {
                if matches!(stored, Stored::Uint8) && slope < 1.0 {
                    continue; // More than 255 steps.
                }
                // Values that the scaled type holds exactly.
                let exact = scan.map(|v| ((v - intercept) / slope).round() * slope + intercept);
                let file = |stored, placed, big, slope, intercept| {
                    nifti(&exact, stored, placed, big, slope, intercept)
                };
                let found = lesions(
                    &segmenter,
                    file(stored, Placed::Qform, big, slope, intercept),
                );
                let odd_ones = scan.samples() != exact.samples();
                let of_exact = odd_ones.then(|| {
                    lesions(
                        &segmenter,
                        file(Stored::Float64, Placed::Both, false, 1.0, 0.0),
                    )
                });
                let what =
                    format!("{stored:?}, slope {slope}, intercept {intercept}, big endian {big}");
                assert_same(&found, of_exact.as_ref().unwrap_or(&want), &what);
            }
        }
    }
}

#[test]
fn numbers_of_every_type_are_read_to_their_limits() {
    let two = |power: i32| 2_f64.powi(power);
    for (stored, numbers) in [
        (Stored::Int8, [-128.0, -1.0, 0.0, 127.0]),
        (Stored::Uint8, [0.0, 1.0, 128.0, 255.0]),
        (Stored::Int16, [-32768.0, -1.0, 256.0, 32767.0]),
        (Stored::Uint16, [0.0, 256.0, 32768.0, 65535.0]),
        (Stored::Int32, [-two(31), -1.0, 65536.0, two(30)]),
        (Stored::Uint32, [0.0, 65536.0, two(31), two(32) - two(8)]),
        (Stored::Int64, [-two(63), -1.0, two(32), two(62)]),
        (Stored::Uint64, [0.0, two(32), two(62), two(63)]),
        (Stored::Float32, [-0.5, 0.0, two(-20), two(100)]),
        (Stored::Float64, [-0.5, 0.0, two(-20), two(100)]),
    ] {
        let grid = Grid::new([2, 2, 1], glam::DAffine3::IDENTITY).unwrap();
        let volume = Volume::new(grid, numbers.map(|n| n as f32).to_vec()).unwrap();
        for (big, slope, intercept) in [
            (false, 1.0_f32, 0.0_f32),
            (true, 1.0, 0.0),
            (false, 0.5, 3.0),
            (true, 0.5, 3.0),
        ] {
            let mut file = nifti(&volume, stored, Placed::Sform, big, 1.0, 0.0);
            for (at, factor) in [(112, slope), (116, intercept)] {
                file[at..at + 4].copy_from_slice(&ordered(&factor.to_le_bytes(), big));
            }
            let want = numbers.map(|n| (f64::from(slope) * n + f64::from(intercept)) as f32);
            let found = decode(&file, Limits::CLINICAL).unwrap().volume;
            assert_eq!(
                found.samples(),
                want,
                "{stored:?}, slope {slope}, big endian {big}"
            );
        }
    }
}
