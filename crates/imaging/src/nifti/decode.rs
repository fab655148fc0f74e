//! Bytes to a scan.
use nifti::DataElement;

use super::affine::Placement;
use super::header::{Datatype, Header};
use super::unpack::Voxels;
use super::{Error, Limits, unpack, wide};
use crate::volume::{TOGETHER, Volume};

/// One decoded image.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Its values (slope and intercept applied) on its own grid, in file order.
    pub volume: Volume<f32>,
    /// What its header said.
    pub header: Header,
    /// Where it lies, and how that is known.
    pub placement: Placement,
    /// Voxels that held NaN or an infinity; they are 0 in `volume`.
    pub non_finite: usize,
}

/// Decodes a `.nii` or `.nii.gz` file (told apart by content).
///
/// Values are `slope · stored + intercept`, computed in f64 and kept as f32.
///
/// # Errors
/// Every [`Error`]: what the header promises is checked before it is unpacked, and what is
/// unpacked is held against the header.
pub fn decode(file: &[u8], limits: Limits) -> Result<Scan, Error> {
    let (header, voxels) = unpack::open(file, limits)?;
    let placement = header.spatial.placement(header.shape)?;
    let (samples, non_finite) = match header.datatype {
        Datatype::Uint8 => values::<u8>(&header, voxels, f64::from)?,
        Datatype::Int8 => values::<i8>(&header, voxels, f64::from)?,
        Datatype::Uint16 => values::<u16>(&header, voxels, f64::from)?,
        Datatype::Int16 => values::<i16>(&header, voxels, f64::from)?,
        Datatype::Uint32 => values::<u32>(&header, voxels, f64::from)?,
        Datatype::Int32 => values::<i32>(&header, voxels, f64::from)?,
        Datatype::Uint64 => values::<u64>(&header, voxels, |v| v as f64)?,
        Datatype::Int64 => values::<i64>(&header, voxels, |v| v as f64)?,
        Datatype::Float32 => values::<f32>(&header, voxels, f64::from)?,
        Datatype::Float64 => values::<f64>(&header, voxels, |v| v)?,
        // Which of two layouts they have is told from all of them.
        Datatype::Float128 => {
            let stored = wide::numbers(&voxels.all()?, header.endianness);
            let mut samples = unpack::reserved(stored.len())?;
            let non_finite = scale(&header, &stored, |v| v, &mut samples);
            (samples, non_finite)
        }
    };
    let needed = header.data_bytes();
    let volume = Volume::new(placement.grid, samples)
        .map_err(|_| Error::DataTruncated { found: 0, needed })?;
    Ok(Scan {
        volume,
        header,
        placement,
        non_finite,
    })
}

/// Bytes to values, through the `nifti` crate's typed view of them; and how many were not finite.
///
/// They are converted as they are unpacked, while they are still in the processor's own memory.
fn values<T: DataElement + Copy>(
    header: &Header,
    mut voxels: Voxels<'_>,
    widen: impl Fn(T) -> f64 + Copy,
) -> Result<(Vec<f32>, usize), Error> {
    let (bytes_each, needed) = (header.datatype.bytes(), header.data_bytes());
    let count = needed.checked_div(bytes_each).unwrap_or_default();
    let mut samples = unpack::reserved(count)?;
    let mut non_finite: usize = 0;
    loop {
        let bytes = voxels.next(TOGETHER.saturating_mul(bytes_each))?;
        if bytes.is_empty() {
            return Ok((samples, non_finite));
        }
        let found = bytes.len();
        let stored = T::from_raw_vec_validated(bytes, header.endianness, header.datatype.nifti())
            .map_err(|_| Error::DataTruncated { found, needed })?;
        non_finite = non_finite.saturating_add(scale(header, &stored, widen, &mut samples));
    }
}

/// Appends the values of stored numbers to `samples`, 0 for those that are not finite, and tells how many these are.
#[expect(clippy::float_cmp, reason = "a slope of exactly 1 changes nothing")]
fn scale<T: Copy>(
    header: &Header,
    stored: &[T],
    widen: impl Fn(T) -> f64,
    samples: &mut Vec<f32>,
) -> usize {
    let (slope, intercept, before) = (header.slope, header.intercept, samples.len());
    if slope == 1.0 && intercept == 0.0 {
        // Of integers no more is left of this than their conversion; a negative zero becomes a positive one as below.
        samples.extend(stored.iter().map(|&v| (widen(v) + 0.0) as f32));
    } else {
        samples.extend(
            stored
                .iter()
                .map(|&v| (widen(v) * slope + intercept) as f32),
        );
    }
    // Without a branch, many samples are looked at together.
    let mut non_finite = 0_u32;
    for sample in samples.iter_mut().skip(before) {
        let is_finite = sample.is_finite();
        *sample = if is_finite { *sample } else { 0.0 };
        non_finite = non_finite.wrapping_add(u32::from(!is_finite));
    }
    non_finite as usize
}
