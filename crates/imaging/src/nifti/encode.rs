//! A volume to bytes.

use super::affine::SpatialFields;
use super::header::{Datatype, Version};
use crate::gzip;
use crate::volume::Volume;

/// Whether and how hard a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `.nii`
    None,
    /// `.nii.gz`, packed fast: the same bytes for the same voxels, without a time stamp.
    Gzip,
}

/// A type of voxel that can be written.
pub trait Element: Copy + Send + Sync {
    /// Its type in the header.
    const DATATYPE: Datatype;
    /// Appends the bytes of samples, little endian.
    fn append(samples: &[Self], bytes: &mut Vec<u8>);
}

macro_rules! element {
    ($($rust:ty => $datatype:ident),*) => {$(
        impl Element for $rust {
            const DATATYPE: Datatype = Datatype::$datatype;
            fn append(samples: &[Self], bytes: &mut Vec<u8>) {
                // All at once: one sample after the other costs more than packing them.
                let begun = bytes.len();
                bytes.resize(begun.saturating_add(size_of_val(samples)), 0);
                let places = bytes.get_mut(begun..).unwrap_or_default().chunks_exact_mut(size_of::<$rust>());
                for (place, sample) in places.zip(samples) {
                    place.copy_from_slice(&sample.to_le_bytes());
                }
            }
        }
    )*};
}
element!(u8 => Uint8, u16 => Uint16, i16 => Int16, u32 => Uint32, f32 => Float32);

/// Writes a volume with the spatial fields given (those of the scan it belongs to).
///
/// The edition is that of `spatial`, the byte order little endian, the header otherwise empty: no
/// description, so nothing about a patient can travel along.
#[must_use]
pub fn encode<T: Element>(
    volume: &Volume<T>,
    spatial: &SpatialFields,
    compression: Compression,
) -> Vec<u8> {
    encode_as(volume, |value| value, 1.0, spatial, compression)
}

/// As [`encode`], with what `stored` makes of each sample: no second volume is made for it. The values are `slope`
/// times what is stored.
#[must_use]
pub fn encode_as<T: Copy + Send + Sync, U: Element>(
    volume: &Volume<T>,
    stored: impl Fn(T) -> U + Sync,
    slope: f64,
    spatial: &SpatialFields,
    compression: Compression,
) -> Vec<u8> {
    let mut header = match spatial.version {
        Version::One => header_one(volume.grid().shape(), U::DATATYPE, slope, spatial),
        Version::Two => header_two(volume.grid().shape(), U::DATATYPE, slope, spatial),
    };
    let append = |samples: &[T], bytes: &mut Vec<u8>| {
        let stored: Vec<U> = samples.iter().map(|&value| stored(value)).collect();
        U::append(&stored, bytes);
    };
    header.extend_from_slice(&[0; 4]); // No extensions.
    let blocks: Vec<&[T]> = volume.samples().chunks(BLOCK).collect();
    match compression {
        Compression::None => {
            let mut file = header;
            file.reserve_exact(volume.samples().len().saturating_mul(U::DATATYPE.bytes()));
            for block in blocks {
                append(block, &mut file);
            }
            file
        }
        Compression::Gzip => gzip::pack(blocks.len(), |n| {
            let mut block = if n == 0 { header.clone() } else { Vec::new() };
            append(blocks.get(n).copied().unwrap_or_default(), &mut block);
            block
        }),
    }
}

/// Samples of a block; blocks are packed side by side.
const BLOCK: usize = 1 << 18;

/// nifti1.h, 348 bytes.
fn header_one(
    shape: [usize; 3],
    datatype: Datatype,
    slope: f64,
    spatial: &SpatialFields,
) -> Vec<u8> {
    let mut h = Bytes(Vec::with_capacity(352));
    h.i32(348);
    h.zeros(36);
    let [i, j, k] = shape.map(|n| i16::try_from(n).unwrap_or(i16::MAX));
    for dim in [3, i, j, k, 1, 1, 1, 1] {
        h.i16(dim);
    }
    h.zeros(14); // intent_p1 to intent_p3, intent_code
    h.i16(datatype.code());
    h.i16(bits(datatype));
    h.i16(0); // slice_start
    for pixdim in spatial.pixdim {
        h.f32(pixdim);
    }
    h.f32(352.0); // vox_offset
    h.f32(slope); // scl_slope
    h.f32(0.0); // scl_inter
    h.zeros(3); // slice_end, slice_code
    h.0.push(spatial.xyzt_units as u8);
    h.zeros(24 + 80 + 24); // cal_max to glmin, descrip, aux_file
    h.i16(spatial.qform_code as i16);
    h.i16(spatial.sform_code as i16);
    let numbers = spatial
        .quatern
        .iter()
        .chain(&spatial.qoffset)
        .chain(spatial.srow.iter().flatten());
    for &number in numbers {
        h.f32(number);
    }
    h.zeros(16); // intent_name
    h.0.extend_from_slice(b"n+1\0");
    h.0
}

/// nifti2.h, 540 bytes.
fn header_two(
    shape: [usize; 3],
    datatype: Datatype,
    slope: f64,
    spatial: &SpatialFields,
) -> Vec<u8> {
    let mut h = Bytes(Vec::with_capacity(544));
    h.i32(540);
    h.0.extend_from_slice(b"n+2\0\r\n\x1a\n");
    h.i16(datatype.code());
    h.i16(bits(datatype));
    let [i, j, k] = shape.map(|n| n as i64);
    for dim in [3, i, j, k, 1, 1, 1, 1] {
        h.i64(dim);
    }
    h.zeros(24); // intent_p1 to intent_p3
    for pixdim in spatial.pixdim {
        h.f64(pixdim);
    }
    h.i64(544); // vox_offset
    h.f64(slope); // scl_slope
    h.f64(0.0); // scl_inter
    h.zeros(48 + 80 + 24); // cal_max to slice_end, descrip, aux_file
    h.i32(spatial.qform_code);
    h.i32(spatial.sform_code);
    let numbers = spatial
        .quatern
        .iter()
        .chain(&spatial.qoffset)
        .chain(spatial.srow.iter().flatten());
    for &number in numbers {
        h.f64(number);
    }
    h.i32(0); // slice_code
    h.i32(spatial.xyzt_units);
    h.zeros(4 + 16 + 1 + 15); // intent_code, intent_name, dim_info, unused_str
    h.0
}

fn bits(datatype: Datatype) -> i16 {
    datatype.bytes().saturating_mul(8) as i16
}

/// A header that grows field by field, little endian.
struct Bytes(Vec<u8>);

impl Bytes {
    fn i16(&mut self, v: i16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn i32(&mut self, v: i32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn i64(&mut self, v: i64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn f32(&mut self, v: f64) {
        self.0.extend_from_slice(&(v as f32).to_le_bytes());
    }
    fn f64(&mut self, v: f64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn zeros(&mut self, n: usize) {
        self.0.resize(self.0.len().saturating_add(n), 0);
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests index what they made"
)]
mod tests {
    use glam::{DAffine3, DVec3};
    use proptest::prelude::*;

    use super::super::{Error, Limits, decode};
    use super::*;
    use crate::grid::Grid;

    fn grid() -> Grid {
        let mut affine = DAffine3::from_scale(DVec3::new(-0.5, 0.75, 3.0));
        affine.translation = DVec3::new(90.0, -126.0, -72.0);
        Grid::new([5, 4, 3], affine).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::vec(-1e6_f32..1e6, 60),
                                        two in any::<bool>(), gzip in any::<bool>()) {
            let version = if two { Version::Two } else { Version::One };
            let spatial = SpatialFields { version, sform_code: 4, xyzt_units: 10, ..SpatialFields::of(&grid()) };
            let compression = if gzip { Compression::Gzip } else { Compression::None };
            let volume = Volume::new(grid(), values).unwrap();
            let scan = decode(&encode(&volume, &spatial, compression), Limits::CLINICAL).unwrap();
            prop_assert_eq!(&scan.header.spatial, &spatial);
            prop_assert_eq!(scan.volume, volume);
        }

        #[test]
        fn no_damage_to_a_file_makes_the_decoder_panic(at in 0_usize..2000, byte in any::<u8>(),
                                                       cut in 0_usize..2000, gzip in any::<bool>()) {
            let compression = if gzip { Compression::Gzip } else { Compression::None };
            let volume = Volume::from_fn(grid(), |[i, j, k]| (i * j + k) as f32);
            let mut file = encode(&volume, &SpatialFields::of(&grid()), compression);
            let length = file.len();
            file[at % length] = byte;
            file.truncate(if cut < 1000 { length } else { cut % length });
            let _scan_or_error = decode(&file, Limits::CLINICAL);
        }
    }

    #[test]
    fn several_gzip_members_are_one_file() {
        use std::io::Write;

        let volume = Volume::from_fn(grid(), |[i, j, k]| (i + j + k) as f32);
        let plain = encode(&volume, &SpatialFields::of(&grid()), Compression::None);
        let mut members = Vec::new();
        for part in plain.chunks(100) {
            let mut packer =
                flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::new(6));
            packer.write_all(part).unwrap();
            members.extend(packer.finish().unwrap());
        }
        assert_eq!(decode(&members, Limits::CLINICAL).unwrap().volume, volume);
    }

    #[test]
    fn fewer_or_more_voxels_than_promised_are_refused() {
        let volume = Volume::filled(grid(), 1_u8);
        let mut file = encode(&volume, &SpatialFields::of(&grid()), Compression::None);
        let length = file.len();
        let cut = decode(&file[..length - 1], Limits::CLINICAL);
        assert_eq!(
            cut,
            Err(Error::DataTruncated {
                found: 59,
                needed: 60
            })
        );
        file.resize(length + (2 << 20), 0);
        assert!(matches!(
            decode(&file, Limits::CLINICAL),
            Err(Error::TrailingData { .. })
        ));
    }

    #[test]
    fn a_gzip_stream_with_a_wrong_checksum_is_refused() {
        let volume = Volume::filled(grid(), 1_u8);
        let mut file = encode(&volume, &SpatialFields::of(&grid()), Compression::Gzip);
        let crc = file.len() - 8;
        file[crc] ^= 1;
        assert!(matches!(
            decode(&file, Limits::CLINICAL),
            Err(Error::Gzip { .. })
        ));
    }

    #[test]
    fn a_scan_of_many_stretches_is_one() {
        let grid = Grid::new([70, 60, 50], DAffine3::IDENTITY).unwrap();
        let mut volume = Volume::from_fn(grid, |[i, j, k]| (i + 100 * j + 10_000 * k) as f32);
        let last = volume.samples().len() - 1;
        assert!(last > 3 * crate::volume::TOGETHER);
        volume.samples_mut()[5] = f32::NAN;
        volume.samples_mut()[last] = f32::NEG_INFINITY;
        for compression in [Compression::None, Compression::Gzip] {
            let file = encode(&volume, &SpatialFields::of(&grid), compression);
            let scan = decode(&file, Limits::CLINICAL).unwrap();
            assert_eq!(scan.non_finite, 2);
            let mut finite = volume.clone();
            finite.samples_mut()[5] = 0.0;
            finite.samples_mut()[last] = 0.0;
            assert_eq!(scan.volume, finite);
        }
        let file = encode(&volume, &SpatialFields::of(&grid), Compression::None);
        let cut = decode(&file[..file.len() - 6], Limits::CLINICAL);
        let needed = 4 * (last + 1);
        let found = needed - 6;
        assert_eq!(cut, Err(Error::DataTruncated { found, needed }));
    }

    #[test]
    fn nan_and_infinity_become_zero_and_are_counted() {
        let mut volume = Volume::filled(grid(), 2.0_f32);
        volume.samples_mut()[3] = f32::NAN;
        volume.samples_mut()[7] = f32::INFINITY;
        let file = encode(&volume, &SpatialFields::of(&grid()), Compression::None);
        let scan = decode(&file, Limits::CLINICAL).unwrap();
        assert_eq!((scan.non_finite, scan.volume.samples()[3]), (2, 0.0));
    }
}
