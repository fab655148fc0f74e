//! Patches through the network, and their votes.
//!
//! With [`Voting::Single`] one patch holds the whole brain; with [`Voting::Full`] overlapping patches
//! vote; with [`Voting::Adaptive`] they do so beside the one look, where it is in doubt. A few patches are under way at a time, so that the engine never waits and two studies take
//! turns; votes are added in patch order, whatever the order of the answers.
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use dawson_imaging::grid::Grid;
use dawson_imaging::study::{Extent, Study};
use dawson_imaging::tile::{self, Tiling};
use dawson_imaging::volume::{TOGETHER, Volume, filled};
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
/// Probabilities that leave it open whether there is a lesion.
const DOUBT: std::ops::RangeInclusive<f32> = 0.1..=0.9;

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
    first: Looks,
    /// Where to look again, if the first look is in doubt there.
    then: Option<Looks>,
    warning: Option<Warning>,
}

/// Looks at patches of one shape.
struct Looks {
    patch: [usize; 3],
    weighting: Weighting,
    each: Vec<Look>,
}

/// One patch, as it is or turned by half a turn about its k axis, the long axis of the body.
#[derive(Clone, Copy)]
struct Look {
    start: [isize; 3],
    turned: bool,
}

/// What is asked, and how far that is.
struct Asking<'a> {
    study: &'a Study,
    run: Run<'a>,
    cancel: &'a Arc<Cancel>,
    progress: &'a mut dyn FnMut(Progress),
    done: usize,
    total: usize,
    network_s: f64,
}

/// Lets the engine get ready for a study in a box of `shape`, while that is being made.
pub(super) fn get_ready(
    shape: [usize; 3],
    run: Run<'_>,
    cancel: &Arc<Cancel>,
) -> Result<(), Error> {
    let patch = match run.settings.voting {
        Voting::Single | Voting::Adaptive => at_once(shape, run),
        Voting::Full => None,
    };
    let patch = patch.unwrap_or_else(|| run.settings.patch.map(NonZeroUsize::get));
    let (network, precision) = (&run.model.network, run.settings.precision);
    Ok(run.engine.get_ready(network, patch, precision, cancel)?)
}

/// The patch that holds a box of `shape` in one look, if memory allows one.
fn at_once(shape: [usize; 3], run: Run<'_>) -> Option<[usize; 3]> {
    tile::whole(shape, run.model.manifest.input.multiple)
        .map(|patch| patch.map(NonZeroUsize::get))
        .filter(|patch| patch.iter().product::<usize>() <= MOST_AT_ONCE)
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
    let again = plan.then.as_ref().map_or(0, |then| then.each.len());
    let total = plan.first.each.len() + again;
    if total > MOST_LOOKS {
        return Err(Error::TooManyLooks {
            looks: total,
            max: MOST_LOOKS,
        });
    }
    let mut asking = Asking {
        study,
        run,
        cancel,
        progress,
        done: 0,
        total,
        network_s: 0.0,
    };
    let mut votes = Ballot::of(&plan.first, study.grid);
    let made = asking.ask(&plan.first, &mut votes, meanwhile)?;
    let mut probability = votes.fused(&plan.first);
    let (mut patch, mut weighting) = (plan.first.patch, plan.first.weighting);
    if let Some(mut then) = plan.then {
        let in_doubt = doubt(&probability, study);
        then.each
            .retain(|look| holds_any(&in_doubt, look.start, then.patch));
        asking.total = asking.done + then.each.len();
        (patch, weighting) = (then.patch, then.weighting);
        let mut votes = Ballot::Many(Votes::beside(probability, patch, weighting));
        asking.ask(&then, &mut votes, || ())?;
        probability = votes.fused(&then);
    }
    // Where the brain was found in a head, what shines outside it is fat.
    if run.model.manifest.output.restrict_to_brain || study.extent == Extent::Extracted {
        probability
            .samples_mut()
            .par_iter_mut()
            .with_min_len(TOGETHER)
            .zip(study.brain.samples())
            .filter(|(_, inside)| **inside == 0)
            .for_each(|(p, _)| *p = 0.0);
    }
    let inferred = Inferred {
        probability,
        voting: plan.voting,
        patch,
        weighting,
        patches: asking.done,
        network_s: asking.network_s,
        warning: plan.warning,
    };
    Ok((inferred, made))
}

/// The brain's voxels that are neither surely a lesion nor surely none.
fn doubt(probability: &Volume<f32>, study: &Study) -> Volume<u8> {
    let mut in_doubt = study.brain.clone();
    in_doubt
        .samples_mut()
        .par_iter_mut()
        .with_min_len(TOGETHER)
        .zip(probability.samples())
        .filter(|(_, p)| !DOUBT.contains(*p))
        .for_each(|(inside, _)| *inside = 0);
    in_doubt
}

/// What the looks told so far.
enum Ballot {
    /// All look at one place and count alike: the sum of what they told there.
    Same {
        grid: Grid,
        sum: Vec<f32>,
    },
    Many(Votes),
}

impl Ballot {
    fn of(looks: &Looks, grid: Grid) -> Self {
        let first = looks.each.first().map(|look| look.start);
        let are_one_place = looks.each.iter().all(|look| Some(look.start) == first);
        if are_one_place && looks.weighting == Weighting::Uniform {
            let sum = Vec::new();
            return Self::Same { grid, sum };
        }
        Self::Many(Votes::new(grid, looks.patch, looks.weighting))
    }

    fn add(&mut self, look: Look, patch: [usize; 3], mut values: Vec<f32>) {
        if look.turned {
            values.par_chunks_mut(patch[0] * patch[1]).for_each(turn);
        }
        match self {
            Self::Same { sum, .. } if sum.is_empty() => *sum = values,
            Self::Same { sum, .. } => {
                let cells = sum.par_iter_mut().with_min_len(TOGETHER).zip(values);
                cells.for_each(|(sum, value)| *sum += value);
            }
            Self::Many(votes) => votes.add(look.start, &values),
        }
    }

    /// The mean of what was told by `looks`, all of which were added.
    fn fused(self, looks: &Looks) -> Volume<f32> {
        match self {
            Self::Same { grid, sum } => {
                let mut probability = Volume::filled(grid, 0.0);
                let share = 1.0 / looks.each.len().max(1) as f32;
                if let Some(look) = looks.each.first() {
                    probability.paste(look.start, looks.patch, &sum, |p| p * share);
                }
                probability
            }
            Self::Many(votes) => votes.fused(),
        }
    }
}

/// Where to look: at all at once if that was asked for and fits, else at patches with brain in them.
fn plan(study: &Study, run: Run<'_>) -> Plan {
    let shape = study.grid.shape();
    let whole = at_once(shape, run).map(|patch| {
        let start = [0, 1, 2].map(|a| -((patch[a] - shape[a]) as isize / 2));
        looks(patch, Weighting::Uniform, vec![start], run)
    });
    let patches = || {
        let tiling = Tiling {
            patch: run.settings.patch,
            overlap: run.settings.overlap,
        };
        let patch = run.settings.patch.map(NonZeroUsize::get);
        let mut starts = tiling.starts(shape);
        starts.retain(|&start| holds_any(&study.brain, start, patch));
        looks(patch, run.settings.weighting, starts, run)
    };
    let (voting, first, then, warning) = match (run.settings.voting, whole) {
        (Voting::Full, _) => (Voting::Full, patches(), None, None),
        (Voting::Single, Some(whole)) => (Voting::Single, whole, None, None),
        (Voting::Adaptive, Some(whole)) => (Voting::Adaptive, whole, Some(patches()), None),
        (Voting::Single | Voting::Adaptive, None) => {
            (Voting::Full, patches(), None, Some(too_large(shape)))
        }
    };
    Plan {
        voting,
        first,
        then,
        warning,
    }
}

/// Looks at patches that begin at `starts`, turned too if that was asked for.
fn looks(patch: [usize; 3], weighting: Weighting, starts: Vec<[isize; 3]>, run: Run<'_>) -> Looks {
    let turned: &[bool] = if run.settings.flips {
        &[false, true]
    } else {
        &[false]
    };
    let of_start = |start| turned.iter().map(move |&turned| Look { start, turned });
    Looks {
        patch,
        weighting,
        each: starts.into_iter().flat_map(of_start).collect(),
    }
}

fn too_large(shape: [usize; 3]) -> Warning {
    let [i, j, k] = shape;
    let detail = format!(
        "the head's box of {i} x {j} x {k} voxels is too large for one look, so overlapping patches voted"
    );
    error::warning("single_pass_too_large", None, detail)
}

/// Whether a patch holds a voxel of the mask.
fn holds_any(mask: &Volume<u8>, start: [isize; 3], patch: [usize; 3]) -> bool {
    let shape = mask.grid().shape();
    let range = |a: usize| {
        let past = (start[a] + patch[a] as isize).clamp(0, shape[a] as isize) as usize;
        (start[a].max(0) as usize).min(past)..past
    };
    range(2).any(|k| {
        range(1).any(|j| {
            let row = mask.grid().offset([0, j, k]);
            let i = range(0);
            mask.samples()[row + i.start..row + i.end]
                .iter()
                .any(|&m| m != 0)
        })
    })
}

impl Asking<'_> {
    /// Keeps the engine busy and adds the answers to `votes` in the order of the looks; does something else
    /// `meanwhile`, once.
    fn ask<T>(
        &mut self,
        asked: &Looks,
        votes: &mut Ballot,
        meanwhile: impl FnOnce() -> T,
    ) -> Result<T, Error> {
        let engine = self.run.engine;
        let under_way = 2 * engine.info().batch;
        let (answer, answers): (Sender<Answer>, Receiver<Answer>) = bounded(under_way);
        let mut early: BTreeMap<usize, (Vec<f32>, f64)> = BTreeMap::new();
        let (mut sent, mut voted) = (0, 0);
        while sent < asked.each.len().min(under_way) {
            engine.submit(self.patch(asked, sent, &answer))?;
            sent += 1;
        }
        let made = meanwhile();
        while voted < asked.each.len() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if sent < asked.each.len() && sent - voted < under_way {
                engine.submit(self.patch(asked, sent, &answer))?;
                sent += 1;
                continue;
            }
            let Answer { number, outcome } = receive(&answers, engine, self.cancel)?;
            let probabilities = outcome?;
            early.insert(number, (probabilities.values, probabilities.run_s));
            while let Some((values, run_s)) = early.remove(&voted) {
                votes.add(asked.each[voted], asked.patch, values);
                self.network_s += run_s;
                voted += 1;
                self.done += 1;
                (self.progress)(Progress {
                    stage: Stage::Infer,
                    done: self.done,
                    total: self.total,
                });
            }
        }
        Ok(made)
    }

    /// Cuts a patch out of all contrasts: `[c, k, j, i]`. This is the one place where `[i, j, k]` of a
    /// volume becomes the tensor's order, which needs no moving of samples since i is fastest in both.
    fn patch(&self, asked: &Looks, number: usize, answer: &Sender<Answer>) -> Patch {
        let look = asked.each[number];
        let model = self.run.model;
        let input = &model.manifest.input;
        let outside = model.manifest.normalisation.outside_brain;
        let [ni, nj, nk] = asked.patch;
        let placed = |contrast| {
            let mut images = self.study.images.iter();
            images.find(|placed| placed.contrast == contrast)
        };
        let mut image = filled(ni * nj * nk * input.contrasts.len(), input.missing_value);
        image
            .par_chunks_exact_mut(ni * nj)
            .enumerate()
            .for_each(|(n, plane)| {
                // What is missing was filled with what stands for it.
                let Some(placed) = placed(input.contrasts[n / nk]) else {
                    return;
                };
                let [i, j, k] = look.start;
                plane.fill(outside);
                let start = [i, j, k + (n % nk) as isize];
                placed.volume.copy_box(start, [ni, nj, 1], plane);
                if look.turned {
                    turn(plane);
                }
            });
        Patch {
            network: Arc::clone(&model.network),
            shape: asked.patch,
            precision: self.run.settings.precision,
            image,
            number,
            cancel: Arc::clone(self.cancel),
            answer: answer.clone(),
        }
    }
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

/// Turns a plane by half a turn about k: left becomes right, and front back.
fn turn(plane: &mut [f32]) {
    plane.reverse();
}
