//! How far apart the surfaces of two masks lie.
use crate::distance::squared_mm2;

/// Distances in millimetres of all surface voxels of either mask to the other's surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distances {
    pub(super) mean: f64,
    pub(super) percentile_95: f64,
    pub(super) largest: f64,
}

/// Compares the surfaces of two masks of `shape`; `None` if one is empty.
///
/// The outermost layer of the box must be background.
pub(super) fn compare(
    prediction: &[u8],
    truth: &[u8],
    shape: [usize; 3],
    spacing_mm: [f64; 3],
) -> Option<Distances> {
    let (found, real) = (surface(prediction, shape), surface(truth, shape));
    if found.is_empty() || real.is_empty() {
        return None;
    }
    let (mut mm, back) = rayon::join(
        || squared_mm2(&found, &real, shape, spacing_mm),
        || squared_mm2(&real, &found, shape, spacing_mm),
    );
    mm.extend(back);
    for distance in &mut mm {
        *distance = distance.sqrt();
    }
    mm.sort_unstable_by(f64::total_cmp);
    Some(Distances {
        mean: mm.iter().sum::<f64>() / mm.len() as f64,
        percentile_95: percentile(&mm, 0.95),
        largest: mm[mm.len() - 1],
    })
}

/// Offsets of the foreground voxels that have background among their 26 neighbours, ascending.
fn surface(mask: &[u8], [ni, nj, _]: [usize; 3]) -> Vec<usize> {
    let rows = [0, 1, 2].map(|k| [0, 1, 2].map(|j| ni * (j + nj * k))); // Of the 3 x 3 rows around.
    let corner = 1 + ni * (1 + nj); // From a voxel back to the first of its neighbours.
    let inner = |at: usize| {
        rows.iter().flatten().all(|row| {
            let first = at - corner + row;
            mask[first..first + 3].iter().all(|&v| v != 0)
        })
    };
    (0..mask.len())
        .filter(|&at| mask[at] != 0 && !inner(at))
        .collect()
}

/// The value below which a `share` of ascending values lies, linear between neighbours.
///
/// Definition 7 of Hyndman and Fan, *Sample Quantiles in Statistical Packages*, The American
/// Statistician 50 (1996): what `NumPy` calls `linear`.
fn percentile(ascending: &[f64], share: f64) -> f64 {
    let place = share * (ascending.len() - 1) as f64;
    let (below, above) = (
        ascending[place.floor() as usize],
        ascending[place.ceil() as usize],
    );
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box of background with the voxels of `inside` as foreground.
    fn mask(shape: [usize; 3], inside: impl Fn([usize; 3]) -> bool) -> Vec<u8> {
        let [ni, nj, nk] = shape;
        (0..ni * nj * nk)
            .map(|at| u8::from(inside([at % ni, at / ni % nj, at / (ni * nj)])))
            .collect()
    }

    #[test]
    fn the_surface_of_a_cube_is_all_but_its_inside() {
        let shape = [7, 7, 7];
        let cube = mask(shape, |at| at.iter().all(|n| (1..6).contains(n)));
        let inside = mask(shape, |at| at.iter().all(|n| (2..5).contains(n)));
        let want: Vec<usize> = (0..cube.len())
            .filter(|&at| cube[at] > inside[at])
            .collect();
        assert_eq!(surface(&cube, shape), want);
    }

    #[test]
    fn a_missing_corner_opens_the_surface_to_its_neighbour_across_it() {
        let shape = [5, 5, 5];
        let cube = mask(shape, |at| {
            at.iter().all(|n| (1..4).contains(n)) && at != [3, 3, 3]
        });
        assert!(surface(&cube, shape).contains(&(2 + 5 * (2 + 5 * 2))));
    }

    #[test]
    fn two_voxels_are_as_far_apart_as_their_centres() {
        let shape = [7, 3, 3];
        let at = |i| mask(shape, move |voxel| voxel == [i, 1, 1]);
        let found = compare(&at(1), &at(4), shape, [0.5, 1.0, 1.0]).unwrap();
        let want = Distances {
            mean: 1.5,
            percentile_95: 1.5,
            largest: 1.5,
        };
        assert_eq!(found, want);
    }

    #[test]
    fn both_directions_are_pooled_not_averaged() {
        let shape = [6, 3, 3];
        let one = mask(shape, |at| at == [1, 1, 1]);
        let four = mask(shape, |[i, j, k]| (1..5).contains(&i) && j == 1 && k == 1);
        // From the one voxel 0; from the four 0, 1, 2, 3: the mean of five, not of two means.
        let found = compare(&one, &four, shape, [1.0; 3]).unwrap();
        assert!((found.mean - 6.0 / 5.0).abs() < 1e-12);
        assert!((found.percentile_95 - 2.8).abs() < 1e-12);
        assert!((found.largest - 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_percentile_lies_between_its_neighbours() {
        assert!((percentile(&[0.0, 10.0], 0.95) - 9.5).abs() < 1e-12);
        assert!((percentile(&[4.0], 0.95) - 4.0).abs() < 1e-12);
    }
}
