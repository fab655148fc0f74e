//! Patches through the network, and their votes.
//!
//! With [`Voting::Single`] one patch holds the whole brain; with [`Voting::Full`] overlapping patches
//! vote. A few patches are under way at a time, so that the engine never waits and two studies take
//! turns; votes are added in patch order, whatever the order of the answers.
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use dawson_imaging::brain::Extent;
use dawson_imaging::grid::Grid;
use dawson_imaging::study::Study;
use dawson_imaging::tile::{self, Tiling};
use dawson_imaging::volume::Volume;
use dawson_imaging::vote::{Votes, Weighting};
use rayon::prelude::*;

use super::{Error, Progress, Run, Stage, error};
use crate::engine::{Answer, Cancel, Engine, Patch};
use crate::models::Voting;
use crate::report::Warning;

/// The most voxels that one look may hold: beyond it, memory decides for patches.
const MOST_AT_ONCE: usize = 12_000_000;
/// The most looks of one study: with the shipped network and patches of 32 voxels about ten minutes.
const MOST_LOOKS: usize = 10_000;

/// The network's answer for a study.
pub(super) struct Inferred {
    /// On the study's grid.
    pub(super) probability: Volume<f32>,
    /// What was done, which is what was asked for unless `warning` says otherwise.
    pub(super) voting: Voting,
    pub(super) patch: [usize; 3],
    pub(super) weighting: Weighting,
    pub(super) patches: usize,
    /// Seconds inside the network.
    pub(super) network_s: f64,
    pub(super) warning: Option<Warning>,
}

/// What is computed, in order.
struct Plan {
    voting: Voting,
    patch: [usize; 3],
    weighting: Weighting,
    looks: Vec<Look>,
    warning: Option<Warning>,
}

/// One patch, as it is or mirrored left to right.
#[derive(Clone, Copy)]
struct Look {
    start: [isize; 3],
    mirrored: bool,
}

/// Asks the network about a study; does something else `meanwhile`, once it is at work.
pub(super) fn probability<T>(
    study: &Study,
    run: Run<'_>,
    meanwhile: impl FnOnce() -> T,
    progress: &mut dyn FnMut(Progress),
    cancel: &Arc<Cancel>,
) -> Result<(Inferred, T), Error> {
    let plan = plan(study, run);
    if plan.looks.len() > MOST_LOOKS {
        return Err(Error::TooManyLooks {
            looks: plan.looks.len(),
            max: MOST_LOOKS,
        });
    }
    let mut votes = Ballot::of(&plan, study.grid);
    let mut network_s = 0.0;
    let total = plan.looks.len();
    let mut done = 0;
    let made = compute(
        study,
        run,
        &plan,
        cancel,
        meanwhile,
        |look, values, run_s| {
            votes.add(look, plan.patch, values);
            network_s += run_s;
            done += 1;
            progress(Progress {
                stage: Stage::Infer,
                done,
                total,
            });
        },
    )?;
    let mut probability = votes.fused();
    // Where the brain was found in a head, what shines outside it is fat.
    if run.model.manifest.output.restrict_to_brain || study.extent == Extent::Extracted {
        probability
            .samples_mut()
            .par_iter_mut()
            .with_min_len(1 << 16)
            .zip(study.brain.samples())
            .filter(|(_, inside)| **inside == 0)
            .for_each(|(p, _)| *p = 0.0);
    }
    let Plan {
        voting,
        patch,
        weighting,
        warning,
        ..
    } = plan;
    let inferred = Inferred {
        probability,
        voting,
        patch,
        weighting,
        patches: total,
        network_s,
        warning,
    };
    Ok((inferred, made))
}

/// What the looks told so far.
enum Ballot {
    /// There is one look, whose word counts as it is.
    One(Volume<f32>),
    Many(Votes),
}

impl Ballot {
    fn of(plan: &Plan, grid: Grid) -> Self {
        match (&plan.looks[..], plan.weighting) {
            ([_], Weighting::Uniform) => Self::One(Volume::filled(grid, 0.0)),
            (_, weighting) => Self::Many(Votes::new(grid, plan.patch, weighting)),
        }
    }

    fn add(&mut self, look: Look, patch: [usize; 3], mut values: Vec<f32>) {
        if look.mirrored {
            mirror(&mut values, patch[0]);
        }
        match self {
            Self::One(probability) => probability.paste(look.start, patch, &values),
            Self::Many(votes) => votes.add(look.start, &values),
        }
    }

    fn fused(self) -> Volume<f32> {
        match self {
            Self::One(probability) => probability,
            Self::Many(votes) => votes.fused(),
        }
    }
}

/// Where to look: at all at once if that was asked for and fits, else at patches with brain in them.
fn plan(study: &Study, run: Run<'_>) -> Plan {
    let shape = study.grid.shape();
    let multiple = run.model.manifest.input.multiple;
    let whole = tile::whole(shape, multiple)
        .map(|patch| patch.map(NonZeroUsize::get))
        .filter(|patch| patch.iter().product::<usize>() <= MOST_AT_ONCE);
    let (voting, patch, weighting, starts, warning) = match (run.settings.voting, whole) {
        (Voting::Single, Some(patch)) => {
            let start = [0, 1, 2].map(|a| -((patch[a] - shape[a]) as isize / 2));
            (Voting::Single, patch, Weighting::Uniform, vec![start], None)
        }
        (asked, _) => {
            let tiling = Tiling {
                patch: run.settings.patch,
                overlap: run.settings.overlap,
            };
            let patch = run.settings.patch.map(NonZeroUsize::get);
            let mut starts = tiling.starts(shape);
            starts.retain(|&start| holds_brain(&study.brain, start, patch));
            let warning = (asked == Voting::Single).then(|| too_large(shape));
            (Voting::Full, patch, run.settings.weighting, starts, warning)
        }
    };
    let mirrored: &[bool] = if run.settings.flips {
        &[false, true]
    } else {
        &[false]
    };
    let looks = starts
        .into_iter()
        .flat_map(|start| {
            mirrored
                .iter()
                .map(move |&mirrored| Look { start, mirrored })
        })
        .collect();
    Plan {
        voting,
        patch,
        weighting,
        looks,
        warning,
    }
}

fn too_large(shape: [usize; 3]) -> Warning {
    let [i, j, k] = shape;
    let detail = format!(
        "the head's box of {i} x {j} x {k} voxels is too large for one look, so overlapping patches voted"
    );
    error::warning("single_pass_too_large", None, detail)
}

fn holds_brain(brain: &Volume<u8>, start: [isize; 3], patch: [usize; 3]) -> bool {
    let shape = brain.grid().shape();
    let range = |a: usize| {
        let past = (start[a] + patch[a] as isize).clamp(0, shape[a] as isize) as usize;
        (start[a].max(0) as usize).min(past)..past
    };
    range(2).any(|k| {
        range(1).any(|j| {
            let row = brain.grid().offset([0, j, k]);
            let i = range(0);
            brain.samples()[row + i.start..row + i.end]
                .iter()
                .any(|&m| m != 0)
        })
    })
}

/// Keeps the engine busy and hands the answers to `vote` in the order of the looks; does something else
/// `meanwhile`, once.
fn compute<T>(
    study: &Study,
    run: Run<'_>,
    plan: &Plan,
    cancel: &Arc<Cancel>,
    meanwhile: impl FnOnce() -> T,
    mut vote: impl FnMut(Look, Vec<f32>, f64),
) -> Result<T, Error> {
    let under_way = 2 * run.engine.info().batch;
    let (answer, answers): (Sender<Answer>, Receiver<Answer>) = bounded(under_way);
    let mut early: BTreeMap<usize, (Vec<f32>, f64)> = BTreeMap::new();
    let (mut sent, mut voted) = (0, 0);
    let submit = |number| {
        run.engine
            .submit(patch(study, run, plan, number, cancel, &answer))
    };
    while sent < plan.looks.len().min(under_way) {
        submit(sent)?;
        sent += 1;
    }
    let made = meanwhile();
    while voted < plan.looks.len() {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if sent < plan.looks.len() && sent - voted < under_way {
            submit(sent)?;
            sent += 1;
            continue;
        }
        let Answer { number, outcome } = receive(&answers, run.engine, cancel)?;
        let probabilities = outcome?;
        early.insert(number, (probabilities.values, probabilities.run_s));
        while let Some((values, run_s)) = early.remove(&voted) {
            vote(plan.looks[voted], values, run_s);
            voted += 1;
        }
    }
    Ok(made)
}

/// Waits for an answer; a patch that the engine dropped because of a cancellation has none.
pub(super) fn receive(
    answers: &Receiver<Answer>,
    engine: &Engine,
    cancel: &Cancel,
) -> Result<Answer, Error> {
    const LOOK_UP: std::time::Duration = std::time::Duration::from_millis(50);
    loop {
        match answers.recv_timeout(LOOK_UP) {
            Ok(answer) => return Ok(answer),
            Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) if engine.is_alive() => {}
            Err(_) => {
                return Err(Error::Engine(crate::engine::Error::Stopped));
            }
        }
    }
}

/// Cuts a patch out of all contrasts: `[c, k, j, i]`. This is the one place where `[i, j, k]` of a
/// volume becomes the tensor's order, which needs no moving of samples since i is fastest in both.
fn patch(
    study: &Study,
    run: Run<'_>,
    plan: &Plan,
    number: usize,
    cancel: &Arc<Cancel>,
    answer: &Sender<Answer>,
) -> Patch {
    let look = plan.looks[number];
    let input = &run.model.manifest.input;
    let outside = run.model.manifest.normalisation.outside_brain;
    let voxels: usize = plan.patch.iter().product();
    let mut image = vec![0.0; voxels * input.contrasts.len()];
    image
        .par_chunks_exact_mut(voxels)
        .zip(&input.contrasts)
        .for_each(|(channel, contrast)| {
            match study
                .images
                .iter()
                .find(|placed| placed.contrast == *contrast)
            {
                Some(placed) => {
                    channel.fill(outside);
                    placed.volume.copy_box(look.start, plan.patch, channel);
                }
                None => channel.fill(input.missing_value),
            }
        });
    if look.mirrored {
        mirror(&mut image, plan.patch[0]);
    }
    Patch {
        network: Arc::clone(&run.model.network),
        shape: plan.patch,
        precision: run.settings.precision,
        image,
        number,
        cancel: Arc::clone(cancel),
        answer: answer.clone(),
    }
}

/// Reverses every row of `length` samples: left becomes right.
fn mirror(samples: &mut [f32], length: usize) {
    for row in samples.chunks_exact_mut(length) {
        row.reverse();
    }
}
