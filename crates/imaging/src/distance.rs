//! Exact Euclidean distances on a grid.
//!
//! The distance transform of Felzenszwalb and Huttenlocher, *Distance Transforms of Sampled
//! Functions*, Theory of Computing 8 (2012) 415-428: squared distances axis by axis, each line by the
//! lower envelope of its parabolas, in time linear in the voxels. Along the last axis only the lines of
//! queried voxels are followed.

use rayon::prelude::*;

/// Squared distances in mm² from each of `queries` to the nearest of `sites`.
///
/// Both are offsets into a box of `shape` (i fastest) with voxels of `spacing_mm`. Without sites every
/// distance is infinite.
pub(crate) fn squared_mm2(
    queries: &[usize],
    sites: &[usize],
    shape: [usize; 3],
    spacing_mm: [f64; 3],
) -> Vec<f64> {
    Ways::to(sites, shape, spacing_mm).squared_mm2(queries)
}

/// The distances to some sites, as far as they can be computed before it is known from where.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    /// Squared, in mm², within each plane of the last axis.
    in_plane: Vec<f64>,
    /// Voxels of a plane.
    plane: usize,
    /// The square of the planes' spacing, in mm².
    weight: f64,
}

impl Ways {
    /// To `sites`, offsets into a box of `shape` (i fastest) with voxels of `spacing_mm`.
    pub(crate) fn to(sites: &[usize], shape: [usize; 3], spacing_mm: [f64; 3]) -> Self {
        let weights = spacing_mm.map(|s| s * s);
        Self {
            in_plane: within_planes(sites, shape, weights),
            plane: shape[0] * shape[1],
            weight: weights[2],
        }
    }

    /// Those of `queries`, in mm²; all are infinite if there are no sites.
    pub(crate) fn squared_mm2(&self, queries: &[usize]) -> Vec<f64> {
        along_queried_columns(&self.in_plane, self.plane, self.weight, queries)
    }
}

fn within_planes(sites: &[usize], shape: [usize; 3], [wi, wj, _]: [f64; 3]) -> Vec<f64> {
    let [ni, nj, nk] = shape;
    let mut field = vec![f64::INFINITY; ni * nj * nk];
    for &site in sites {
        field[site] = 0.0;
    }
    let plane = ni * nj;
    let mut has_sites = vec![false; nk];
    for &site in sites {
        has_sites[site / plane] = true;
    }
    field
        .par_chunks_mut(plane.max(1))
        .zip(has_sites)
        .filter(|(_, has_sites)| *has_sites)
        .for_each_init(
            || (Envelope::default(), vec![f64::INFINITY; nj]),
            |(envelope, line), (field, _)| {
                for row in field.chunks_exact_mut(ni) {
                    along_row(row, wi);
                }
                for i in 0..ni {
                    for (value, j) in line.iter_mut().zip(0..) {
                        *value = field[i + ni * j];
                    }
                    envelope.of(line, wj);
                    envelope.evaluate((0..nj).map(|j| (j, i + ni * j)), |at, mm2| field[at] = mm2);
                }
            },
        );
    field
}

/// Turns a row of 0 (site) and infinity into squared distances along it.
fn along_row(row: &mut [f64], weight: f64) {
    let mut steps = f64::INFINITY;
    for value in row.iter_mut() {
        steps = if *value == 0.0 { 0.0 } else { steps + 1.0 };
        *value = steps;
    }
    let mut steps = f64::INFINITY;
    for value in row.iter_mut().rev() {
        steps = value.min(steps + 1.0);
        *value = steps * steps * weight;
    }
}

/// The last axis, for the columns that hold a query and no other.
fn along_queried_columns(field: &[f64], plane: usize, weight: f64, queries: &[usize]) -> Vec<f64> {
    let mut by_column: Vec<usize> = (0..queries.len()).collect();
    by_column.sort_unstable_by_key(|&n| (queries[n] % plane, queries[n]));
    let mut envelope = Envelope::default();
    let mut column = vec![f64::INFINITY; field.len() / plane];
    let mut answers = vec![f64::INFINITY; queries.len()];
    for same in by_column.chunk_by(|&a, &b| queries[a] % plane == queries[b] % plane) {
        let first = queries[same[0]] % plane;
        for (value, k) in column.iter_mut().zip(0..) {
            *value = field[first + plane * k];
        }
        envelope.of(&column, weight);
        envelope.evaluate(same.iter().map(|&n| (queries[n] / plane, n)), |n, mm2| {
            answers[n] = mm2;
        });
    }
    answers
}

/// The lower envelope of the parabolas `weight (x - at)² + height` of one line.
#[derive(Default)]
struct Envelope {
    weight: f64,
    parabolas: Vec<Parabola>,
}

/// A parabola, and the place from which it is the lowest.
#[derive(Clone, Copy)]
struct Parabola {
    from: f64,
    at: f64,
    height: f64,
}

impl Envelope {
    /// Takes up the finite values of a line, one parabola each.
    fn of(&mut self, line: &[f64], weight: f64) {
        self.weight = weight;
        self.parabolas.clear();
        for (at, &height) in line.iter().enumerate() {
            if height.is_finite() {
                self.add(at as f64, height);
            }
        }
    }

    /// Adds a parabola to the right of those there are.
    fn add(&mut self, at: f64, height: f64) {
        let mut from = f64::NEG_INFINITY;
        while let Some(last) = self.parabolas.last() {
            let apart = (height - last.height) / (self.weight * (at - last.at));
            from = 0.5 * (apart + at + last.at);
            if from > last.from {
                break;
            }
            // Never reached for the first one, which begins at minus infinity.
            self.parabolas.pop();
        }
        self.parabolas.push(Parabola { from, at, height });
    }

    /// Hands `take` the envelope's height at each place of `wanted`: (place, ascending; key).
    fn evaluate(
        &self,
        wanted: impl Iterator<Item = (usize, usize)>,
        mut take: impl FnMut(usize, f64),
    ) {
        let mut parabolas = self.parabolas.iter().peekable();
        let Some(mut lowest) = parabolas.next() else {
            return;
        };
        for (x, key) in wanted {
            let x = x as f64;
            while let Some(next) = parabolas.next_if(|next| next.from < x) {
                lowest = next;
            }
            let away = x - lowest.at;
            take(key, self.weight * away * away + lowest.height);
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the nearest of all sites.
    fn slow(query: usize, sites: &[usize], [ni, nj, _]: [usize; 3], spacing_mm: [f64; 3]) -> f64 {
        let place = |at: usize| [at % ni, at / ni % nj, at / (ni * nj)].map(|n| n as f64);
        sites
            .iter()
            .map(|&site| {
                let (a, b) = (place(query), place(site));
                (0..3)
                    .map(|n| ((a[n] - b[n]) * spacing_mm[n]).powi(2))
                    .sum()
            })
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn without_sites_everything_is_infinitely_far() {
        assert_eq!(
            squared_mm2(&[0, 7], &[], [2, 2, 2], [1.0; 3]),
            [f64::INFINITY; 2]
        );
    }

    #[test]
    fn the_spacing_of_each_axis_counts_along_its_own() {
        let from_origin = |at| squared_mm2(&[at], &[0], [3, 3, 3], [1.0, 2.0, 5.0])[0];
        assert_eq!(
            [1, 3, 9, 26].map(from_origin),
            [1.0, 4.0, 25.0, 4.0 + 16.0 + 100.0]
        );
    }

    proptest! {
        #[test]
        fn the_envelope_finds_the_nearest_of_all_sites(
            shape in [1_usize..9, 1..9, 1..9], spacing_mm in [0.2_f64..6.0, 0.2..6.0, 0.2..6.0],
            picks in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        ) {
            let n: usize = shape.iter().product();
            let sites: Vec<usize> = picks.iter().map(|p| p.index(n)).collect();
            let queries: Vec<usize> = (0..n).rev().collect();
            let found = squared_mm2(&queries, &sites, shape, spacing_mm);
            for (query, found) in queries.into_iter().zip(found) {
                let want = slow(query, &sites, shape, spacing_mm);
                prop_assert!((found - want).abs() <= 1e-12 * want, "{query}: {found} != {want}");
            }
        }
    }
}
