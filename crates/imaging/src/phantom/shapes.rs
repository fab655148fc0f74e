//! Solids by their depth: millimetres to the surface, positive inside.
use glam::{Mat3, Vec3};

/// An ellipsoid, turned about z (yaw), then about its own x axis (pitch).
#[derive(Debug, Clone, Copy)]
pub(super) struct Ellipsoid {
    centre: Vec3,
    turn: Mat3,
    inverse_radii: Vec3,
}

impl Ellipsoid {
    /// `[x, y, z]` of the centre, the three radii in mm, pitch and yaw in radians.
    pub(super) fn new([x, y, z, a, b, c, pitch, yaw]: [f32; 8]) -> Self {
        let turn = Mat3::from_rotation_x(-pitch) * Mat3::from_rotation_z(-yaw);
        Self {
            centre: Vec3::new(x, y, z),
            turn,
            inverse_radii: Vec3::new(a, b, c).recip(),
        }
    }

    /// First-order depth: exact at the surface, good near it (Quilez, "ellipsoid SDF").
    pub(super) fn depth(&self, p: Vec3) -> f32 {
        let q = self.turn * (p - self.centre) * self.inverse_radii;
        let (k0, k1) = (q.length(), (q * self.inverse_radii).length());
        k0 * (1.0 - k0) / k1.max(1e-9)
    }
}

/// A bent tube: balls along a line of points, each point with its radius.
#[derive(Debug, Clone)]
pub(super) struct Tube {
    knots: Vec<(Vec3, f32)>,
    low: Vec3,
    high: Vec3,
}

/// What a depth function says far away from its solid: outside, at a distance that does not matter.
const FAR: f32 = -20.0;

impl Tube {
    /// `[x, y, z, radius]` of each knot, mm; radii are multiplied by `factor`.
    pub(super) fn new(knots: &[[f32; 4]], factor: f32) -> Self {
        let knots: Vec<_> = knots
            .iter()
            .map(|&[x, y, z, r]| (Vec3::new(x, y, z), r * factor))
            .collect();
        let margin = Vec3::splat(12.0);
        let low = knots
            .iter()
            .fold(Vec3::INFINITY, |low, k| low.min(k.0 - k.1))
            - margin;
        let high = knots
            .iter()
            .fold(Vec3::NEG_INFINITY, |high, k| high.max(k.0 + k.1))
            + margin;
        Self { knots, low, high }
    }

    /// Depth; [`FAR`] outside a box around the tube.
    pub(super) fn depth(&self, p: Vec3) -> f32 {
        if p.cmplt(self.low).any() || p.cmpgt(self.high).any() {
            return FAR;
        }
        self.knots.windows(2).fold(FAR, |best, ends| {
            let ((a, ra), (b, rb)) = (ends[0], ends[1]);
            let along = b - a;
            let t = ((p - a).dot(along) / along.length_squared()).clamp(0.0, 1.0);
            best.max(ra + (rb - ra) * t - (p - a - along * t).length())
        })
    }
}

/// The union of two depths with a fillet of about `k` mm.
pub(super) fn union(a: f32, b: f32, k: f32) -> f32 {
    let h = (k - (a - b).abs()).max(0.0) / k;
    a.max(b) + h * h * k / 4.0
}

/// The intersection of two depths with an edge rounded over about `k` mm.
pub(super) fn common(a: f32, b: f32, k: f32) -> f32 {
    -union(-a, -b, k)
}

/// The union of many solids.
pub(super) fn union_of(solids: &[Ellipsoid], p: Vec3, k: f32) -> f32 {
    solids
        .iter()
        .map(|s| s.depth(p))
        .reduce(|a, b| union(a, b, k))
        .unwrap_or(FAR)
}

/// How much of a small ball at `depth` lies inside; `softness` is its diameter in mm.
pub(super) fn coverage(depth: f32, softness: f32) -> f32 {
    (0.5 + depth / softness).clamp(0.0, 1.0)
}
