//! How fast studies are computed here, and what follows for those that wait or run.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::{Job, StoredProgress};

/// Picoseconds for a voxel before any were measured: a second for a million.
const FIRST_GUESS_PS: u64 = 1_000_000;
/// What is done by time alone never seems to be done.
const NEARLY: f64 = 0.95;

/// A moving mean of picoseconds for a voxel; 0 before any were measured.
#[derive(Debug, Default)]
pub(super) struct Pace {
    ps_per_voxel: AtomicU64,
}

/// How far a job has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// The stage's name.
    pub stage: String,
    /// Patches done.
    pub done: usize,
    /// Patches in all; 0 outside the network.
    pub total: usize,
    /// From 0 to 1: of the patches, or of the time that a study of this size takes.
    pub fraction: f64,
    /// Seconds that the rest should take.
    pub eta_s: f64,
}

impl Pace {
    /// The first study that was measured takes the guess's place; of each later one a fifth goes into
    /// the mean.
    pub(super) fn learn(&self, voxels: i64, took_s: f64) {
        if voxels < 1 {
            return;
        }
        let newest = took_s * 1e12 / voxels as f64;
        let mean = match self.ps_per_voxel.load(Ordering::Relaxed) {
            0 => newest,
            old => (old as f64 * 4.0 + newest) / 5.0,
        };
        self.ps_per_voxel
            .store((mean as u64).max(1), Ordering::Relaxed);
    }

    /// Seconds that so many voxels should take.
    pub(super) fn seconds(&self, voxels: i64) -> f64 {
        let ps = match self.ps_per_voxel.load(Ordering::Relaxed) {
            0 => FIRST_GUESS_PS,
            measured => measured,
        };
        voxels.max(0) as f64 * ps as f64 / 1e12
    }

    /// How far a running job is, by what its worker wrote down and by the time that has passed.
    pub(super) fn advance(&self, job: &Job, now_ms: i64) -> Advance {
        let ran_s = (now_ms - job.attempt_at.unwrap_or(now_ms)).max(0) as f64 / 1000.0;
        let expected_s = self.seconds(job.cost.voxels).max(0.001);
        let StoredProgress { stage, done, total } =
            job.progress.clone().unwrap_or_else(|| StoredProgress {
                stage: "decode".to_owned(),
                done: 0,
                total: 0,
            });
        let (fraction, eta_s) = if total > 1 && done > 0 {
            let fraction = done as f64 / total as f64;
            (fraction, ran_s * (1.0 - fraction) / fraction)
        } else {
            // One look at the whole brain has no steps that could be counted.
            (
                (ran_s / expected_s).min(NEARLY),
                (expected_s - ran_s).max(0.0),
            )
        };
        Advance {
            stage,
            done,
            total,
            fraction,
            eta_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_what_is_measured() {
        let pace = Pace::default();
        assert!((pace.seconds(4_000_000) - 4.0).abs() < 1e-6);
        pace.learn(8_000_000, 0.08);
        assert!(
            (pace.seconds(8_000_000) - 0.08).abs() < 1e-6,
            "no guess is left in it"
        );
        for _ in 0..40 {
            pace.learn(8_000_000, 16.0);
        }
        assert!((pace.seconds(4_000_000) - 8.0).abs() < 0.2);
        pace.learn(0, 5.0);
        assert!(pace.seconds(-1).abs() < 1e-9);
    }
}
