//! The guard: what a header says, checked before anything else is done with the file.
use nifti::{Endianness, NiftiType};

use super::affine::SpatialFields;
use super::unpack::{self, Packing};
use super::{Error, Limits};

/// Bytes of a NIfTI-1 header, without the extension flag.
const HEADER_1_BYTES: usize = 348;
/// Bytes of a NIfTI-2 header, without the extension flag.
const HEADER_2_BYTES: usize = 540;
/// The most bytes that extensions may take between header and voxels.
const MAX_EXTENSION_BYTES: usize = 16 << 20;

/// Which edition of the standard a file follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 348 bytes, 16-bit dimensions, 32-bit floats.
    One,
    /// 540 bytes, 64-bit dimensions and floats.
    Two,
}

impl Version {
    /// Bytes of the header and the extension flag that follows it.
    pub(super) fn bytes_with_flag(self) -> usize {
        match self {
            Self::One => HEADER_1_BYTES + 4,
            Self::Two => HEADER_2_BYTES + 4,
        }
    }
}

/// The types of voxels that Dawson reads: integers of 8 to 64 bits and floats of 32 to 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the type that it names")]
pub enum Datatype {
    Uint8,
    Int8,
    Uint16,
    Int16,
    Uint32,
    Int32,
    Uint64,
    Int64,
    Float32,
    Float64,
    Float128,
}

impl Datatype {
    /// The name in the standard, without its prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Uint16 => "uint16",
            Self::Int16 => "int16",
            Self::Uint32 => "uint32",
            Self::Int32 => "int32",
            Self::Uint64 => "uint64",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Float128 => "float128",
        }
    }

    /// Bytes of one voxel.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 => 2,
            Self::Uint32 | Self::Int32 | Self::Float32 => 4,
            Self::Uint64 | Self::Int64 | Self::Float64 => 8,
            Self::Float128 => 16,
        }
    }

    /// The code in the header's `datatype`.
    pub(super) fn code(self) -> i16 {
        self.nifti() as i16
    }

    pub(super) fn nifti(self) -> NiftiType {
        match self {
            Self::Uint8 => NiftiType::Uint8,
            Self::Int8 => NiftiType::Int8,
            Self::Uint16 => NiftiType::Uint16,
            Self::Int16 => NiftiType::Int16,
            Self::Uint32 => NiftiType::Uint32,
            Self::Int32 => NiftiType::Int32,
            Self::Uint64 => NiftiType::Uint64,
            Self::Int64 => NiftiType::Int64,
            Self::Float32 => NiftiType::Float32,
            Self::Float64 => NiftiType::Float64,
            Self::Float128 => NiftiType::Float128,
        }
    }

    fn from_code(code: i64) -> Result<Self, Error> {
        const READ: [Datatype; 11] = [
            Datatype::Uint8,
            Datatype::Int8,
            Datatype::Uint16,
            Datatype::Int16,
            Datatype::Uint32,
            Datatype::Int32,
            Datatype::Uint64,
            Datatype::Int64,
            Datatype::Float32,
            Datatype::Float64,
            Datatype::Float128,
        ];
        READ.into_iter()
            .find(|t| i64::from(t.code()) == code)
            .ok_or(Error::Datatype {
                code,
                name: match code {
                    0 => "unknown",
                    1 => "one bit a voxel",
                    32 => "complex64",
                    128 => "rgb24",
                    1792 => "complex128",
                    2048 => "complex256",
                    2304 => "rgba32",
                    _ => "not in the standard",
                },
            })
    }
}

/// What a header says about the voxels and their place, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Voxels along i, j, k.
    pub shape: [usize; 3],
    /// The type of the stored numbers.
    pub datatype: Datatype,
    /// Stored number to value: `value = slope · stored + intercept`; 1 if the header says 0 or NaN.
    pub slope: f64,
    /// See `slope`.
    pub intercept: f64,
    /// The fields that place the voxels in the world, as they were found.
    pub spatial: SpatialFields,
    /// Where the voxels start in the unpacked file.
    pub(super) data_offset: usize,
    pub(super) endianness: Endianness,
}

impl Header {
    /// Reads the header at the start of a file, packed by gzip or not; the rest is not looked at,
    /// so the first 4,096 bytes of an ordinary file are enough.
    ///
    /// # Errors
    /// Every [`Error`] that a header can cause; the voxels are not checked.
    pub fn read(file: &[u8], limits: Limits) -> Result<Self, Error> {
        let wanted = HEADER_2_BYTES;
        let start = match unpack::packing(file) {
            Packing::Plain => file.get(..wanted).unwrap_or(file).to_vec(),
            Packing::Gzip => unpack::first_bytes(file, wanted)?,
        };
        Self::parse(&start, limits)
    }

    /// Bytes of all voxels.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        // `parse` bounds the product: at most 2³¹ voxels of 16 bytes.
        self.shape
            .iter()
            .product::<usize>()
            .saturating_mul(self.datatype.bytes())
    }

    /// Reads the unpacked first bytes of a file.
    pub(super) fn parse(start: &[u8], limits: Limits) -> Result<Self, Error> {
        let (version, endianness) = recognise(start)?;
        let fields = Fields {
            bytes: start,
            endianness,
        };
        match version {
            Version::One => {
                if start.len() < HEADER_1_BYTES {
                    return Err(Error::HeaderTruncated {
                        found: start.len(),
                        needed: HEADER_1_BYTES,
                    });
                }
                Self::check(&Raw::one(&fields), endianness, limits)
            }
            Version::Two => {
                if start.len() < HEADER_2_BYTES {
                    return Err(Error::HeaderTruncated {
                        found: start.len(),
                        needed: HEADER_2_BYTES,
                    });
                }
                Self::check(&Raw::two(&fields), endianness, limits)
            }
        }
    }

    fn check(raw: &Raw, endianness: Endianness, limits: Limits) -> Result<Self, Error> {
        let shape = shape(raw.dim, limits)?;
        let datatype = Datatype::from_code(raw.datatype)?;
        let expected = datatype.bytes().saturating_mul(8);
        if raw.bitpix != expected as i64 {
            return Err(Error::Bitpix {
                found: raw.bitpix,
                expected,
                datatype: datatype.name(),
            });
        }
        let voxels = shape
            .iter()
            .fold(1_u64, |all, &n| all.saturating_mul(n as u64));
        let bytes = voxels.saturating_mul(datatype.bytes() as u64);
        if bytes > limits.max_bytes as u64 {
            return Err(Error::TooManyBytes {
                found: bytes,
                max: limits.max_bytes,
            });
        }
        let (min, max) = (raw.spatial.version.bytes_with_flag(), MAX_EXTENSION_BYTES);
        // A fraction of a byte or a NaN is not an offset either.
        if !(min as f64..=max as f64).contains(&raw.vox_offset) || raw.vox_offset.fract() != 0.0 {
            return Err(Error::DataOffset {
                found: raw.vox_offset,
                min,
                max,
            });
        }
        let scaled = raw.scl_slope != 0.0 && raw.scl_slope.is_finite() && raw.scl_inter.is_finite();
        Ok(Self {
            shape,
            datatype,
            slope: if scaled { raw.scl_slope } else { 1.0 },
            intercept: if scaled { raw.scl_inter } else { 0.0 },
            spatial: raw.spatial.clone(),
            data_offset: raw.vox_offset as usize,
            endianness,
        })
    }
}

/// Three axes within the limits; further ones must have length 1.
fn shape(dim: [i64; 8], limits: Limits) -> Result<[usize; 3], Error> {
    let [axes, i, j, k, more @ ..] = dim;
    if !(3..=7).contains(&axes) {
        return Err(Error::Axes { found: axes });
    }
    let mut shape = [0; 3];
    for (axis, (length, found)) in shape.iter_mut().zip([i, j, k]).enumerate() {
        *length = usize::try_from(found)
            .ok()
            .filter(|n| (1..=limits.max_axis).contains(n))
            .ok_or(Error::AxisLength {
                axis: axis.saturating_add(1),
                found,
                max: limits.max_axis,
            })?;
    }
    let further = usize::try_from(axes).unwrap_or(3).saturating_sub(3);
    // Some writers leave the lengths of further axes at 0; that means 1.
    let volumes = more
        .iter()
        .take(further)
        .fold(1_i64, |all, &n| all.saturating_mul(n.max(1)));
    if volumes != 1 {
        return Err(Error::ManyVolumes { found: volumes });
    }
    let voxels = shape
        .iter()
        .fold(1_u64, |all, &n| all.saturating_mul(n as u64));
    if voxels > limits.max_voxels as u64 {
        return Err(Error::TooManyVoxels {
            found: voxels,
            max: limits.max_voxels,
        });
    }
    Ok(shape)
}

/// Tells edition and byte order by `sizeof_hdr` and `magic`.
fn recognise(start: &[u8]) -> Result<(Version, Endianness), Error> {
    let not_nifti = || Error::NotNifti {
        first: start.iter().take(8).copied().collect(),
    };
    let size: [u8; 4] =
        start
            .get(..4)
            .and_then(|b| b.try_into().ok())
            .ok_or(Error::HeaderTruncated {
                found: start.len(),
                needed: HEADER_1_BYTES,
            })?;
    let found = match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
        (348, _) => (Version::One, Endianness::Little),
        (_, 348) => (Version::One, Endianness::Big),
        (540, _) => (Version::Two, Endianness::Little),
        (_, 540) => (Version::Two, Endianness::Big),
        _ => return Err(not_nifti()),
    };
    let needed = match found.0 {
        Version::One => HEADER_1_BYTES,
        Version::Two => HEADER_2_BYTES,
    };
    let magic = match found.0 {
        Version::One => start.get(344..348),
        Version::Two => start.get(4..8),
    }
    .ok_or(Error::HeaderTruncated {
        found: start.len(),
        needed,
    })?;
    match magic {
        b"n+1\0" | b"n+2\0" => Ok(found),
        b"ni1\0" | b"ni2\0" => Err(Error::HeaderOfPair),
        _ => Err(not_nifti()),
    }
}

/// The fields that matter, widened to the types of NIfTI-2.
struct Raw {
    dim: [i64; 8],
    datatype: i64,
    bitpix: i64,
    vox_offset: f64,
    scl_slope: f64,
    scl_inter: f64,
    spatial: SpatialFields,
}

impl Raw {
    /// Offsets of nifti1.h.
    fn one(at: &Fields) -> Self {
        let f32s = |offset| f64::from(at.f32(offset));
        Self {
            dim: every(40, 2, |o| i64::from(at.i16(o))),
            datatype: i64::from(at.i16(70)),
            bitpix: i64::from(at.i16(72)),
            vox_offset: f32s(108),
            scl_slope: f32s(112),
            scl_inter: f32s(116),
            spatial: SpatialFields {
                version: Version::One,
                pixdim: every(76, 4, f32s),
                xyzt_units: i32::from(at.byte(123)),
                qform_code: i32::from(at.i16(252)),
                sform_code: i32::from(at.i16(254)),
                quatern: every(256, 4, f32s),
                qoffset: every(268, 4, f32s),
                srow: [280, 296, 312].map(|row| every(row, 4, f32s)),
            },
        }
    }

    /// Offsets of nifti2.h.
    fn two(at: &Fields) -> Self {
        let f64s = |offset| at.f64(offset);
        Self {
            dim: every(16, 8, |o| at.i64(o)),
            datatype: i64::from(at.i16(12)),
            bitpix: i64::from(at.i16(14)),
            vox_offset: at.i64(168) as f64,
            scl_slope: f64s(176),
            scl_inter: f64s(184),
            spatial: SpatialFields {
                version: Version::Two,
                pixdim: every(104, 8, f64s),
                xyzt_units: at.i32(500),
                qform_code: at.i32(344),
                sform_code: at.i32(348),
                quatern: every(352, 8, f64s),
                qoffset: every(376, 8, f64s),
                srow: [400, 432, 464].map(|row| every(row, 8, f64s)),
            },
        }
    }
}

/// Numbers at offsets of a header that is known to be long enough; beyond its end all is 0.
struct Fields<'a> {
    bytes: &'a [u8],
    endianness: Endianness,
}

impl Fields<'_> {
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut found: [u8; N] = self
            .bytes
            .get(offset..)
            .and_then(|rest| rest.get(..N))
            .and_then(|b| b.try_into().ok())
            .unwrap_or([0; N]);
        if matches!(self.endianness, Endianness::Big) {
            found.reverse();
        }
        found
    }

    fn byte(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.array(offset))
    }

    fn i16(&self, offset: usize) -> i16 {
        i16::from_le_bytes(self.array(offset))
    }

    fn i32(&self, offset: usize) -> i32 {
        i32::from_le_bytes(self.array(offset))
    }

    fn i64(&self, offset: usize) -> i64 {
        i64::from_le_bytes(self.array(offset))
    }

    fn f32(&self, offset: usize) -> f32 {
        f32::from_le_bytes(self.array(offset))
    }

    fn f64(&self, offset: usize) -> f64 {
        f64::from_le_bytes(self.array(offset))
    }
}

/// `N` numbers, `step` bytes apart.
fn every<T, const N: usize>(start: usize, step: usize, read: impl Fn(usize) -> T) -> [T; N] {
    std::array::from_fn(|n| read(start.saturating_add(n.saturating_mul(step))))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests index what they made")]
mod tests {
    use super::*;
    use crate::grid::Grid;
    use crate::nifti::{Compression, encode};
    use crate::volume::Volume;

    fn small_file() -> Vec<u8> {
        let grid = Grid::new([2, 3, 4], glam::DAffine3::IDENTITY).unwrap();
        encode(
            &Volume::filled(grid, 7_u8),
            &SpatialFields::of(&grid),
            Compression::None,
        )
    }

    fn read(file: &[u8]) -> Result<Header, Error> {
        Header::read(file, Limits::CLINICAL)
    }

    #[test]
    fn a_header_that_lies_about_its_size_is_refused() {
        let mut file = small_file();
        file[42..44].copy_from_slice(&(-3_i16).to_le_bytes());
        assert_eq!(
            read(&file),
            Err(Error::AxisLength {
                axis: 1,
                found: -3,
                max: 1024
            })
        );
        file[42..48].copy_from_slice(&[0, 4, 0, 4, 0, 4]);
        assert_eq!(
            read(&file),
            Err(Error::TooManyVoxels {
                found: 1 << 30,
                max: 1 << 27
            })
        );
        let file = small_file();
        let tight = Limits {
            max_bytes: 23,
            ..Limits::CLINICAL
        };
        assert_eq!(
            Header::read(&file, tight),
            Err(Error::TooManyBytes { found: 24, max: 23 })
        );
    }

    #[test]
    fn four_axes_with_one_volume_are_read_and_with_two_refused() {
        let mut file = small_file();
        file[40] = 4;
        assert_eq!(read(&file).unwrap().shape, [2, 3, 4]);
        file[48] = 2;
        assert_eq!(read(&file), Err(Error::ManyVolumes { found: 2 }));
        file[40] = 2;
        assert_eq!(read(&file), Err(Error::Axes { found: 2 }));
    }

    #[test]
    fn types_that_hold_no_single_number_are_refused_by_name() {
        let mut file = small_file();
        file[70] = 128;
        assert_eq!(
            read(&file),
            Err(Error::Datatype {
                code: 128,
                name: "rgb24"
            })
        );
        file[70] = 4;
        assert_eq!(
            read(&file),
            Err(Error::Bitpix {
                found: 8,
                expected: 16,
                datatype: "int16"
            })
        );
    }

    #[test]
    fn offsets_before_the_header_s_end_or_far_beyond_it_are_refused() {
        let mut file = small_file();
        for offset in [0.0_f32, 351.0, 352.5, 1e9, f32::NAN, -1.0] {
            file[108..112].copy_from_slice(&offset.to_le_bytes());
            assert!(
                matches!(read(&file), Err(Error::DataOffset { .. })),
                "{offset}"
            );
        }
    }

    #[test]
    fn a_pair_s_header_and_other_files_are_told_apart() {
        let mut file = small_file();
        file[344..348].copy_from_slice(b"ni1\0");
        assert_eq!(read(&file), Err(Error::HeaderOfPair));
        assert!(matches!(
            read(b"PK\x03\x04 a zip file"),
            Err(Error::NotNifti { .. })
        ));
        assert!(matches!(
            read(&small_file()[..200]),
            Err(Error::HeaderTruncated { .. })
        ));
        assert!(matches!(read(b""), Err(Error::HeaderTruncated { .. })));
    }

    #[test]
    fn a_slope_of_zero_or_nan_means_no_scaling() {
        let mut file = small_file();
        for slope in [0.0, f32::NAN] {
            file[112..116].copy_from_slice(&slope.to_le_bytes());
            file[116..120].copy_from_slice(&5.0_f32.to_le_bytes());
            let header = read(&file).unwrap();
            assert_eq!((header.slope, header.intercept), (1.0, 0.0));
        }
    }
}
