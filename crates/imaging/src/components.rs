//! Connected components of a mask, found run by run.
//!
//! Rows are cut into runs of foreground, runs of neighbouring rows are joined by union-find. A lesion
//! mask is nearly empty, so this costs little more than one look at each voxel. Components are
//! numbered in the order of their first voxel, so the numbers never depend on how the work was done.
use std::ops::Range;

use rayon::prelude::*;

use crate::volume::filled;

/// Which voxels are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// Across faces: 6 neighbours.
    Faces,
    /// Across faces, edges and corners: 26 neighbours, as lesions are counted.
    Corners,
}

/// A stretch of foreground along i, and the component it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Offsets of its voxels in the samples.
    pub voxels: Range<usize>,
    /// Its component, counted from 0.
    pub component: usize,
}

/// The components of a mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Components {
    /// Runs in file order.
    pub runs: Vec<Run>,
    /// Voxels of each component.
    pub voxels: Vec<usize>,
}

impl Components {
    /// The number of components.
    #[must_use]
    pub fn count(&self) -> usize {
        self.voxels.len()
    }

    /// A label for each of `n` voxels: 0 outside, component + 1 inside.
    ///
    /// # Panics
    /// If `n` is less than the number of voxels that were labelled.
    #[must_use]
    pub fn labels(&self, n: usize) -> Vec<u32> {
        let mut labels = filled(n, 0);
        for run in &self.runs {
            labels[run.voxels.clone()].fill(run.component as u32 + 1);
        }
        labels
    }
}

/// Finds the components of the voxels whose sample is `inside`.
///
/// `shape` is `[i, j, k]`, i fastest.
#[must_use]
pub fn label<T: Copy + Sync>(
    shape: [usize; 3],
    connectivity: Connectivity,
    samples: &[T],
    inside: impl Fn(T) -> bool + Sync,
) -> Components {
    let [ni, nj, nk] = shape;
    // The runs of a plane, and where those of each of its rows end.
    let of_plane = |(k, plane): (usize, &[T])| {
        let mut runs = Vec::new();
        let mut ends = Vec::with_capacity(nj);
        for (j, row) in plane.chunks_exact(ni).enumerate() {
            find_runs(ni * (j + nj * k), row, &inside, &mut runs);
            ends.push(runs.len());
        }
        (runs, ends)
    };
    let planes: Vec<(Vec<Range<usize>>, Vec<usize>)> = samples
        .par_chunks_exact((ni * nj).max(1))
        .enumerate()
        .map(of_plane)
        .collect();
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut rows: Vec<Range<usize>> = Vec::with_capacity(nj * nk); // Runs of each row (j, k).
    let mut parent: Vec<usize> = Vec::new();
    for (k, (found, ends)) in planes.into_iter().enumerate() {
        let begun = runs.len();
        runs.extend(found);
        parent.extend(begun..runs.len());
        let mut first = begun;
        for (j, end) in ends.into_iter().enumerate() {
            let here = first..begun + end;
            for (earlier, reach) in earlier_rows([j, k], nj, connectivity) {
                let earlier = rows[earlier].clone();
                join(&runs, earlier, here.clone(), ni, reach, &mut parent);
            }
            first = here.end;
            rows.push(here);
        }
    }
    number(runs, &mut parent)
}

/// Samples of which it is asked at once whether all or none are inside: most stretches are of one kind.
const STRETCH: usize = 32;

/// Appends the runs of a row whose first sample is at offset `begin`.
fn find_runs<T: Copy>(
    begin: usize,
    row: &[T],
    inside: &impl Fn(T) -> bool,
    runs: &mut Vec<Range<usize>>,
) {
    let mut start = None;
    let mut offset = begin;
    for stretch in row.chunks(STRETCH) {
        // Counted, not searched: a loop without a way out is computed many samples at a time.
        let n: usize = stretch.iter().map(|&s| usize::from(inside(s))).sum();
        match (n, start) {
            (0, None) => {}
            (0, Some(first)) => {
                runs.push(first..offset);
                start = None;
            }
            (n, Some(_)) if n == stretch.len() => {}
            _ => {
                for (offset, &sample) in (offset..).zip(stretch) {
                    match (inside(sample), start) {
                        (true, None) => start = Some(offset),
                        (false, Some(first)) => {
                            runs.push(first..offset);
                            start = None;
                        }
                        _ => {}
                    }
                }
            }
        }
        offset += stretch.len();
    }
    if let Some(first) = start {
        runs.push(first..offset);
    }
}

/// The rows before `[j, k]` that touch it, each with how far along i a neighbour may be shifted.
fn earlier_rows(
    [j, k]: [usize; 2],
    nj: usize,
    connectivity: Connectivity,
) -> impl Iterator<Item = (usize, usize)> {
    let reach = usize::from(connectivity == Connectivity::Corners);
    let here = j + nj * k;
    let corners = connectivity == Connectivity::Corners;
    let before = (j > 0).then(|| here - 1);
    let below = (k > 0).then(|| here - nj);
    let below_before = (corners && k > 0 && j > 0).then(|| here - nj - 1);
    let below_after = (corners && k > 0 && j + 1 < nj).then(|| here - nj + 1);
    [before, below_before, below, below_after]
        .into_iter()
        .flatten()
        .map(move |row| (row, reach))
}

/// Joins each run of one row with the runs of an earlier row that it touches.
fn join(
    runs: &[Range<usize>],
    earlier: Range<usize>,
    current: Range<usize>,
    ni: usize,
    reach: usize,
    parent: &mut [usize],
) {
    let mut candidates = earlier.clone();
    for now in current {
        let along = |run: &Range<usize>| (run.start % ni, (run.end - 1) % ni);
        let (first, last) = along(&runs[now]);
        while candidates.start < candidates.end && along(&runs[candidates.start]).1 + reach < first
        {
            candidates.start += 1;
        }
        for then in candidates.clone() {
            if along(&runs[then]).0 > last + reach {
                break;
            }
            let (a, b) = (root(parent, then), root(parent, now));
            // The smaller root wins: it holds the component's first voxel.
            parent[a.max(b)] = a.min(b);
        }
    }
}

/// The run that stands for the component of `run`; shortens the way there for the next time.
fn root(parent: &mut [usize], mut run: usize) -> usize {
    while parent[run] != run {
        parent[run] = parent[parent[run]];
        run = parent[run];
    }
    run
}

/// Numbers the components in the order of their first voxel and counts their voxels.
fn number(runs: Vec<Range<usize>>, parent: &mut [usize]) -> Components {
    let mut voxels: Vec<usize> = Vec::new();
    let mut component_of_root = vec![usize::MAX; runs.len()];
    let mut numbered = Vec::with_capacity(runs.len());
    for (n, run) in runs.into_iter().enumerate() {
        let root = root(parent, n);
        if component_of_root[root] == usize::MAX {
            component_of_root[root] = voxels.len();
            voxels.push(0);
        }
        let component = component_of_root[root];
        voxels[component] += run.len();
        numbered.push(Run {
            voxels: run,
            component,
        });
    }
    Components {
        runs: numbered,
        voxels,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The obvious way: flood from each voxel that has no label yet.
    fn flooded(shape: [usize; 3], connectivity: Connectivity, mask: &[bool]) -> Vec<u32> {
        let [ni, nj, nk] = shape;
        let mut labels = vec![0; mask.len()];
        let mut next = 0;
        for seed in 0..mask.len() {
            if !mask[seed] || labels[seed] != 0 {
                continue;
            }
            next += 1;
            labels[seed] = next;
            let mut open = vec![seed];
            while let Some(at) = open.pop() {
                let (i, j, k) = (at % ni, at / ni % nj, at / (ni * nj));
                for step in 0..27 {
                    let (di, dj, dk) = (step % 3, step / 3 % 3, step / 9);
                    let away = [di, dj, dk].iter().filter(|&&d| d != 1).count();
                    if away == 0 || (connectivity == Connectivity::Faces && away > 1) {
                        continue;
                    }
                    let (i, j, k) = (
                        (i + di).wrapping_sub(1),
                        (j + dj).wrapping_sub(1),
                        (k + dk).wrapping_sub(1),
                    );
                    if i < ni && j < nj && k < nk {
                        let there = i + ni * (j + nj * k);
                        if mask[there] && labels[there] == 0 {
                            labels[there] = next;
                            open.push(there);
                        }
                    }
                }
            }
        }
        labels
    }

    proptest! {
        #[test]
        fn runs_find_what_flooding_finds(shape in [1_usize..80, 1..8, 1..8], share in 0.0_f64..0.7,
                                         seed in any::<u64>(), corners in any::<bool>()) {
            let connectivity = if corners { Connectivity::Corners } else { Connectivity::Faces };
            let n: usize = shape.iter().product();
            let mut state = seed | 1;
            let mask: Vec<bool> = (0..n).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) as f64 / f64::from(1_u32 << 31)) < share
            }).collect();
            let found = label(shape, connectivity, &mask, |inside| inside);
            let want = flooded(shape, connectivity, &mask);
            prop_assert_eq!(found.labels(n), want);
            prop_assert_eq!(found.voxels.iter().sum::<usize>(), mask.iter().filter(|&&m| m).count());
        }
    }
}
