//! Floats of 16 bytes.
//!
//! NIfTI names the type and not its layout. Two are met: IEEE 754's binary128, and the 80-bit extended
//! format of x86 processors with 6 bytes of padding, which C programs there write from a `long double`.
//! Which one a file holds is told from its numbers: the extended format writes the leading 1 of a normal
//! number out, and half the numbers of the other one do not look like that, so that a hundred voxels tell.
//! All become 64-bit floats, rounded towards zero.
use nifti::Endianness;

/// Bytes of a number.
const BYTES: usize = 16;
/// Both layouts: the bits of an exponent, and what stands for 2⁰ in them.
const EXPONENT: u128 = 0x7fff;
const BIAS: i32 = 16383;

/// The numbers that `data` holds; bytes after the last whole one are ignored.
pub(super) fn numbers(data: &[u8], endianness: Endianness) -> Vec<f64> {
    let bits = |bytes: &[u8]| {
        let mut number = [0; BYTES];
        number.copy_from_slice(bytes);
        match endianness {
            Endianness::Little => u128::from_le_bytes(number),
            Endianness::Big => u128::from_be_bytes(number),
        }
    };
    let stored = || data.chunks_exact(BYTES).map(bits);
    let value = if is_extended(stored()) {
        extended
    } else {
        quadruple
    };
    stored().map(value).collect()
}

/// Whether all numbers make sense in the extended format, and not all of them are 0 there.
fn is_extended(mut stored: impl Iterator<Item = u128>) -> bool {
    let mut any = false;
    let sound = stored.all(|bits| {
        let (significand, exponent) = (bits as u64, (bits >> 64) & EXPONENT);
        any |= significand != 0;
        (significand >> 63 == 1) == (exponent != 0)
    });
    sound && any
}

/// Sign, 15 bits of exponent, and 64 of significand whose first is the integer.
fn extended(bits: u128) -> f64 {
    let (significand, exponent) = (bits as u64, ((bits >> 64) & EXPONENT) as i32);
    number((bits >> 79) & 1 == 1, exponent, significand << 1)
}

/// Sign, 15 bits of exponent, and 112 of fraction.
fn quadruple(bits: u128) -> f64 {
    let exponent = ((bits >> 112) & EXPONENT) as i32;
    number(bits >> 127 == 1, exponent, (bits >> 48) as u64)
}

/// ±1.fraction · 2^(exponent - bias); what is too small for 64 bits is 0.
fn number(is_negative: bool, exponent: i32, fraction: u64) -> f64 {
    let magnitude = if exponent == EXPONENT as i32 {
        if fraction == 0 {
            f64::INFINITY
        } else {
            f64::NAN
        }
    } else {
        match exponent.saturating_sub(BIAS) {
            1024.. => f64::INFINITY,
            power @ -1022..1024 => {
                let exponent = u64::from(power.saturating_add(1023).unsigned_abs());
                f64::from_bits(exponent << 52 | fraction >> 12)
            }
            _ => 0.0,
        }
    };
    if is_negative { -magnitude } else { magnitude }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests know their numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A normal number in either layout.
    fn stored(value: f64, extended: bool) -> u128 {
        let (sign, power) = (
            u128::from(value.to_bits() >> 63),
            value.to_bits() >> 52 & 0x7ff,
        );
        let fraction = u128::from(value.to_bits() & ((1 << 52) - 1));
        let exponent = if value == 0.0 {
            0
        } else {
            u128::from(power) + 16383 - 1023
        };
        let leading = u128::from(value != 0.0);
        if extended {
            sign << 79 | exponent << 64 | leading << 63 | fraction << 11
        } else {
            sign << 127 | exponent << 112 | fraction << 60
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back_from_both_layouts_and_byte_orders(
            values in prop::collection::vec(-1e6_f64..1e6, 100..150), rounded in any::<bool>(), extended in any::<bool>(),
            big in any::<bool>(),
        ) {
            let values: Vec<f64> = values.iter().map(|v| if rounded { v.round() + 0.0 } else { *v }).collect();
            let bytes = |v: &f64| {
                let bits = stored(*v, extended);
                if big { bits.to_be_bytes() } else { bits.to_le_bytes() }
            };
            let data: Vec<u8> = values.iter().flat_map(bytes).collect();
            let endianness = if big { Endianness::Big } else { Endianness::Little };
            prop_assert_eq!(numbers(&data, endianness), values);
        }
    }

    #[test]
    fn what_is_no_number_or_too_large_or_too_small_is_said() {
        let of = |bits: u128| {
            let value = quadruple(bits);
            (value.is_nan(), value.is_infinite(), value.to_bits())
        };
        let infinity = f64::INFINITY.to_bits();
        assert_eq!(of(0x7fff << 112), (false, true, infinity));
        assert!(of(0x7fff << 112 | 1 << 111).0);
        assert_eq!(of(0xc800 << 112), (false, true, infinity | 1 << 63));
        assert_eq!(of(1 << 112), (false, false, 0));
    }
}
