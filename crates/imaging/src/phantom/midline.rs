//! The lateral ventricles and the callosum above them.
use glam::{Vec2, Vec3};

use super::shapes::{Tube, union};

/// Lateral ventricle, frontal horn and body: at each y a triangle with an outer edge (x, z), an
/// inner edge along the septum (x, upper and lower z), rounded by a radius.
const VENTRICLE: [[f32; 7]; 9] = [
    [35.0, 15.0, 5.0, 13.0, 4.0, 3.0, -1.0],
    [31.0, 14.5, 8.5, 8.0, 7.5, 2.5, 1.0],
    [24.0, 12.5, 13.0, 3.6, 12.5, 2.0, 1.6],
    [14.0, 11.5, 17.0, 2.8, 16.0, 4.0, 1.6],
    [4.0, 11.5, 21.5, 2.7, 20.0, 9.0, 1.7],
    [-8.0, 12.5, 23.5, 2.8, 21.5, 16.0, 1.8],
    [-20.0, 15.5, 24.0, 6.0, 23.0, 18.5, 2.4],
    [-33.0, 20.5, 21.0, 14.0, 20.5, 17.5, 3.4],
    [-44.0, 25.0, 13.0, 20.0, 13.0, 12.0, -2.0],
];

/// Its atrium and occipital horn.
const ATRIUM: [[f32; 4]; 4] = [
    [17.0, -31.0, 19.0, 4.0],
    [23.0, -40.0, 13.0, 6.8],
    [27.0, -50.0, 8.0, 5.2],
    [28.0, -63.0, 6.0, 1.4],
];

/// Its temporal horn.
const TEMPORAL_HORN: [[f32; 4]; 4] = [
    [26.0, -40.0, 9.0, 4.6],
    [35.5, -32.0, -7.0, 2.4],
    [34.5, -18.0, -15.0, 1.9],
    [30.5, -8.0, -21.0, 1.7],
];

/// A lateral ventricle.
#[derive(Debug, Clone)]
pub(super) struct Ventricle {
    /// Factor of its width.
    wide: f32,
    atrium: Tube,
    temporal_horn: Tube,
}

impl Ventricle {
    pub(super) fn new(wide: f32) -> Self {
        let [atrium, temporal_horn] = [&ATRIUM, &TEMPORAL_HORN].map(|knots| Tube::new(knots, wide));
        Self {
            wide,
            atrium,
            temporal_horn,
        }
    }

    /// Depth in the ventricle, in standard millimetres of the right half.
    pub(super) fn depth(&self, side: Vec3) -> f32 {
        let body = union(wedge(side, self.wide), self.atrium.depth(side), 4.0);
        union(body, self.temporal_horn.depth(side), 2.0)
    }
}

/// Depth in the frontal horn and body of a lateral ventricle, [`VENTRICLE`], `wide` times as wide.
fn wedge(side: Vec3, wide: f32) -> f32 {
    let Some(rows) = VENTRICLE
        .windows(2)
        .find(|rows| rows[1][0] <= side.y && side.y <= rows[0][0])
    else {
        return -20.0;
    };
    let t = (rows[0][0] - side.y) / (rows[0][0] - rows[1][0]);
    let [_, x_outer, z_outer, x_inner, z_upper, z_lower, radius]: [f32; 7] =
        std::array::from_fn(|n| rows[0][n] + t * (rows[1][n] - rows[0][n]));
    let outer = Vec2::new(x_inner + (x_outer - x_inner) * wide, z_outer);
    let corners = [
        outer,
        Vec2::new(x_inner, z_lower),
        Vec2::new(x_inner, z_upper),
    ];
    radius * wide + triangle(corners, Vec2::new(side.x, side.z))
}

/// Depth in a triangle whose corners run clockwise.
fn triangle(corners: [Vec2; 3], at: Vec2) -> f32 {
    let (mut nearest, mut inside) = (f32::INFINITY, f32::INFINITY);
    for n in 0..3 {
        let (from, to) = (corners[n], corners[(n + 1) % 3]);
        let along = to - from;
        let t = ((at - from).dot(along) / along.length_squared()).clamp(0.0, 1.0);
        nearest = nearest.min(at.distance(from + along * t));
        inside = inside.min((at - from).perp_dot(along) / along.length());
    }
    if inside >= 0.0 { inside } else { -nearest }
}

/// Depths in and around the callosum, in the plane of the midline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Callosum {
    /// Depth below its outer surface.
    pub shell: f32,
    /// Depth in the band itself.
    pub band: f32,
    /// Depth below its inner surface.
    pub inside: f32,
    /// Depth in what joins the hemispheres: callosum, what lies below it, diencephalon.
    pub bridge: f32,
}

impl Callosum {
    pub(super) fn at(side: Vec3) -> Self {
        // The arch rises a little to the sides.
        let at = Vec2::new(
            side.y + 3.5,
            side.z - 6.0 - 0.012 * side.x.min(20.0).powi(2),
        );
        let radii = Vec2::new(37.0, 23.5);
        let (k0, k1) = (
            (at / radii).length(),
            (at / radii / radii).length().max(1e-6),
        );
        let shell = k0 * (1.0 - k0) / k1;
        let ends = (at.y / radii.y).atan2(at.x / radii.x);
        let thick = 6.0 + 3.5 * (at.x / radii.x).powi(2);
        let open = if at.x > 0.0 {
            (ends + 0.5) * 20.0
        } else {
            (at.y + 1.0).min(20.0)
        };
        let band = shell.min(thick - shell).min(open);
        let stem = 15.0 - Vec2::new(side.y + 9.0, side.z + 5.0).length();
        let bridge = shell.min(at.y + 4.0).max(stem).max(band);
        Self {
            shell,
            band,
            inside: shell - thick,
            bridge,
        }
    }
}
