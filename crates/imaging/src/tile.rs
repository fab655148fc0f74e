//! Where the patches of a volume lie, in an order that never changes.
//!
//! The network sees boxes of one shape. This room names their places and does nothing else: it
//! neither copies samples (`volume`) nor weighs results (`vote`), so that a study's cost is known
//! from its headers, before anything is admitted or unpacked.
use std::num::NonZeroUsize;

/// How one axis is cut, in voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxisTiling {
    /// Length of a patch.
    pub patch: NonZeroUsize,
    /// The most that neighbouring patches may be apart; less than `patch` makes them overlap.
    pub stride: NonZeroUsize,
}

impl AxisTiling {
    /// Returns the first voxel of each patch, ascending; the last patch ends at the last voxel.
    ///
    /// Starts are spread evenly, after nnU-Net's `compute_steps_for_sliding_window`. An axis that is
    /// shorter than a patch gets one patch around its middle, whose start may be negative.
    ///
    /// ```
    /// # use std::num::NonZeroUsize; use dawson_imaging::tile::AxisTiling;
    /// # let voxels = |n| NonZeroUsize::new(n).unwrap();
    /// let half = AxisTiling { patch: voxels(64), stride: voxels(32) };
    /// assert_eq!(half.starts(110), [0, 23, 46]);
    /// assert_eq!(half.starts(64), [0]);
    /// assert_eq!(half.starts(50), [-7]);
    /// ```
    #[must_use]
    pub fn starts(self, axis: usize) -> Vec<isize> {
        let patch = self.patch.get();
        let Some(last) = axis.checked_sub(patch) else {
            return vec![-((patch - axis) as isize / 2)];
        };
        let gaps = last.div_ceil(self.stride.get()).max(1);
        let mut starts: Vec<isize> = (0..=gaps)
            .map(|n| ((n * last + gaps / 2) / gaps) as isize)
            .collect();
        starts.dedup(); // An axis as long as the patch has one start, not two.
        starts
    }
}

/// A patch shape and how much neighbours share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Voxels of a patch, `[i, j, k]`.
    pub patch: [NonZeroUsize; 3],
    /// The share of a patch, along each axis, that the next one covers again: 0 to below 1.
    pub overlap: f64,
}

impl Tiling {
    /// First voxel of every patch that covers a volume of `shape`, k slowest, i fastest.
    #[must_use]
    pub fn starts(&self, shape: [usize; 3]) -> Vec<[isize; 3]> {
        let [i, j, k] = [0, 1, 2].map(|a| self.axis(a).starts(shape[a]));
        let mut starts = Vec::with_capacity(i.len() * j.len() * k.len());
        for &k in &k {
            for &j in &j {
                starts.extend(i.iter().map(|&i| [i, j, k]));
            }
        }
        starts
    }

    /// How many patches cover a volume of `shape`: as many as [`Tiling::starts`] names.
    #[must_use]
    pub fn count(&self, shape: [usize; 3]) -> usize {
        [0, 1, 2]
            .map(|a| self.axis(a).starts(shape[a]).len())
            .iter()
            .product()
    }

    fn axis(&self, a: usize) -> AxisTiling {
        let patch = self.patch[a];
        let stride = (patch.get() as f64 * (1.0 - self.overlap)).round() as usize;
        let stride = NonZeroUsize::new(stride).unwrap_or(NonZeroUsize::MIN);
        AxisTiling { patch, stride }
    }
}

/// Shapes for seeing a whole brain at once, `[i, j, k]` at 1 mm: from a small box to a head with
/// its neck. Few and fixed, so that the engine keeps one session for each that occurs.
const WHOLE: [[usize; 3]; 8] = [
    [96, 96, 96],
    [112, 144, 112],
    [128, 160, 128],
    [144, 176, 144],
    [160, 192, 160],
    [176, 208, 192],
    [192, 240, 224],
    [256, 256, 256],
];

/// The smallest fixed shape that holds a volume of `shape` in one patch, each axis rounded up to a
/// multiple of `multiple`; `None` if no fixed shape is large enough.
#[must_use]
pub fn whole(shape: [usize; 3], multiple: NonZeroUsize) -> Option<[NonZeroUsize; 3]> {
    let fits = |candidate: &&[usize; 3]| (0..3).all(|a| candidate[a] >= shape[a]);
    let found = WHOLE.iter().find(fits)?;
    let rounded = found.map(|n| NonZeroUsize::new(n.next_multiple_of(multiple.get())));
    match rounded {
        [Some(i), Some(j), Some(k)] => Some([i, j, k]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voxels(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    proptest::proptest! {
        #[test]
        fn no_voxel_is_left_out(patch in 1..200_usize, more in 0..300_usize, stride in 1..200_usize) {
            let stride = stride.min(patch);
            let tiling = AxisTiling { patch: voxels(patch), stride: voxels(stride) };
            let starts = tiling.starts(patch + more);
            assert_eq!((starts[0], starts[starts.len() - 1]), (0, more as isize));
            assert!(starts.windows(2).all(|s| s[0] < s[1] && s[1] - s[0] <= stride as isize));
        }

        #[test]
        fn patches_cover_every_voxel_of_any_volume(shape in [1_usize..40, 1..40, 1..40],
                                                   patch in [1_usize..24, 1..24, 1..24],
                                                   overlap in 0.0_f64..0.95) {
            let tiling = Tiling { patch: patch.map(voxels), overlap };
            let mut seen = vec![false; shape.iter().product()];
            assert_eq!(tiling.starts(shape).len(), tiling.count(shape));
            for start in tiling.starts(shape) {
                for (at, seen) in seen.iter_mut().enumerate() {
                    let index = [at % shape[0], at / shape[0] % shape[1], at / (shape[0] * shape[1])];
                    *seen |= (0..3).all(|a| {
                        let from = index[a] as isize - start[a];
                        (0..patch[a] as isize).contains(&from)
                    });
                }
            }
            assert!(seen.iter().all(|&s| s));
        }

        #[test]
        fn a_whole_shape_holds_the_volume_and_suits_the_network(shape in [1_usize..257, 1..257, 1..257],
                                                                multiple in 1_usize..33) {
            let found = whole(shape, voxels(multiple)).unwrap();
            for a in 0..3 {
                assert!(found[a].get() >= shape[a] && found[a].get().is_multiple_of(multiple));
            }
        }
    }

    #[test]
    fn a_volume_beyond_the_largest_shape_is_not_seen_at_once() {
        assert_eq!(whole([257, 10, 10], voxels(16)), None);
    }
}
