//! JPEG-LS, lossless, one component (ITU-T T.87).
//!
//! Written here because the other decoder to be had is C++. Names are the standard's: A, B, C, N are the
//! statistics of a context, Ra to Rd the neighbours of a pixel. Every pixel costs a bounded number of bits,
//! and the stream ends where its bytes do.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "samples have at most 16 bits and statistics are halved at RESET, so 32 bits never overflow"
)]
use super::Cells;
use super::jpeg::{FrameHeader, frame_header};

const CUT: &str = "the JPEG-LS ends before its pixels do";
/// Lengths of runs as powers of two (T.87 A.2.1).
const J: [u32; 32] = [
    0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13,
    14, 15,
];
/// Regular contexts, then the two of a run's end.
const CONTEXTS: usize = 367;

pub(super) fn check(packed: &[u8], cells: &Cells) -> Result<(), &'static str> {
    frame_header(packed, 0xf7)?.fits(cells)
}

pub(super) fn decode(packed: &[u8], cells: &Cells) -> Result<Vec<u32>, &'static str> {
    let frame = frame_header(packed, 0xf7)?;
    frame.fits(cells)?;
    let (presets, scan) = header(packed, &frame)?;
    let mut scan = Scan {
        bits: Bits::new(scan),
        contexts: vec![Context::new(presets.range()); CONTEXTS],
        presets,
        run_index: 0,
    };
    let width = cells.columns;
    // One pixel more on both sides, so that every pixel has all neighbours.
    let mut above = vec![0; width + 2];
    let mut line = vec![0; width + 2];
    let mut all = Vec::with_capacity(cells.in_frame());
    for _ in 0..cells.rows {
        let (left, right) = (get(&above, 1), get(&above, width));
        set(&mut above, width + 1, right);
        set(&mut line, 0, left);
        scan.line(&above, &mut line, width)?;
        let done = line.get(1..=width).unwrap_or_default();
        all.extend(done.iter().map(|&sample| sample as u32));
        std::mem::swap(&mut above, &mut line);
    }
    Ok(all)
}

fn get(line: &[i32], at: usize) -> i32 {
    line.get(at).copied().unwrap_or(0)
}

fn set(line: &mut [i32], at: usize, value: i32) {
    if let Some(place) = line.get_mut(at) {
        *place = value;
    }
}

/// The coding parameters (T.87 C.2.4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Presets {
    max: i32,
    t: [i32; 3],
    reset: i32,
}

impl Presets {
    fn of(max: i32) -> Self {
        let clamp = |i: i32, j: i32| if i > max || i < j { j } else { i };
        let t = if max >= 128 {
            let factor = (max.min(4095) + 128) / 256;
            let t1 = clamp(factor + 2, 1);
            let t2 = clamp(factor * 4 + 3, t1);
            [t1, t2, clamp(factor * 17 + 4, t2)]
        } else {
            let factor = 256 / (max + 1);
            let t1 = clamp((3 / factor).max(2), 1);
            let t2 = clamp((7 / factor).max(3), t1);
            [t1, t2, clamp((21 / factor).max(4), t2)]
        };
        Self { max, t, reset: 64 }
    }

    fn range(&self) -> i32 {
        self.max + 1
    }

    /// Bits of a sample.
    fn bits(&self) -> u32 {
        32 - self.max.leading_zeros()
    }
}

/// Reads up to the scan: parameters, and the bytes of the scan.
fn header<'a>(packed: &'a [u8], frame: &FrameHeader) -> Result<(Presets, &'a [u8]), &'static str> {
    let cut = "the JPEG-LS header is cut off";
    if !(2..=16).contains(&frame.precision) {
        return Err("a JPEG-LS precision that is not 2 to 16");
    }
    let mut presets = Presets::of((1 << frame.precision) - 1);
    let mut rest = packed.get(2..).ok_or(cut)?;
    loop {
        let (&[first, marker], after) = rest.split_first_chunk().ok_or(cut)?;
        if first != 0xff {
            return Err("the JPEG-LS header is damaged");
        }
        if marker == 0xff {
            rest = rest.get(1..).ok_or(cut)?;
            continue;
        }
        let (&length, _) = after.split_first_chunk().ok_or(cut)?;
        let length = usize::from(u16::from_be_bytes(length));
        let body = after.get(2..length).ok_or(cut)?;
        rest = after.get(length..).ok_or(cut)?;
        match (marker, body) {
            (0xf8, [1, values @ ..]) => presets = preset(values, presets)?,
            (0xf8, _) => return Err("a JPEG-LS with tables that are not read"),
            (0xdd, _) => return Err("a JPEG-LS with restart markers is not read"),
            (0xda, &[1, _, 0, 0, 0, 0]) => return Ok((presets, rest)),
            (0xda, _) => return Err("a JPEG-LS that is not lossless of one component"),
            _ => {}
        }
    }
}

fn preset(values: &[u8], default: Presets) -> Result<Presets, &'static str> {
    let &[m1, m0, a1, a0, b1, b0, c1, c0, r1, r0] = values else {
        return Err("JPEG-LS parameters of another length");
    };
    let word = |high, low| i32::from(u16::from_be_bytes([high, low]));
    let or = |given: i32, default: i32| if given == 0 { default } else { given };
    let max = or(word(m1, m0), default.max);
    let defaults = Presets::of(max);
    let [d1, d2, d3] = defaults.t;
    let t = [
        or(word(a1, a0), d1),
        or(word(b1, b0), d2),
        or(word(c1, c0), d3),
    ];
    let reset = or(word(r1, r0), 64);
    let [t1, t2, t3] = t;
    if max > default.max || !(1 <= t1 && t1 <= t2 && t2 <= t3 && t3 <= max) || reset < 3 {
        return Err("JPEG-LS parameters outside their ranges");
    }
    Ok(Presets { max, t, reset })
}

/// Bits of a scan; after a byte of 0xff comes one of seven bits (T.87 C.1.1).
struct Bits<'a> {
    bytes: std::slice::Iter<'a, u8>,
    byte: u8,
    left: u32,
    after_ff: bool,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes: bytes.iter(),
            byte: 0,
            left: 0,
            after_ff: false,
        }
    }

    fn bit(&mut self) -> Result<u32, &'static str> {
        if self.left == 0 {
            let &byte = self.bytes.next().ok_or(CUT)?;
            if self.after_ff && byte > 0x7f {
                // A marker: the scan has ended.
                self.bytes = [].iter();
                return Err(CUT);
            }
            self.left = if self.after_ff { 7 } else { 8 };
            self.after_ff = byte == 0xff;
            self.byte = byte;
        }
        self.left -= 1;
        Ok(u32::from(self.byte >> self.left) & 1)
    }

    fn take(&mut self, count: u32) -> Result<i32, &'static str> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | self.bit()? as i32;
        }
        Ok(value)
    }

    /// A limited Golomb code (T.87 A.5.3).
    fn golomb(&mut self, k: u32, limit: u32, sample_bits: u32) -> Result<i32, &'static str> {
        let most = limit.saturating_sub(sample_bits + 1);
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > most {
                return Err("a JPEG-LS code is longer than any");
            }
        }
        if zeros < most {
            Ok((zeros << k) as i32 | self.take(k)?)
        } else {
            Ok(self.take(sample_bits)? + 1)
        }
    }
}

/// The statistics of a context.
#[derive(Clone, Copy)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
    /// Negative errors at the end of runs.
    negative: i32,
}

impl Context {
    fn new(range: i32) -> Self {
        Self {
            a: ((range + 32) / 64).max(2),
            b: 0,
            c: 0,
            n: 1,
            negative: 0,
        }
    }

    /// The Golomb parameter: the least k with N·2ᵏ at least `sum`; at most 16 bits of a sample are coded.
    fn k(&self, sum: i32) -> u32 {
        (0..16).find(|&k| self.n << k >= sum).unwrap_or(16)
    }

    /// T.87 A.6.
    fn update(&mut self, error: i32, reset: i32) {
        self.b += error;
        self.a += error.abs();
        if self.n == reset {
            self.a >>= 1;
            self.b >>= 1;
            self.n >>= 1;
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
    }
}

struct Scan<'a> {
    bits: Bits<'a>,
    presets: Presets,
    contexts: Vec<Context>,
    run_index: usize,
}

impl Scan<'_> {
    fn line(&mut self, above: &[i32], line: &mut [i32], width: usize) -> Result<(), &'static str> {
        let mut at = 1;
        while at <= width {
            let (ra, rb) = (get(line, at - 1), get(above, at));
            let (rc, rd) = (get(above, at - 1), get(above, at + 1));
            let gradients = [rd - rb, rb - rc, rc - ra];
            if gradients == [0; 3] {
                at = self.run(ra, above, line, at, width)?;
            } else {
                let sample = self.regular([ra, rb, rc], gradients)?;
                set(line, at, sample);
                at += 1;
            }
        }
        Ok(())
    }

    fn quantised(&self, gradient: i32) -> i32 {
        let steps = self.presets.t.iter().filter(|&&t| gradient.abs() >= t);
        (steps.count() as i32 + 1).min(4) * gradient.signum()
    }

    /// A pixel in a context of its neighbours (T.87 A.3 to A.6).
    fn regular(&mut self, [ra, rb, rc]: [i32; 3], d: [i32; 3]) -> Result<i32, &'static str> {
        let [q1, q2, q3] = d.map(|d| self.quantised(d));
        let q = 81 * q1 + 9 * q2 + q3;
        let sign = q.signum();
        let (max, reset) = (self.presets.max, self.presets.reset);
        let bits = self.presets.bits();
        let at = q.unsigned_abs() as usize;
        let context = self.contexts.get_mut(at).ok_or(CUT)?;
        let median = if rc >= ra.max(rb) {
            ra.min(rb)
        } else if rc <= ra.min(rb) {
            ra.max(rb)
        } else {
            ra + rb - rc
        };
        let predicted = (median + sign * context.c).clamp(0, max);
        let k = context.k(context.a);
        let limit = 2 * (bits.max(2) + bits.max(8));
        let mapped = self.bits.golomb(k, limit, bits)?;
        let mut error = if mapped & 1 == 0 {
            mapped / 2
        } else {
            -(mapped + 1) / 2
        };
        if k == 0 && 2 * context.b <= -context.n {
            error = -error - 1;
        }
        context.update(error, reset);
        Ok(self.wrapped(predicted + sign * error))
    }

    /// Modulo RANGE, so that it lies in 0 to MAXVAL.
    fn wrapped(&self, sample: i32) -> i32 {
        sample.rem_euclid(self.presets.range())
    }

    /// A run of one value, and the pixel that ends it (T.87 A.7); returns where the next pixel is.
    fn run(
        &mut self,
        ra: i32,
        above: &[i32],
        line: &mut [i32],
        mut at: usize,
        width: usize,
    ) -> Result<usize, &'static str> {
        loop {
            let length_bits = J.get(self.run_index).copied().unwrap_or(15);
            let whole = self.bits.bit()? == 1;
            let length = if whole {
                1_usize << length_bits
            } else {
                self.bits.take(length_bits)? as usize
            };
            let end = (at + length).min(width + 1);
            if let Some(run) = line.get_mut(at..end) {
                run.fill(ra);
            }
            if whole && at + length <= width + 1 && self.run_index < 31 {
                self.run_index += 1;
            }
            at = end;
            if whole && at > width {
                return Ok(at);
            }
            if !whole {
                if at > width {
                    return Err("a JPEG-LS run is longer than its line");
                }
                let sample = self.run_end(ra, get(above, at), length_bits)?;
                set(line, at, sample);
                self.run_index = self.run_index.saturating_sub(1);
                return Ok(at + 1);
            }
        }
    }

    fn run_end(&mut self, ra: i32, rb: i32, length_bits: u32) -> Result<i32, &'static str> {
        let same = i32::from(ra == rb);
        let reset = self.presets.reset;
        let bits = self.presets.bits();
        let context = self.contexts.get_mut(365 + same as usize).ok_or(CUT)?;
        let sum = context.a + if same == 1 { context.n >> 1 } else { 0 };
        let k = context.k(sum);
        let limit = (2 * (bits.max(2) + bits.max(8))).saturating_sub(length_bits + 1);
        let mapped = self.bits.golomb(k, limit, bits)?;
        let odd = (mapped + same) & 1 == 1;
        let size = (mapped + same + i32::from(odd)) / 2;
        let often_negative = 2 * context.negative >= context.n;
        let error = if (k != 0 || often_negative) == odd {
            -size
        } else {
            size
        };
        if error < 0 {
            context.negative += 1;
        }
        context.a += (mapped + 1 - same) >> 1;
        if context.n == reset {
            context.a >>= 1;
            context.n >>= 1;
            context.negative >>= 1;
        }
        context.n += 1;
        let (from, sign) = if same == 1 {
            (ra, 1)
        } else {
            (rb, if ra > rb { -1 } else { 1 })
        };
        Ok(self.wrapped(from + sign * error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(rows: u8, columns: u8, scan: &[u8]) -> Vec<u8> {
        let mut all = vec![
            0xff, 0xd8, 0xff, 0xf7, 0, 11, 8, 0, rows, 0, columns, 1, 1, 0x11, 0,
        ];
        all.extend_from_slice(&[0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0]);
        all.extend_from_slice(scan);
        all
    }

    fn cells(rows: usize, columns: usize) -> Cells {
        Cells {
            rows,
            columns,
            frames: 1,
            allocated: 8,
            stored: 8,
            high_bit: 7,
            signed: false,
        }
    }

    #[test]
    fn the_standard_s_own_example_is_decoded() {
        // T.87 annex H.3: 4 x 4 pixels of 8 bits.
        let scan = [
            0xc0, 0x00, 0x00, 0x6c, 0x80, 0x20, 0x8e, 0x01, 0xc0, 0x00, 0x00, 0x57, 0x40, 0x00,
            0x00, 0x6e, 0xe6, 0x00, 0x00, 0x01, 0xbc, 0x18, 0x00, 0x00, 0x05, 0xd8, 0x00, 0x00,
            0x91, 0x60,
        ];
        let found = decode(&image(4, 4, &scan), &cells(4, 4)).unwrap();
        let expected = [
            0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_scan_that_ends_early_is_refused() {
        assert_eq!(decode(&image(4, 4, &[0xc0, 0]), &cells(4, 4)), Err(CUT));
        let marker = [0xc0, 0xff, 0xd9];
        assert_eq!(decode(&image(4, 4, &marker), &cells(4, 4)), Err(CUT));
    }

    proptest! {
        #[test]
        fn no_scan_panics(scan in prop::collection::vec(any::<u8>(), 0..400)) {
            let _cells = decode(&image(16, 16, &scan), &cells(16, 16));
        }
    }
}
