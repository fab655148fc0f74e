//! How unevenly a coil lit the head: a smooth field in the logarithm of the brightness.
//!
//! A tissue has one brightness but for the field, so the field is what its logarithm is over the brain less a constant
//! for each tissue. [`Field::of`] fits both at once, a polynomial of the third degree and a constant for each part of
//! the head that the anatomy network is sure of, by least squares in which what lies off counts less (Tukey's
//! biweight): lesions, vessels, rims. Fluid has no say. N4 (Tustison et al., IEEE Trans. Med. Imaging 29:1310, 2010)
//! sharpens the histogram instead, since it knows no tissues; `tests/reference` holds the two against each other.
//!
//! Whether a field is worth removing is not decided here. The same image and anatomy give the same bits, whatever the
//! number of threads.
use glam::{DAffine3, DVec3};
use rayon::prelude::*;

use crate::anatomy::{Anatomy, Part};
use crate::normalise::quantile;
use crate::resample::trilinear;
use crate::volume::Volume;

/// What the constants are fitted for: tissue of one brightness each.
const TISSUES: [Part; 5] = [
    Part::WhiteMatter,
    Part::Cortex,
    Part::DeepGrey,
    Part::Brainstem,
    Part::Cerebellum,
];
/// A voxel shows a part if it belongs to it with this probability.
const SURE: f32 = 0.8;
/// The highest degree of the polynomial.
const DEGREE: usize = 3;
/// Its terms but for the constant, which the tissues have.
const TERMS: usize = 19;
/// All that is fitted.
const UNKNOWNS: usize = TERMS + TISSUES.len();
/// Voxels of the anatomy from one that is looked at to the next, along each axis.
const STRIDE: usize = 3;
/// Fewer voxels than this do not tell a field.
const FEWEST: usize = 500;
/// Fits, each with weights by the last one.
const ROUNDS: usize = 6;
/// What lies further off than this many deviations has no weight (95 % efficient for a normal distribution).
const BIWEIGHT: f64 = 4.685;
/// The median of the absolute value of a normal variable of deviation 1.
const MEDIAN_OF_NORMAL: f64 = 0.6745;
/// What keeps the fit of a slab finite, as a share of the voxels.
const RIDGE: f64 = 1e-6;
/// Voxels whose sums are made by one thread in one go.
const BLOCK: usize = 1024;
/// The shares of the brain below and above the two values that a field spans.
const SPAN: [f64; 2] = [0.05, 0.95];

/// A smooth factor of brightness over the head.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// World points, RAS+ mm, to a box from -1 to 1 around the tissue.
    to_box: DAffine3,
    terms: [f64; TERMS],
    /// The mean logarithm over the tissue, which is taken off: a brain stays as bright as it was.
    mean: f64,
    span: f64,
}

/// A place in a tissue and the logarithm of its brightness.
#[derive(Clone, Copy)]
struct Seen {
    at: [f64; TERMS],
    tissue: usize,
    log: f64,
}

impl Field {
    /// The field over an image that lies in the anatomy's world; `None` if too little tissue of it is seen.
    #[must_use]
    pub fn of(image: &Volume<f32>, anatomy: &Anatomy) -> Option<Self> {
        let places = places(anatomy);
        let to_image = image.grid().affine().inverse();
        let bright: Vec<(DVec3, usize, f64)> = places
            .par_iter()
            .filter_map(|&(at, tissue)| {
                let value = f64::from(trilinear(image, to_image.transform_point3(at))?);
                // An image is not negative; one that was interpolated sharply may be, and is dark there.
                (value > 0.0).then(|| (at, tissue, value.ln()))
            })
            .collect();
        if bright.len() < FEWEST {
            return None;
        }
        let (low, high) = bright.iter().fold(
            (DVec3::INFINITY, DVec3::NEG_INFINITY),
            |(low, high), (at, ..)| (low.min(*at), high.max(*at)),
        );
        let half = ((high - low) / 2.0).max(DVec3::ONE);
        let to_box =
            DAffine3::from_scale(half.recip()) * DAffine3::from_translation(-(low + high) / 2.0);
        let seen: Vec<Seen> = bright
            .par_iter()
            .map(|&(at, tissue, log)| Seen {
                at: terms(to_box.transform_point3(at)),
                tissue,
                log,
            })
            .collect();
        let terms = fit(&seen)?;
        let mut field: Vec<f32> = seen
            .iter()
            .map(|seen| dot(&terms, &seen.at) as f32)
            .collect();
        let mean = field.iter().copied().map(f64::from).sum::<f64>() / field.len() as f64;
        let [low, high] = SPAN.map(|share| quantile(&mut field, share));
        Some(Self {
            to_box,
            terms,
            mean,
            span: high - low,
        })
    }

    /// How much brighter the tissue is on the bright side than on the dark one, as the logarithm of their ratio (0.2
    /// is 22 %), between its 5 % and 95 % quantiles over the brain; 0 and more.
    #[must_use]
    pub fn span(&self) -> f64 {
        self.span
    }

    /// The factor at a world point, 1 in the mean over the tissue.
    #[must_use]
    pub fn at(&self, world: DVec3) -> f64 {
        let terms = terms(self.to_box.transform_point3(world));
        (dot(&self.terms, &terms) - self.mean).exp()
    }

    /// Divides an image by the field where `inside` is not 0; elsewhere it is not known.
    ///
    /// # Panics
    /// If `inside` has not as many voxels as `image`.
    pub fn remove(&self, image: &mut Volume<f32>, inside: &Volume<u8>) {
        let grid = *image.grid();
        let [ni, nj, _] = grid.shape();
        image
            .samples_mut()
            .par_chunks_mut(ni)
            .zip(inside.samples().par_chunks(ni))
            .enumerate()
            .for_each(|(row, (values, inside))| {
                for (i, (value, _)) in values
                    .iter_mut()
                    .zip(inside)
                    .enumerate()
                    .filter(|(_, (_, inside))| **inside != 0)
                {
                    let world = grid.centre_of([i, row % nj, row / nj]).0;
                    *value = (f64::from(*value) / self.at(world)) as f32;
                }
            });
    }
}

/// World points of sure tissue, evenly spread, each with its tissue.
fn places(anatomy: &Anatomy) -> Vec<(DVec3, usize)> {
    let grid = *anatomy.parts.grid();
    let [ni, nj, nk] = grid.shape();
    let tissue = TISSUES.map(Part::code);
    let mut places = Vec::new();
    for k in (0..nk).step_by(STRIDE) {
        for j in (0..nj).step_by(STRIDE) {
            for i in (0..ni).step_by(STRIDE) {
                let at = grid.offset([i, j, k]);
                let part = anatomy.parts.samples()[at];
                if anatomy.likelihood.samples()[at] >= SURE
                    && let Some(tissue) = tissue.iter().position(|code| *code == part)
                {
                    places.push((grid.centre_of([i, j, k]).0, tissue));
                }
            }
        }
    }
    places
}

/// The products of powers of x, y and z of the degrees 1 to 3.
fn terms(at: DVec3) -> [f64; TERMS] {
    let mut terms = [0.0; TERMS];
    let mut n = 0;
    let mut z = 1.0;
    for c in 0..=DEGREE {
        let mut yz = z;
        for b in 0..=DEGREE - c {
            let mut xyz = yz;
            for a in 0..=DEGREE - c - b {
                if a + b + c > 0 {
                    terms[n] = xyz;
                    n += 1;
                }
                xyz *= at.x;
            }
            yz *= at.y;
        }
        z *= at.z;
    }
    terms
}

fn dot(a: &[f64; TERMS], b: &[f64; TERMS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The polynomial of the robust fit; `None` if the equations cannot be solved.
fn fit(seen: &[Seen]) -> Option<[f64; TERMS]> {
    // At first what lies near the median of its tissue counts.
    let mut constants = [0.0; TISSUES.len()];
    for (tissue, constant) in constants.iter_mut().enumerate() {
        let of_it = seen.iter().filter(|seen| seen.tissue == tissue);
        let mut logs: Vec<f32> = of_it.map(|seen| seen.log as f32).collect();
        if !logs.is_empty() {
            *constant = quantile(&mut logs, 0.5);
        }
    }
    let mut polynomial = [0.0; TERMS];
    for _ in 0..ROUNDS {
        let off: Vec<f64> = seen
            .par_iter()
            .map(|seen| seen.log - constants[seen.tissue] - dot(&polynomial, &seen.at))
            .collect();
        let mut sizes: Vec<f32> = off.iter().map(|off| off.abs() as f32).collect();
        let deviation = quantile(&mut sizes, 0.5) / MEDIAN_OF_NORMAL;
        // All of one brightness: nothing is to be bettered.
        if deviation <= 1e-9 {
            break;
        }
        let solution = solved(equations(seen, &off, BIWEIGHT * deviation))?;
        polynomial.copy_from_slice(&solution[..TERMS]);
        constants.copy_from_slice(&solution[TERMS..]);
    }
    Some(polynomial)
}

/// A symmetric matrix, and beside each row its right side.
type Equations = [[f64; UNKNOWNS + 1]; UNKNOWNS];

/// The normal equations of the weighted fit; sums run over blocks in their order.
fn equations(seen: &[Seen], off: &[f64], furthest: f64) -> Box<Equations> {
    let blocks: Vec<Box<Equations>> = seen
        .par_chunks(BLOCK)
        .zip(off.par_chunks(BLOCK))
        .map(|(seen, off)| {
            let mut sums = Box::new([[0.0; UNKNOWNS + 1]; UNKNOWNS]);
            for (seen, off) in seen.iter().zip(off) {
                let near = (1.0 - (off / furthest).powi(2)).max(0.0);
                let weight = near * near;
                let constant = TERMS + seen.tissue;
                for a in 0..TERMS {
                    let weighted = weight * seen.at[a];
                    for b in 0..=a {
                        sums[a][b] += weighted * seen.at[b];
                    }
                    sums[constant][a] += weighted;
                    sums[a][UNKNOWNS] += weighted * seen.log;
                }
                sums[constant][constant] += weight;
                sums[constant][UNKNOWNS] += weight * seen.log;
            }
            sums
        })
        .collect();
    let mut all = Box::new([[0.0; UNKNOWNS + 1]; UNKNOWNS]);
    for block in blocks {
        for (sum, part) in all.as_flattened_mut().iter_mut().zip(block.as_flattened()) {
            *sum += part;
        }
    }
    for (n, row) in all.iter_mut().enumerate() {
        row[n] += RIDGE * seen.len() as f64;
    }
    all
}

/// Solves them by Cholesky's way (lower triangle in place); `None` if the matrix is not positive.
fn solved(mut equations: Box<Equations>) -> Option<[f64; UNKNOWNS]> {
    for a in 0..UNKNOWNS {
        for b in 0..=a {
            let known: f64 = (0..b).map(|n| equations[a][n] * equations[b][n]).sum();
            let rest = equations[a][b] - known;
            if a == b {
                if rest <= 0.0 || !rest.is_finite() {
                    return None;
                }
                equations[a][a] = rest.sqrt();
            } else {
                equations[a][b] = rest / equations[b][b];
            }
        }
    }
    let mut solution = [0.0; UNKNOWNS];
    for a in 0..UNKNOWNS {
        let known: f64 = (0..a).map(|n| equations[a][n] * solution[n]).sum();
        solution[a] = (equations[a][UNKNOWNS] - known) / equations[a][a];
    }
    for a in (0..UNKNOWNS).rev() {
        let known: f64 = (a + 1..UNKNOWNS)
            .map(|n| equations[n][a] * solution[n])
            .sum();
        solution[a] = (solution[a] - known) / equations[a][a];
    }
    Some(solution)
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::grid::Grid;
    use crate::phantom::{Phantom, PhantomOptions, Tissue, head};
    use crate::study::Contrast;

    /// A head of 2 mm voxels with lesions on it.
    fn phantom() -> &'static Phantom {
        static HEAD: OnceLock<Phantom> = OnceLock::new();
        HEAD.get_or_init(|| {
            let standard = PhantomOptions::standard(7);
            let grid = standard.grid.with_spacing([2.0; 3]).unwrap();
            head(&PhantomOptions {
                grid,
                lesion_load_ml: 25.0,
                contrasts: vec![Contrast::Flair, Contrast::T1w],
                ..standard
            })
        })
    }

    /// What an anatomy network would be sure of; it takes lesions for white matter.
    fn anatomy() -> Anatomy {
        let parts = phantom().tissue.map(|label| {
            let part = match Tissue::ALL[usize::from(label)] {
                Tissue::Cortex | Tissue::Hippocampus => Part::Cortex,
                Tissue::WhiteMatter => Part::WhiteMatter,
                Tissue::Caudate | Tissue::Putamen | Tissue::Thalamus => Part::DeepGrey,
                Tissue::Brainstem => Part::Brainstem,
                Tissue::CerebellarCortex | Tissue::CerebellarWhite => Part::Cerebellum,
                _ => Part::Background,
            };
            part.code()
        });
        let grid = *parts.grid();
        Anatomy {
            parts,
            likelihood: Volume::filled(grid, 1.0),
            brain: phantom().brain.map(f32::from),
        }
    }

    /// A smooth factor that is no polynomial: waves of 250 mm and more.
    fn lit(strength: f64, phase: [f64; 3], at: DVec3) -> f64 {
        let wave = |x: f64, mm: f64, phase: f64| (std::f64::consts::TAU * x / mm + phase).sin();
        let [a, b, c] = phase;
        let log = wave(at.x, 320.0, a) + wave(at.y + 0.3 * at.z, 380.0, b) + wave(at.z, 350.0, c);
        (0.5 * strength * log).exp()
    }

    fn under(strength: f64, phase: [f64; 3], scan: &Volume<f32>) -> Volume<f32> {
        let grid: Grid = *scan.grid();
        Volume::from_fn(grid, |at| {
            (f64::from(scan.at(at)) * lit(strength, phase, grid.centre_of(at).0)) as f32
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_smooth_field_is_found_again(strength in 0.05_f64..0.5, phase in prop::array::uniform3(0.0_f64..6.0),
                                         flair in any::<bool>()) {
            let anatomy = anatomy();
            let scan = &phantom().scans[usize::from(!flair)].1;
            // What the phantom itself is unevenly lit by is no part of the question.
            let own = Field::of(scan, &anatomy).unwrap();
            let found = Field::of(&under(strength, phase, scan), &anatomy).unwrap();
            let off: Vec<f64> = places(&anatomy)
                .into_iter()
                .map(|(at, _)| (found.at(at) / own.at(at)).ln() - lit(strength, phase, at).ln())
                .collect();
            let mean = off.iter().sum::<f64>() / off.len() as f64;
            let size = (off.iter().map(|off| (off - mean).powi(2)).sum::<f64>() / off.len() as f64).sqrt();
            prop_assert!(size < 0.01 + 0.05 * strength, "{size} of {strength}");
        }
    }

    #[test]
    fn what_is_removed_is_gone_and_the_rest_stays() {
        let anatomy = anatomy();
        let scan = &phantom().scans[0].1;
        let mut image = under(0.4, [0.3, 1.0, 2.0], scan);
        let before = image.clone();
        let field = Field::of(&image, &anatomy).unwrap();
        assert!(field.span() > 0.3, "{}", field.span());
        field.remove(&mut image, &phantom().brain);
        let again = Field::of(&image, &anatomy).unwrap();
        assert!(again.span() < 0.01, "{}", again.span());
        let outside = phantom()
            .brain
            .samples()
            .iter()
            .position(|b| *b == 0)
            .unwrap();
        assert_eq!(
            image.samples()[outside].to_bits(),
            before.samples()[outside].to_bits()
        );
    }

    #[test]
    fn a_bright_region_of_one_side_is_taken_for_lesions_and_not_for_light() {
        let anatomy = anatomy();
        let scan = &phantom().scans[0].1;
        let grid: Grid = *scan.grid();
        let own = Field::of(scan, &anatomy).unwrap();
        let heart = DVec3::new(32.0, 20.0, 28.0);
        let marked = Volume::from_fn(grid, |at| {
            let near = grid.centre_of(at).0.distance(heart) < 20.0;
            scan.at(at) * if near { 1.7 } else { 1.0 }
        });
        let found = Field::of(&marked, &anatomy).unwrap();
        let places = places(&anatomy);
        let inside = places.iter().filter(|(at, _)| at.distance(heart) < 20.0);
        assert!(inside.count() > 50);
        let furthest = places
            .iter()
            .map(|(at, _)| (found.at(*at) / own.at(*at)).ln().abs())
            .fold(0.0, f64::max);
        assert!(furthest < 0.05, "{furthest}");
    }

    #[test]
    fn too_little_tissue_tells_nothing() {
        let anatomy = anatomy();
        let nothing = Volume::filled(*anatomy.parts.grid(), 0.0);
        assert_eq!(Field::of(&nothing, &anatomy), None);
        let unsure = Anatomy {
            likelihood: Volume::filled(*anatomy.parts.grid(), 0.5),
            ..anatomy
        };
        assert_eq!(Field::of(&phantom().scans[0].1, &unsure), None);
    }

    #[test]
    fn the_terms_are_all_products_of_powers() {
        let found = terms(DVec3::new(2.0, 3.0, 5.0));
        let mut want: Vec<f64> = Vec::new();
        for (a, b, c) in (0..64).map(|n| (n % 4, n / 4 % 4, n / 16)) {
            if (1..=3).contains(&(a + b + c)) {
                want.push(2_f64.powi(a) * 3_f64.powi(b) * 5_f64.powi(c));
            }
        }
        let mut sorted = found.to_vec();
        sorted.sort_by(f64::total_cmp);
        want.sort_by(f64::total_cmp);
        let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(sorted), bits(want));
    }
}
