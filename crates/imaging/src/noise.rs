//! How noisy a scan is, and whether ghosts of the head lie beside it.
//!
//! Both are measured on the scan's own grid, before anything is interpolated. In-plane axes are the two with
//! the smallest spacing: noise of thick slices shows within them.
use rayon::prelude::*;

use crate::grid::Grid;
use crate::normalise::quantile;
use crate::volume::Volume;

/// The median of the absolute value of a normal variable of deviation 1.
const MEDIAN_OF_NORMAL: f64 = 0.6745;
/// Air begins this far from the brain: no scalp is so thick.
const SCALP_MM: f64 = 20.0;
/// Fewer voxels of air say nothing.
const FEWEST: usize = 200;
/// Of the air, every so many-th voxel along a row is looked at.
const STRIDE: usize = 3;

/// The median of the brain for the noise on it; `None` if there is no noise or no brain to see it in.
///
/// The deviation of the noise is the median of |L| / (6 · 0.6745) over voxels of `brain` with all their
/// in-plane neighbours in it, L being the image under the mask 1 −2 1, −2 4 −2, 1 −2 1, which the head's own
/// structure hardly moves (Immerkær, Comput. Vis. Image Underst. 64:300, 1996, with a median for his mean).
/// On an interpolated scan the noise is smoothed and the ratio too good.
///
/// # Panics
/// If `brain` has not as many voxels as `scan`.
#[must_use]
pub fn signal_to_noise(scan: &Volume<f32>, brain: &Volume<u8>) -> Option<f64> {
    let shape = scan.grid().shape();
    let steps = [1, shape[0], shape[0] * shape[1]];
    let plane = in_plane(scan.grid());
    let (values, inside) = (scan.samples(), brain.samples());
    let response = |at: usize| -> Option<f32> {
        let first = at - steps[plane[0]] - steps[plane[1]];
        let mut response = 0.0_f32;
        for (da, along) in [1.0, -2.0, 1.0].into_iter().enumerate() {
            for (db, across) in [1.0, -2.0, 1.0].into_iter().enumerate() {
                let there = first + da * steps[plane[0]] + db * steps[plane[1]];
                if inside[there] == 0 {
                    return None;
                }
                response += along * across * values[there];
            }
        }
        Some(response.abs())
    };
    // Where a voxel has neighbours along an axis.
    let within = |a: usize| {
        let rim = usize::from(plane.contains(&a));
        rim..shape[a].saturating_sub(rim)
    };
    let mut responses: Vec<f32> = within(2)
        .into_par_iter()
        .flat_map_iter(|k| within(1).flat_map(move |j| within(0).map(move |i| [i, j, k])))
        .map(|index| scan.grid().offset(index))
        .filter(|at| inside[*at] != 0)
        .filter_map(response)
        .collect();
    let signal = median_inside(scan, brain)?;
    if responses.is_empty() {
        return None;
    }
    let deviation = quantile(&mut responses, 0.5) / (6.0 * MEDIAN_OF_NORMAL);
    (deviation > 0.0).then(|| signal / deviation)
}

/// How much brighter the air beside the head is along one in-plane axis than diagonally off it, for the
/// median of the brain; 0 and more. `None` without enough air.
///
/// A ghost is the head again, moved along the phase-encoding axis, which is not known: of both axes the
/// brighter counts, of both its sides the darker, since ghosts lie on both and a face or neck does not. The
/// upper half of the brain is looked at, and what is more than 20 mm outside its box. After the percent
/// signal ghosting of the American College of Radiology's phantom test guidance (2015), which allows 0.025.
///
/// # Panics
/// If `brain` has not as many voxels as `scan`.
#[must_use]
pub fn ghosting(scan: &Volume<f32>, brain: &Volume<u8>) -> Option<f64> {
    let grid = scan.grid();
    let (start, size) = crate::study::box_of(brain)?;
    let upper = upper_half(grid, start, size);
    let plane = in_plane(grid);
    let spacing = grid.spacing_mm();
    let shape = grid.shape();
    // 0, 1, 2: before, within, after the brain's box along an axis; nothing in its scalp.
    let zone = |axis: usize, n: usize| -> Option<usize> {
        let scalp = (SCALP_MM / spacing[axis]).ceil() as usize;
        let (low, high) = (start[axis], start[axis] + size[axis]);
        if n + scalp < low {
            Some(0)
        } else if n >= high + scalp {
            Some(2)
        } else {
            (low..high).contains(&n).then_some(1)
        }
    };
    let mut zones: [[Vec<f32>; 3]; 3] = Default::default();
    for k in 0..shape[2] {
        for j in 0..shape[1] {
            for i in (0..shape[0]).step_by(STRIDE) {
                let at = [i, j, k];
                // Strips are as long as the brain; above it there is nothing but air.
                let through = (0..3).all(|x| plane.contains(&x) || upper[x].contains(&at[x]));
                let [za, zb] = plane.map(|x| zone(x, at[x]));
                let (true, Some(za), Some(zb)) = (through, za, zb) else {
                    continue;
                };
                let beside = |x: usize, z: usize| z != 1 || upper[x].contains(&at[x]);
                if (za, zb) != (1, 1) && beside(plane[0], za) && beside(plane[1], zb) {
                    zones[za][zb].push(scan.at(at));
                }
            }
        }
    }
    let darkest = |places: &[[usize; 2]]| -> Option<f64> {
        let levels = places.iter().filter_map(|&[a, b]| {
            let mut values = zones[a][b].clone();
            (values.len() >= FEWEST).then(|| quantile(&mut values, 0.5))
        });
        levels.min_by(f64::total_cmp)
    };
    let off = darkest(&[[0, 0], [0, 2], [2, 0], [2, 2]])?;
    let beside = [darkest(&[[0, 1], [2, 1]]), darkest(&[[1, 0], [1, 2]])];
    let brightest = beside.into_iter().flatten().max_by(f64::total_cmp)?;
    let signal = median_inside(scan, brain)?;
    (signal > 0.0).then(|| ((brightest - off) / signal).max(0.0))
}

fn median_inside(scan: &Volume<f32>, brain: &Volume<u8>) -> Option<f64> {
    let pairs = scan.samples().iter().zip(brain.samples());
    let mut inside: Vec<f32> = pairs.filter(|(_, m)| **m != 0).map(|(v, _)| *v).collect();
    (!inside.is_empty()).then(|| quantile(&mut inside, 0.5))
}

/// The two axes with the smallest spacing; of equal ones the first.
fn in_plane(grid: &Grid) -> [usize; 2] {
    let spacing = grid.spacing_mm();
    // A hair more decides nothing: isotropic voxels differ by rounding.
    let through = (0..3).fold(2, |most, a| {
        if spacing[a] > 1.01 * spacing[most] {
            a
        } else {
            most
        }
    });
    match through {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    }
}

/// The voxels along each axis that lie in the upper half of the brain's box: all of the box along axes that
/// are not nearest to upwards.
fn upper_half(grid: &Grid, start: [usize; 3], size: [usize; 3]) -> [std::ops::Range<usize>; 3] {
    let towards = grid.orientation().to_string().into_bytes();
    [0, 1, 2].map(|a| {
        let (low, high) = (start[a], start[a] + size[a]);
        match towards.get(a) {
            Some(b'S') => low + size[a] / 2..high,
            Some(b'I') => low..high - size[a] / 2,
            _ => low..high,
        }
    })
}

#[cfg(test)]
mod tests {
    use glam::{DAffine3, DVec3};

    use super::*;
    use crate::chance::Chance;

    /// A ball of 60 mm in air, 3 mm voxels, slices of 5 mm, with noise of a deviation.
    fn ball(noise: f64, ghost: f32) -> (Volume<f32>, Volume<u8>) {
        let spacing = DVec3::new(3.0, 3.0, 5.0);
        let grid = Grid::new([90, 90, 40], DAffine3::from_scale(spacing)).unwrap();
        let middle = DVec3::new(133.5, 133.5, 97.5);
        let within = |at: [usize; 3], shift: f64| {
            let p = grid.centre_of(at).0 - middle - DVec3::new(0.0, shift, 0.0);
            p.length() < 60.0
        };
        let chance = Chance::new(5);
        let scan = Volume::from_fn(grid, |at| {
            let signal = if within(at, 0.0) { 200.0 } else { 10.0 };
            let ghosts = [-115.0, 115.0].into_iter().any(|shift| within(at, shift));
            let ghost = if ghosts { ghost } else { 0.0 };
            signal
                + ghost
                + (noise * f64::from(chance.of(grid.offset(at) as u64).normals()[0])) as f32
        });
        (scan, Volume::from_fn(grid, |at| u8::from(within(at, 0.0))))
    }

    #[test]
    fn noise_is_found_as_large_as_it_was_made() {
        for noise in [2.0, 10.0, 40.0] {
            let (scan, brain) = ball(noise, 0.0);
            let found = signal_to_noise(&scan, &brain).unwrap() * noise / 200.0;
            assert!((found - 1.0).abs() < 0.05, "{noise}: {found}");
        }
        let (scan, brain) = ball(0.0, 0.0);
        assert_eq!(signal_to_noise(&scan, &brain), None);
        let nobody = brain.map(|_| 0);
        assert_eq!(signal_to_noise(&scan, &nobody), None);
    }

    #[test]
    fn a_ghost_is_found_beside_the_head_and_one_side_alone_is_none() {
        let (scan, brain) = ball(1.0, 0.0);
        assert!(ghosting(&scan, &brain).unwrap() < 0.005);
        let (scan, brain) = ball(1.0, 20.0);
        let found = ghosting(&scan, &brain).unwrap();
        assert!((found - 0.1).abs() < 0.01, "{found}");
        let one_side = Volume::from_fn(*scan.grid(), |at| {
            let value = scan.at(at);
            if at[1] > 45 && value < 100.0 {
                10.0
            } else {
                value
            }
        });
        assert!(ghosting(&one_side, &brain).unwrap() < 0.005);
        let cut = scan.grid().crop([25, 25, 0], [40, 40, 40]).unwrap();
        let tight = scan.cropped([25, 25, 0], cut, 0.0);
        assert_eq!(ghosting(&tight, &brain.cropped([25, 25, 0], cut, 0)), None);
    }
}
