//! How fast studies are computed here, and what follows for those that wait or run.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::{Job, StoredProgress};

/// Picoseconds for a voxel before any were measured: a second for a million.
const FIRST_GUESS_PS: u64 = 1_000_000;
/// What is not over never seems to be.
const NEARLY: f64 = 0.99;

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
    /// From 0 to 1, never less than before: of the time that a study of this size takes, within what the
    /// stage and the patches done allow.
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
        let progress = job.progress.clone().unwrap_or_else(|| StoredProgress {
            stage: "decode".to_owned(),
            done: 0,
            total: 0,
        });
        let fraction = fraction(&progress, ran_s / expected_s);
        // Patches say more of what is left than the studies before did.
        let eta_s = if progress.done > 0 && fraction > 0.0 {
            ran_s * (1.0 - fraction) / fraction
        } else {
            (expected_s - ran_s).max(0.0)
        };
        let StoredProgress { stage, done, total } = progress;
        Advance {
            stage,
            done,
            total,
            fraction,
            eta_s,
        }
    }
}

/// How much of a study is done: as much as of its time has passed, but no less than the stages and patches
/// that are over, and no more than with those under way. The shares are about those of a study that is
/// looked at twice (`benches/study.rs`).
fn fraction(progress: &StoredProgress, of_its_time: f64) -> f64 {
    let (begins, ends) = match progress.stage.as_str() {
        "decode" => (0.0, 0.05),
        "align" => (0.05, 0.1),
        "anatomy" => (0.1, 0.2),
        "assemble" => (0.2, 0.22),
        "normalise" => (0.22, 0.25),
        "infer" => (0.25, 0.95),
        "restore" => (0.95, 0.97),
        "count" => (0.97, NEARLY),
        _ => (0.0, NEARLY),
    };
    let patch = (ends - begins) / progress.total.max(1) as f64;
    let least = begins + patch * progress.done.min(progress.total) as f64;
    of_its_time.max(least).min((least + patch).min(ends))
}

#[cfg(test)]
mod tests {
    use dawson_inference::pipeline::Stage;

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

    #[test]
    fn what_is_done_grows_from_stage_to_stage_and_patch_to_patch() {
        let path = |looks: usize| {
            let before = [
                Stage::Decode,
                Stage::Align,
                Stage::Anatomy,
                Stage::Assemble,
                Stage::Normalise,
                Stage::Infer,
            ];
            let after = [Stage::Restore, Stage::Count];
            let stage = |stage: Stage, done, total| StoredProgress {
                stage: stage.name().to_owned(),
                done,
                total,
            };
            let mut path: Vec<_> = before.into_iter().map(|s| stage(s, 0, 0)).collect();
            path.extend((1..=looks).map(|done| stage(Stage::Infer, done, looks)));
            path.extend(after.into_iter().map(|s| stage(s, 0, 0)));
            path
        };
        // Studies that take a tenth of what was expected, as long, and ten times as long.
        for share_of_expected in [0.1, 1.0, 10.0] {
            for looks in [1, 2, 300] {
                let path = path(looks);
                let steps = path.len() as f64;
                let mut before = 0.0;
                for (n, progress) in path.iter().enumerate() {
                    for moment in [0.0, 0.5] {
                        let now =
                            fraction(progress, share_of_expected * (n as f64 + moment) / steps);
                        assert!(
                            (before..1.0).contains(&now),
                            "{progress:?}: {before} before, {now} now"
                        );
                        before = now;
                    }
                }
                assert!(before >= 0.97, "{looks} looks: {before} at the end");
            }
        }
        let half = StoredProgress {
            stage: "infer".to_owned(),
            done: 150,
            total: 300,
        };
        assert!((fraction(&half, 0.0) - 0.6).abs() < 1e-9);
        let unheard_of = StoredProgress {
            stage: "of a later version".to_owned(),
            done: 0,
            total: 0,
        };
        assert!((fraction(&unheard_of, 0.4) - 0.4).abs() < 1e-9);
    }
}
