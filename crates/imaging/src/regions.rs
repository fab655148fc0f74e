//! Where in the brain a lesion lies, by the four places that diagnosis asks for.
//!
//! The rule, on the anatomy's grid, in this order: a lesion of which at least half lies in brainstem or
//! cerebellum is *infratentorial*; one that comes within [`TOUCH_MM`] of the ventricles is
//! *periventricular*; one that comes as near to the cortex is *juxtacortical*; the rest are in the *deep
//! white matter*. The places are those of McDonald 2017 (Thompson et al., Lancet Neurol 17:162, 2018); the
//! first touch decides, as in LST-AI. Infratentorial comes first because the fourth ventricle is one.
use rayon::prelude::*;

use crate::anatomy::{Anatomy, Part};
use crate::distance::Ways;
use crate::lesions::Lesions;
use crate::volume::TOGETHER;

/// What is as near as this touches: a voxel of the anatomy, and the half of one that its rim is unsure by.
pub const TOUCH_MM: f64 = 3.0;

/// A place in the brain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// At the ventricles.
    Periventricular,
    /// At or in the cortex.
    Juxtacortical,
    /// In brainstem or cerebellum.
    Infratentorial,
    /// Elsewhere.
    DeepWhiteMatter,
}

impl Region {
    /// Every region; its place here, from 1, is its value in files.
    pub const ALL: [Self; 4] = [
        Self::Periventricular,
        Self::Juxtacortical,
        Self::Infratentorial,
        Self::DeepWhiteMatter,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Periventricular => "periventricular",
            Self::Juxtacortical => "juxtacortical",
            Self::Infratentorial => "infratentorial",
            Self::DeepWhiteMatter => "deep_white_matter",
        }
    }

    /// Its value in files.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Periventricular => 1,
            Self::Juxtacortical => 2,
            Self::Infratentorial => 3,
            Self::DeepWhiteMatter => 4,
        }
    }
}

/// Where a lesion lies, and what that was told from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// The region.
    pub region: Region,
    /// From its nearest voxel to the ventricles, millimetres between centres; infinite without any.
    pub to_ventricles_mm: f64,
    /// As far as that to the cortex.
    pub to_cortex_mm: f64,
    /// The share of its voxels in brainstem or cerebellum.
    pub infratentorial: f64,
}

/// The parts that places are told by, and the ways to them.
#[derive(Debug)]
pub struct Surroundings<'a> {
    anatomy: &'a Anatomy,
    ventricles: Ways,
    cortex: Ways,
}

impl<'a> Surroundings<'a> {
    /// Of a head, before its lesions are known.
    #[must_use]
    pub fn of(anatomy: &'a Anatomy) -> Self {
        let grid = anatomy.parts.grid();
        let to = |part: Part| Ways::to(&anatomy.voxels_of(part), grid.shape(), grid.spacing_mm());
        let (ventricles, cortex) = rayon::join(|| to(Part::Ventricles), || to(Part::Cortex));
        Self {
            anatomy,
            ventricles,
            cortex,
        }
    }
}

/// The place of each lesion, in their order.
#[must_use]
pub fn places(lesions: &Lesions, around: &Surroundings<'_>) -> Vec<Place> {
    let anatomy = around.anatomy;
    let grid = *anatomy.parts.grid();
    let shape = grid.shape();
    let (from, to) = (*lesions.instances.grid(), grid);
    // The anatomy's voxel that each voxel of a lesion lies in; what lies outside has no neighbours there.
    let query = |offset: usize, id: u32| {
        let at = to.voxel(from.centre_of(from.index(offset))).0.round();
        let inside = (0..3).all(|a| at[a] >= 0.0 && at[a] < shape[a] as f64);
        inside.then(|| {
            (
                to.offset([0, 1, 2].map(|a| at[a] as usize)),
                id as usize - 1,
            )
        })
    };
    let (queries, of_lesion): (Vec<usize>, Vec<usize>) = lesions
        .instances
        .samples()
        .par_chunks(TOGETHER)
        .enumerate()
        .flat_map_iter(|(n, some)| {
            let numbered = (n * TOGETHER..).zip(some).filter(|(_, id)| **id != 0);
            numbered.filter_map(|(offset, &id)| query(offset, id))
        })
        .unzip();
    let (ventricles, cortex) = rayon::join(
        || around.ventricles.squared_mm2(&queries),
        || around.cortex.squared_mm2(&queries),
    );
    let below: Vec<u8> = [Part::Brainstem, Part::Cerebellum]
        .iter()
        .filter_map(|part| Part::ALL.iter().position(|p| p == part))
        .map(|code| code as u8)
        .collect();
    let mut nearest = vec![(f64::INFINITY, f64::INFINITY, 0_usize); lesions.items.len()];
    for (n, &lesion) in of_lesion.iter().enumerate() {
        if let Some((ventricle, cortical, infratentorial)) = nearest.get_mut(lesion) {
            *ventricle = ventricle.min(ventricles[n]);
            *cortical = cortical.min(cortex[n]);
            *infratentorial += usize::from(below.contains(&anatomy.parts.samples()[queries[n]]));
        }
    }
    nearest
        .into_iter()
        .zip(&lesions.items)
        .map(|((ventricle, cortical, below), lesion)| {
            let infratentorial = below as f64 / lesion.voxels.max(1) as f64;
            let (to_ventricles_mm, to_cortex_mm) = (ventricle.sqrt(), cortical.sqrt());
            let region = if infratentorial >= 0.5 {
                Region::Infratentorial
            } else if to_ventricles_mm <= TOUCH_MM {
                Region::Periventricular
            } else if to_cortex_mm <= TOUCH_MM {
                Region::Juxtacortical
            } else {
                Region::DeepWhiteMatter
            };
            Place {
                region,
                to_ventricles_mm,
                to_cortex_mm,
                infratentorial,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use glam::{DAffine3, DVec3};

    use super::*;
    use crate::grid::{Grid, WorldPoint};
    use crate::lesions::CountingRule;
    use crate::volume::Volume;

    /// From left to right: ventricle, white matter, cortex; below them the cerebellum.
    fn anatomy() -> Anatomy {
        let grid = Grid::new([20, 6, 6], DAffine3::from_scale(DVec3::splat(2.0))).unwrap();
        let code = |part: Part| Part::ALL.iter().position(|p| *p == part).unwrap() as u8;
        let parts = Volume::from_fn(grid, |[i, _, k]| match (i, k) {
            (_, 0..2) => code(Part::Cerebellum),
            (0..4, _) => code(Part::Ventricles),
            (16.., _) => code(Part::Cortex),
            _ => code(Part::WhiteMatter),
        });
        Anatomy {
            brain: parts.map(|_| 1.0),
            likelihood: parts.map(|_| 1.0),
            parts,
        }
    }

    #[test]
    fn each_place_is_told_on_a_scan_of_another_grid() {
        let anatomy = anatomy();
        // x from the right: lesions of one voxel each at these places of the anatomy, and so many voxels that more than
        // one thread looks for them.
        let flipped = DAffine3::from_scale_rotation_translation(
            DVec3::new(-0.25, 0.25, 0.25),
            glam::DQuat::IDENTITY,
            DVec3::new(39.375, -0.375, -0.375),
        );
        let grid = Grid::new([160, 48, 48], flipped).unwrap();
        assert!(grid.voxels() > 2 * TOGETHER);
        let wanted = [
            (8.0, Region::Periventricular),
            (20.0, Region::DeepWhiteMatter),
            (30.0, Region::Juxtacortical),
        ];
        for (x, region) in wanted {
            for (z, region) in [(8.0, region), (1.0, Region::Infratentorial)] {
                let at = grid.voxel(WorldPoint(DVec3::new(x, 6.0, z))).0.round();
                let probability = Volume::from_fn(grid, |[i, j, k]| {
                    f32::from(DVec3::new(i as f64, j as f64, k as f64) == at)
                });
                let rule = CountingRule {
                    threshold: 0.5,
                    min_lesion_ml: 0.0,
                };
                let lesions = Lesions::find(&probability, rule);
                let found = places(&lesions, &Surroundings::of(&anatomy));
                assert_eq!(found.len(), 1);
                assert_eq!(found[0].region, region, "x {x} z {z}: {:?}", found[0]);
            }
        }
    }

    #[test]
    fn codes_are_places_in_the_list() {
        for (n, region) in Region::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(region.code()), n + 1);
        }
    }
}
