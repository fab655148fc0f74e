//! The way uphill from one pose to the best one near it.
//!
//! The points are the same at every step, so the similarity is one smooth function and a quasi-Newton
//! search may be used: Broyden, Fletcher, Goldfarb and Shanno's update of the inverse curvature with a
//! search along the line by halving (Nocedal and Wright, *Numerical Optimization*, 2nd ed. 2006,
//! algorithms 3.1 and 6.1).
use super::metric::{Moving, Points, Similarity, compare};
use super::pose::{Freedom, MOST, Pose, Step};

/// The least share of the slope's promise that a step must keep (Nocedal and Wright's c₁).
const KEPT: f64 = 1e-4;

/// How far a search goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub(super) freedom: Freedom,
    /// What turns angles into millimetres.
    pub(super) radius_mm: f64,
    /// The most of a step; the first one is a quarter of it.
    pub(super) longest_mm: f64,
    /// A step shorter than this is the last.
    pub(super) shortest_mm: f64,
    /// The most steps.
    pub(super) steps: usize,
    /// Poses that leave less than this share of the points in the field of view are not entered.
    pub(super) least_overlap: f64,
}

/// Where a search ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) pose: Pose,
    pub(super) similarity: Similarity,
}

/// Climbs from `start` to the nearest top of the similarity.
pub(super) fn climb(points: &Points, moving: &Moving, start: Pose, reach: Reach) -> Found {
    let n = reach.freedom.numbers();
    let mut here = Found {
        pose: start,
        similarity: compare(points, moving, &start),
    };
    let mut slope = here.similarity.slope.along(reach.freedom, reach.radius_mm);
    let mut curve = Curve::flat(n, 0.25 * reach.longest_mm / length(&slope).max(1e-300));
    for _ in 0..reach.steps {
        let mut step = curve.newton(&slope);
        let long = length(&step);
        if long > reach.longest_mm {
            step = step.map(|x| x * reach.longest_mm / long);
        }
        let Some((there, step)) = halve(points, moving, &here, &slope, step, reach) else {
            break;
        };
        let new_slope = there.similarity.slope.along(reach.freedom, reach.radius_mm);
        let mut change = [0.0; MOST];
        for (change, (old, new)) in change.iter_mut().zip(slope.iter().zip(new_slope)) {
            *change = old - new;
        }
        curve.learn(&step, &change);
        (here, slope) = (there, new_slope);
        if length(&step) < reach.shortest_mm {
            break;
        }
    }
    here
}

/// The step, or the first of its halves, that raises the similarity enough.
fn halve(
    points: &Points,
    moving: &Moving,
    from: &Found,
    slope: &Step,
    mut step: Step,
    reach: Reach,
) -> Option<(Found, Step)> {
    while length(&step) >= 0.5 * reach.shortest_mm {
        let pose = from.pose.stepped(&step, reach.freedom, reach.radius_mm);
        let similarity = compare(points, moving, &pose);
        let promised = KEPT * dot(&step, slope);
        if similarity.overlap >= reach.least_overlap
            && similarity.nats >= from.similarity.nats + promised
        {
            return Some((Found { pose, similarity }, step));
        }
        step = step.map(|x| 0.5 * x);
    }
    None
}

/// The inverse of the curvature (of the negative similarity) as far as it is known.
struct Curve {
    n: usize,
    inverse: [[f64; MOST]; MOST],
    /// Whether a step has been seen.
    learnt: bool,
}

impl Curve {
    fn flat(n: usize, scale: f64) -> Self {
        let mut inverse = [[0.0; MOST]; MOST];
        for (a, row) in inverse.iter_mut().enumerate() {
            row[a] = scale;
        }
        Self {
            n,
            inverse,
            learnt: false,
        }
    }

    /// The step to where the slope would vanish.
    fn newton(&self, slope: &Step) -> Step {
        let mut step = [0.0; MOST];
        for (step, row) in step.iter_mut().zip(&self.inverse).take(self.n) {
            *step = dot(row, slope);
        }
        step
    }

    /// Takes in that the slope fell by `change` over `step` (equation 6.17, scaled first as in 6.20);
    /// what says that the similarity curves upwards is not believed.
    fn learn(&mut self, step: &Step, change: &Step) {
        let along = dot(step, change);
        if along <= 1e-12 * length(step) * length(change) {
            return;
        }
        if !self.learnt {
            *self = Self::flat(self.n, along / dot(change, change));
            self.learnt = true;
        }
        let bent = self.newton(change);
        let scale = (1.0 + dot(change, &bent) / along) / along;
        for a in 0..self.n {
            for b in 0..self.n {
                self.inverse[a][b] +=
                    scale * step[a] * step[b] - (bent[a] * step[b] + step[a] * bent[b]) / along;
            }
        }
    }
}

fn dot(a: &Step, b: &Step) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(step: &Step) -> f64 {
    dot(step, step).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_learns_a_quadratic_within_as_many_steps_as_it_has_numbers() {
        // The slope of -x' A x / 2 falls by A s over a step s: after six steps the inverse is known.
        let bend = |s: &Step| {
            let mut out = [0.0; MOST];
            for a in 0..6 {
                out[a] = (a + 1) as f64 * s[a] + 0.3 * s[(a + 1) % 6] + 0.3 * s[(a + 5) % 6];
            }
            out
        };
        let mut curve = Curve::flat(6, 1.0);
        for round in 0..40 {
            let mut step = [0.0; MOST];
            step[round % 6] = 1.0;
            curve.learn(&step, &bend(&step));
        }
        let want = [1.0, -2.0, 0.5, 3.0, 0.1, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let newton = curve.newton(&bend(&want));
        let off: f64 = newton.iter().zip(want).map(|(a, b)| (a - b).abs()).sum();
        assert!(off < 0.05, "{newton:?}");
    }

    #[test]
    fn what_curves_upwards_is_not_believed() {
        let mut curve = Curve::flat(6, 1.0);
        let step = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        curve.learn(&step, &step.map(|x| -x));
        assert!((curve.newton(&step)[0] - 1.0).abs() < 1e-12);
    }
}
