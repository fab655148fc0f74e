//! NIfTI-1 and NIfTI-2, in and out.
//!
//! Bytes come from strangers. So [`Header::read`] looks at the first few hundred bytes alone and
//! checks every size, offset and type before anything is unpacked or allocated; [`decode`] then
//! unpacks exactly what the header promised and no more, and only those bytes reach the `nifti`
//! crate, which turns them into numbers. Pairs of `.hdr` and `.img`, colour and complex images, and
//! images with more than one volume are refused by name.
//!
//! Standard: nifti1.h and nifti2.h of the NIfTI Data Format Working Group (fields keep their names).
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod affine;
mod decode;
mod encode;
mod header;
mod unpack;
mod wide;

pub use affine::{AffineSource, Placement, SpatialFields};
pub use decode::{Scan, decode};
pub use encode::{Compression, Element, encode, encode_as};
pub use header::{Datatype, Header, Version};

/// How much a scan may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most voxels along one axis.
    pub max_axis: usize,
    /// The most voxels of a scan.
    pub max_voxels: usize,
    /// The most bytes of its voxels, unpacked.
    pub max_bytes: usize,
}

impl Limits {
    /// What fits any clinical brain scan: 1,024 voxels along an axis, 2²⁷ (134 million) in all, of any type.
    pub const CLINICAL: Self = Self {
        max_axis: 1024,
        max_voxels: 1 << 27,
        max_bytes: 1 << 30,
    };
}

/// Why bytes are not a scan that Dawson reads.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// Fewer bytes than a header has.
    #[error("the file ends after {found} bytes, within its header of {needed}")]
    HeaderTruncated {
        /// Bytes there are.
        found: usize,
        /// Bytes a header has.
        needed: usize,
    },
    /// Neither gzip nor a NIfTI header.
    #[error("not a NIfTI file: it starts with the bytes {first:02x?}")]
    NotNifti {
        /// The first bytes.
        first: Vec<u8>,
    },
    /// The header of a two-file image, without its data.
    #[error("this is the header of a .hdr/.img pair, without its data: send one .nii or .nii.gz")]
    HeaderOfPair,
    /// The gzip stream is damaged.
    #[error("the gzip stream is damaged: {reason}")]
    Gzip {
        /// The decompressor's words.
        reason: String,
    },
    /// Not three axes.
    #[error("the image has {found} axes, must have 3 (or more of length 1)")]
    Axes {
        /// `dim[0]`.
        found: i64,
    },
    /// An axis length outside the limits.
    #[error("dimension {axis} is {found}, must be 1 to {max}")]
    AxisLength {
        /// 1 to 7, as `dim` counts them.
        axis: usize,
        /// Its length in the header.
        found: i64,
        /// The limit.
        max: usize,
    },
    /// More than one volume.
    #[error("the image holds {found} volumes, must be one: send one contrast as one 3D image")]
    ManyVolumes {
        /// The product of the axes beyond the third.
        found: i64,
    },
    /// More voxels than the limit.
    #[error("the image has {found} voxels, at most {max} are taken")]
    TooManyVoxels {
        /// Voxels in the header.
        found: u64,
        /// The limit.
        max: usize,
    },
    /// More bytes than the limit.
    #[error("the image unpacks to {found} bytes, at most {max} are taken")]
    TooManyBytes {
        /// Bytes by the header.
        found: u64,
        /// The limit.
        max: usize,
    },
    /// A data type that holds no single number.
    #[error("data type {code} ({name}) is not read, send integers or floats of 8 to 64 bits")]
    Datatype {
        /// The code in the header.
        code: i64,
        /// Its name in the standard.
        name: &'static str,
    },
    /// `bitpix` does not fit `datatype`.
    #[error("bitpix is {found}, but data type {datatype} has {expected} bits")]
    Bitpix {
        /// In the header.
        found: i64,
        /// By the standard.
        expected: usize,
        /// The data type's name.
        datatype: &'static str,
    },
    /// The data starts within the header or beyond any extension.
    #[error("vox_offset is {found}, must be {min} to {max}")]
    DataOffset {
        /// In the header.
        found: f64,
        /// End of the header and its extension flag.
        min: usize,
        /// The limit.
        max: usize,
    },
    /// The quaternion is longer than one.
    #[error("the qform's quaternion has a squared length of {found:.3}, must be at most 1")]
    Quaternion {
        /// b² + c² + d².
        found: f64,
    },
    /// Shape and affine do not make a grid.
    #[error("{field}: {reason}")]
    Affine {
        /// `sform`, `qform` or `pixdim`.
        field: &'static str,
        /// What is wrong with it.
        reason: crate::grid::GridError,
    },
    /// Fewer bytes of data than the header promises.
    #[error("the header promises {needed} bytes of voxels, the file holds {found}")]
    DataTruncated {
        /// Bytes there are.
        found: usize,
        /// Bytes promised.
        needed: usize,
    },
    /// Bytes after the voxels, more than padding explains.
    #[error("more than {max} bytes follow the voxels that the header promises")]
    TrailingData {
        /// The limit.
        max: usize,
    },
    /// There is not enough memory for the voxels.
    #[error("no memory for {bytes} bytes of voxels")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}
