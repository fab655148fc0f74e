//! Chance without state: every draw is a hash of what it is for.
//!
//! A draw depends on its key alone, never on how many draws came before it or on which thread asks,
//! so a head is the same whatever grid it is sampled on. The mixer is `SplitMix64`'s (Steele, Lea and
//! Flood, OOPSLA 2014); good enough for pictures, not for statistics, not for secrets.
use glam::{IVec3, Vec3};

/// Mixes 64 bits so that each bit of the result depends on each bit of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A source of draws, told apart from every other by its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The source for one purpose; sources of different purposes are independent.
    pub(crate) fn of(self, purpose: u64) -> Self {
        Self(mix(self.0 ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93)))
    }

    /// A number in 0..1.
    pub(crate) fn unit(self) -> f32 {
        (self.0 >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// A number in `low..high`.
    pub(crate) fn between(self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A point in the box from `low` to `high`.
    pub(crate) fn point(self, low: Vec3, high: Vec3) -> Vec3 {
        let unit = Vec3::new(self.of(1).unit(), self.of(2).unit(), self.of(3).unit());
        low + (high - low) * unit
    }

    /// A direction, all equally likely.
    pub(crate) fn direction(self) -> Vec3 {
        let z = self.of(1).between(-1.0, 1.0);
        let around = self.of(2).between(0.0, std::f32::consts::TAU);
        let r = (1.0 - z * z).max(0.0).sqrt();
        Vec3::new(r * around.cos(), r * around.sin(), z)
    }

    /// Two independent numbers of the standard normal distribution (Box and Muller).
    pub(crate) fn normals(self) -> [f32; 2] {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let around = ((self.0 & 0xFF_FFFF) as f32 / (1_u32 << 24) as f32) * std::f32::consts::TAU;
        [radius * around.cos(), radius * around.sin()]
    }

    /// The source for one point of a lattice.
    pub(crate) fn at(self, cell: IVec3) -> Self {
        let [x, y, z] = cell.to_array().map(|c| u64::from(c.cast_unsigned()));
        Self(mix(self.0 ^ (x | y << 32)).wrapping_add(z.wrapping_mul(0x9E37_79B9_7F4A_7C15))).of(0)
    }

    /// Smooth noise in −1..1 at `p`, in cells: values on a unit lattice, blended in between.
    pub(crate) fn noise(self, p: Vec3) -> f32 {
        let floor = p.floor();
        let cell = floor.as_ivec3();
        let t = p - floor;
        let t = t * t * (Vec3::splat(3.0) - 2.0 * t);
        let value = |x, y, z| self.at(cell + IVec3::new(x, y, z)).unit();
        let along = |y, z| value(0, y, z) + (value(1, y, z) - value(0, y, z)) * t.x;
        let plane = |z| along(0, z) + (along(1, z) - along(0, z)) * t.y;
        2.0 * (plane(0) + (plane(1) - plane(0)) * t.z) - 1.0
    }
}

/// A random field of one wavelength: a sum of plane waves, mean 0, variance 1.
///
/// Its zero set is a maze of sheets half a wavelength apart, which is what sulci look like.
#[derive(Debug, Clone)]
pub(crate) struct Waves {
    /// Wave vector (cycles per mm) and phase (cycles) of each.
    waves: Vec<(Vec3, f32)>,
    amplitude: f32,
}

impl Waves {
    /// `n` waves of about `wavelength_mm`; `spread` is the relative spread of their lengths.
    pub(crate) fn new(chance: Chance, n: u64, wavelength_mm: f32, spread: f32) -> Self {
        let wave = |i| {
            let draw = chance.of(i);
            let length_mm = wavelength_mm * draw.of(1).between(1.0 - spread, 1.0 + spread);
            (draw.of(2).direction() / length_mm, draw.of(3).unit())
        };
        Self {
            waves: (0..n).map(wave).collect(),
            amplitude: (2.0 / n as f32).sqrt(),
        }
    }

    pub(crate) fn at(&self, p: Vec3) -> f32 {
        self.amplitude
            * self
                .waves
                .iter()
                .map(|(k, phase)| wave(k.dot(p) + phase))
                .sum::<f32>()
    }
}

/// The cosine of a number of cycles, within 0.0011, with a slope that never jumps.
///
/// Two parabolas and their correction: a fifth of a library cosine's time, on which half of a head's
/// would be spent.
fn wave(cycles: f32) -> f32 {
    let cycles = cycles.abs();
    let part = cycles - cycles as i32 as f32;
    let from_zero = (part - 0.5).abs() - 0.25;
    let parabola = 8.0 * from_zero - 16.0 * from_zero * from_zero.abs();
    parabola + 0.225 * (parabola * parabola.abs() - parabola)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_a_cosine_but_for_a_thousandth() {
        for n in -3000..3000_i16 {
            let cycles = f32::from(n) / 1000.0;
            let cosine = (cycles * std::f32::consts::TAU).cos();
            assert!((wave(cycles) - cosine).abs() < 0.0012, "{cycles}");
        }
    }

    #[test]
    fn noise_and_waves_have_the_spread_they_promise() {
        let chance = Chance::new(1);
        let waves = Waves::new(chance, 30, 20.0, 0.2);
        let (mut sum, mut squares) = (0.0, 0.0);
        for n in 0..20_000 {
            let p = chance.of(n).point(Vec3::splat(-300.0), Vec3::splat(300.0));
            assert!(chance.noise(p).abs() <= 1.0);
            let value = waves.at(p);
            (sum, squares) = (sum + value, squares + value * value);
        }
        assert!((sum / 20_000.0).abs() < 0.05, "{sum}");
        assert!((squares / 20_000.0 - 1.0).abs() < 0.1, "{squares}");
    }
}
