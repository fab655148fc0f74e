//! The golden patch: a brain of ripples with one bright ball, and what the network must say about it.
//!
//! It is made from a formula rather than stored. In channel c with peak p, at `[i, j, k]` with r the
//! distance to the patch's middle voxel `n / 2`:
//! `0.8 sin(0.9 i + c) cos(0.7 j) sin(0.5 k + 1) + p exp(−r² / 2σ²)`.
use std::sync::Arc;

use super::Error;
use super::manifest::Golden;
use crate::engine::{Cancel, Engine, Network, Patch, Precision};

/// bf16 keeps 8 bits of a number: this much more may a probability be off.
const BF16_TOLERANCE: f32 = 0.05;

impl Golden {
    /// The patch's intensities, `[c, k, j, i]`, i fastest.
    #[must_use]
    pub fn image(&self) -> Vec<f32> {
        let [ni, nj, nk] = self.shape.map(std::num::NonZeroUsize::get);
        let mut image = Vec::with_capacity(self.peaks.len() * ni * nj * nk);
        for (c, &peak) in self.peaks.iter().enumerate() {
            for k in 0..nk {
                for j in 0..nj {
                    for i in 0..ni {
                        let away = |at: usize, n: usize| at as f64 - (n / 2) as f64;
                        let r2 = away(i, ni).powi(2) + away(j, nj).powi(2) + away(k, nk).powi(2);
                        let ripple = (0.9 * i as f64 + c as f64).sin()
                            * (0.7 * j as f64).cos()
                            * (0.5 * k as f64 + 1.0).sin();
                        let ball = f64::from(peak) * (-r2 / (2.0 * self.sigma * self.sigma)).exp();
                        image.push((0.8 * ripple + ball) as f32);
                    }
                }
            }
        }
        image
    }

    /// The answer's probabilities (i fastest) at the expected voxels, and their mean.
    #[must_use]
    pub fn answer(&self, probabilities: &[f32]) -> (Vec<f32>, f32) {
        let [ni, nj, _] = self.shape.map(std::num::NonZeroUsize::get);
        let at = |[i, j, k]: [usize; 3]| probabilities.get(i + ni * (j + nj * k)).copied();
        let found = self
            .expected
            .iter()
            .map(|&(voxel, _)| at(voxel).unwrap_or(f32::NAN))
            .collect();
        let sum: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        (found, (sum / probabilities.len().max(1) as f64) as f32)
    }
}

/// Runs a network's golden patch and compares.
///
/// # Errors
/// [`Error::Golden`] if a probability is off by more than the tolerance (which is wider in bf16),
/// [`Error::Engine`] if the patch cannot be run.
pub fn verify(
    network: &Arc<Network>,
    golden: &Golden,
    engine: &Engine,
    precision: Precision,
) -> Result<(), Error> {
    let (answer, answers) = crossbeam_channel::bounded(1);
    let run = engine.submit(Patch {
        network: Arc::clone(network),
        shape: golden.shape.map(std::num::NonZeroUsize::get),
        precision,
        image: golden.image(),
        number: 0,
        cancel: Arc::new(Cancel::default()),
        answer,
    });
    let outcome = run.and_then(|()| {
        answers
            .recv()
            .map_err(|_| crate::engine::Error::Stopped)?
            .outcome
    });
    let probabilities = outcome.map_err(Error::Engine)?.values;
    // Of several classes the first is known.
    let first = probabilities.len() / network.classes.max(1);
    let (found, mean) = golden.answer(&probabilities[..first]);
    let tolerance = match precision {
        Precision::F32 => golden.tolerance,
        Precision::Bf16 => golden.tolerance + BF16_TOLERANCE,
    };
    let expected = golden.expected.iter().map(|&(_, p)| p);
    let off = found
        .iter()
        .zip(expected)
        .chain(std::iter::once((&mean, golden.mean)))
        .map(|(&found, expected)| (found, expected, (found - expected).abs()))
        // Not-a-number is off, too.
        .find(|&(_, _, off)| off.is_nan() || off > tolerance);
    match off {
        None => Ok(()),
        Some((found, expected, _)) => Err(Error::Golden {
            model: network.id.clone(),
            found,
            expected,
            tolerance,
        }),
    }
}
