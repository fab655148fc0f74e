//! What kind of contrast an image is, told from the tissues on it.
//!
//! A file's name is a claim. What is on it is told by two figures that no scanner's scaling moves: how
//! often fluid is brighter than white matter, and how often cortex is. They come from where
//! [`crate::anatomy`] is sure of a part, so they also say when the parts were seen in something that is
//! no head, or belong to another head than the image does. No intensity is changed here.
use std::cmp::Ordering;

use rayon::prelude::*;

use crate::anatomy::{Anatomy, Part};
use crate::study::Contrast;
use crate::volume::Volume;

/// Parts are looked at where their probability is at least this.
const SURE: f32 = 0.6;
/// Fewer voxels of a part say nothing about it.
const FEWEST: usize = 50;
/// Fluid that is brighter than white matter in less than this share of pairs is dark.
const DARK: f64 = 0.35;
/// In more than this: bright.
const BRIGHT: f64 = 0.65;
/// Cortex that is brighter than white matter in less than this share of pairs is darker: T1. On FLAIR,
/// where the two are nearly alike, white matter seldom wins so often.
const DARKER_CORTEX: f64 = 0.3;

/// How bright the parts of a head are for one another on one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Appearance {
    /// The share, 0 to 1, of pairs of voxels (one of fluid, one of white matter) in which fluid is brighter;
    /// ties count half. That is the area under the ROC curve (Bamber, J. Math. Psychol. 12:387, 1975).
    /// `None` if too little fluid was seen.
    pub fluid_over_white: Option<f64>,
    /// The same of the cortex.
    pub cortex_over_white: f64,
    /// The share, 0 to 1, of cortex and white matter where the image is exactly 0 or does not reach.
    pub empty: f64,
}

/// What an image looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Dark fluid, cortex about as bright as white matter or brighter.
    Flair,
    /// Dark fluid, cortex darker than white matter.
    T1,
    /// Bright fluid, bright cortex.
    T2,
    /// Bright cortex, fluid in between.
    Pd,
    /// An order that no contrast of a brain has.
    NoContrast,
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flair => "a FLAIR",
            Self::T1 => "T1-weighted",
            Self::T2 => "T2-weighted",
            Self::Pd => "proton-density-weighted",
            Self::NoContrast => "no contrast of this head",
        })
    }
}

impl Look {
    /// Whether an image that looks so may be of that contrast.
    #[must_use]
    pub fn suits(self, contrast: Contrast) -> bool {
        match contrast {
            Contrast::Flair => self == Self::Flair,
            Contrast::T1w | Contrast::T1gd => self == Self::T1,
            Contrast::T2w => self == Self::T2,
            // Fluid may be dark or bright on it, by its repetition time.
            Contrast::Pdw => matches!(self, Self::Pd | Self::T2 | Self::Flair),
        }
    }
}

impl Appearance {
    /// Looks at an image that lies as `anatomy` does: `value` gives its value at an offset of the anatomy's
    /// grid, `None` where it does not reach.
    ///
    /// Returns `None` if the anatomy is hardly sure of any cortex or white matter.
    #[must_use]
    pub fn of(anatomy: &Anatomy, value: impl Fn(usize) -> Option<f32>) -> Option<Self> {
        let white_at = anatomy.sure_voxels_of(Part::WhiteMatter, SURE);
        let cortex_at = anatomy.sure_voxels_of(Part::Cortex, SURE);
        if white_at.len().min(cortex_at.len()) < FEWEST {
            return None;
        }
        let values = |at: &[usize]| -> Vec<f32> {
            let seen = at.iter().filter_map(|&at| value(at));
            seen.filter(|v| *v != 0.0).collect()
        };
        let (white, cortex) = (values(&white_at), values(&cortex_at));
        let all = white_at.len() + cortex_at.len();
        let empty = 1.0 - (white.len() + cortex.len()) as f64 / all as f64;
        // Fluid may be 0 by itself: only where the image does not reach it is left out.
        let mut fluid_at = anatomy.sure_voxels_of(Part::Ventricles, SURE);
        if fluid_at.len() < FEWEST {
            fluid_at.extend(anatomy.sure_voxels_of(Part::OtherCsf, SURE));
        }
        let fluid: Vec<f32> = fluid_at.iter().filter_map(|&at| value(at)).collect();
        let enough = fluid.len() >= FEWEST && white.len() >= FEWEST;
        Some(Self {
            fluid_over_white: enough.then(|| share_above(fluid, &white)),
            cortex_over_white: share_above(cortex, &white),
            empty,
        })
    }

    /// Looks at an image on any grid whose world is the anatomy's; the nearest voxel counts.
    #[must_use]
    pub fn on(anatomy: &Anatomy, image: &Volume<f32>) -> Option<Self> {
        let (from, to) = (anatomy.parts.grid(), image.grid());
        let map = from.to_voxels_of(to);
        Self::of(anatomy, |at| {
            let there = glam::DVec3::from(from.index(at).map(|n| n as f64));
            let there = map.transform_point3(there).round().to_array();
            let inside = |a: usize| (0.0..to.shape()[a] as f64).contains(&there[a]);
            (0..3)
                .all(inside)
                .then(|| image.at(there.map(|n| n as usize)))
        })
    }

    /// What the image looks like; `None` if there was too little fluid to tell.
    #[must_use]
    pub fn look(&self) -> Option<Look> {
        let (fluid, cortex) = (self.fluid_over_white?, self.cortex_over_white);
        Some(if fluid < DARK {
            if cortex < DARKER_CORTEX {
                Look::T1
            } else {
                Look::Flair
            }
        } else if fluid > BRIGHT && cortex > 0.5 {
            Look::T2
        } else if cortex > BRIGHT {
            Look::Pd
        } else {
            Look::NoContrast
        })
    }
}

/// The share of pairs in which the first is larger; ties count half, no pair gives one half.
fn share_above(mut these: Vec<f32>, those: &[f32]) -> f64 {
    let mut those = those.to_vec();
    these.par_sort_unstable_by(f32::total_cmp);
    those.par_sort_unstable_by(f32::total_cmp);
    let pairs = these.len() as f64 * those.len() as f64;
    if pairs == 0.0 {
        return 0.5;
    }
    let (mut below, mut not_above, mut won) = (0, 0, 0.0);
    for this in these {
        let is = |that: &f32, order| that.total_cmp(&this) == order;
        while those
            .get(below)
            .is_some_and(|that| is(that, Ordering::Less))
        {
            below += 1;
        }
        while those
            .get(not_above)
            .is_some_and(|that| !is(that, Ordering::Greater))
        {
            not_above += 1;
        }
        won += 0.5 * (below + not_above) as f64;
    }
    won / pairs
}

#[cfg(test)]
mod tests {
    use glam::{DAffine3, DVec3};
    use proptest::prelude::*;

    use super::*;
    use crate::anatomy::Answer;
    use crate::grid::Grid;

    fn read(grid: Grid, classes: &[Part], probabilities: &[f32]) -> Anatomy {
        let answer = Answer {
            classes,
            shape: grid.shape(),
            probabilities,
        };
        Anatomy::read(grid, &answer, 0.0)
    }

    /// Slabs of white matter, cortex and ventricle, told with certainty.
    fn slabs() -> Anatomy {
        let grid = Grid::new([12, 12, 12], DAffine3::from_scale(DVec3::splat(2.0))).unwrap();
        let classes = [Part::WhiteMatter, Part::Cortex, Part::Ventricles];
        let told: Vec<f32> = (0..3)
            .flat_map(|class| {
                (0..grid.voxels())
                    .map(move |at| f32::from(u8::from(grid.index(at)[2] / 4 == class)))
            })
            .collect();
        read(grid, &classes, &told)
    }

    fn looks(values: [f32; 3]) -> Option<Look> {
        let anatomy = slabs();
        let grid = *anatomy.parts.grid();
        Appearance::of(&anatomy, |at| {
            // Enough spread that no order is without exceptions.
            let spread = (at * 7919 % 101) as f32 / 2.0;
            Some(values[grid.index(at)[2] / 4] + spread)
        })
        .unwrap()
        .look()
    }

    #[test]
    fn each_contrast_is_told_by_the_order_of_its_tissues() {
        assert_eq!(looks([100.0, 105.0, 40.0]), Some(Look::Flair));
        assert_eq!(looks([130.0, 100.0, 40.0]), Some(Look::T1));
        assert_eq!(looks([100.0, 130.0, 240.0]), Some(Look::T2));
        assert_eq!(looks([100.0, 130.0, 105.0]), Some(Look::Pd));
        assert_eq!(looks([100.0, 100.0, 100.0]), Some(Look::NoContrast));
        assert_eq!(looks([130.0, 100.0, 240.0]), Some(Look::NoContrast));
        assert!(Look::T1.suits(Contrast::T1gd) && !Look::T1.suits(Contrast::Flair));
    }

    #[test]
    fn what_an_image_does_not_reach_is_empty_and_unfamiliar_parts_say_nothing() {
        let anatomy = slabs();
        let grid = *anatomy.parts.grid();
        let seen = Appearance::of(&anatomy, |at| (grid.index(at)[0] < 6).then_some(1.0));
        assert!((seen.unwrap().empty - 0.5).abs() < 1e-12);
        let few = grid.crop([0; 3], [2, 2, 12]).unwrap();
        let image = Volume::filled(few, 1.0);
        let seen = Appearance::on(&anatomy, &image).unwrap();
        assert_eq!((seen.fluid_over_white, seen.look()), (None, None));
        assert!(seen.empty > 0.9);
        let nothing = vec![0.0; grid.voxels()];
        let unsure = read(grid, &[Part::WhiteMatter], &nothing);
        assert_eq!(Appearance::on(&unsure, &image), None);
    }

    proptest! {
        #[test]
        fn a_share_of_pairs_is_what_counting_them_gives(
            these in prop::collection::vec(0..9_u8, 1..30),
            those in prop::collection::vec(0..9_u8, 1..30),
        ) {
            let float = |v: &[u8]| v.iter().map(|n| f32::from(*n)).collect::<Vec<_>>();
            let won: f64 = these.iter().flat_map(|a| those.iter().map(move |b| match a.cmp(b) {
                Ordering::Greater => 1.0,
                Ordering::Equal => 0.5,
                Ordering::Less => 0.0,
            })).sum();
            let counted = won / (these.len() * those.len()) as f64;
            prop_assert!((share_above(float(&these), &float(&those)) - counted).abs() < 1e-12);
        }
    }
}
