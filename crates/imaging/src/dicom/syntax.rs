//! The transfer syntaxes that are read.

/// How a data set and its pixels are written down (PS3.5 annex A).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Syntax {
    /// Implicit VR, little endian.
    ImplicitLittle,
    /// Explicit VR, little endian.
    ExplicitLittle,
    /// Explicit VR, big endian (retired, still met).
    ExplicitBig,
    /// Explicit VR, little endian, the data set packed by deflate.
    Deflated,
    /// Run-length encoding (PS3.5 annex G).
    Rle,
    /// JPEG lossless, process 14, selection value 1.
    JpegLossless,
    /// JPEG-LS, lossless.
    JpegLs,
    /// JPEG 2000, lossless.
    Jpeg2000,
}

impl Syntax {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::ImplicitLittle,
        Self::ExplicitLittle,
        Self::ExplicitBig,
        Self::Deflated,
        Self::Rle,
        Self::JpegLossless,
        Self::JpegLs,
        Self::Jpeg2000,
    ];

    /// Its UID.
    #[must_use]
    pub fn uid(self) -> &'static str {
        match self {
            Self::ImplicitLittle => "1.2.840.10008.1.2",
            Self::ExplicitLittle => "1.2.840.10008.1.2.1",
            Self::ExplicitBig => "1.2.840.10008.1.2.2",
            Self::Deflated => "1.2.840.10008.1.2.1.99",
            Self::Rle => "1.2.840.10008.1.2.5",
            Self::JpegLossless => "1.2.840.10008.1.2.4.70",
            Self::JpegLs => "1.2.840.10008.1.2.4.80",
            Self::Jpeg2000 => "1.2.840.10008.1.2.4.90",
        }
    }

    /// The one with that [`Syntax::uid`].
    #[must_use]
    pub fn parse(uid: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|syntax| syntax.uid() == uid)
    }

    pub(super) fn is_implicit(self) -> bool {
        self == Self::ImplicitLittle
    }

    pub(super) fn is_big(self) -> bool {
        self == Self::ExplicitBig
    }

    /// Whether the pixels are in fragments.
    pub(super) fn is_encapsulated(self) -> bool {
        matches!(
            self,
            Self::Rle | Self::JpegLossless | Self::JpegLs | Self::Jpeg2000
        )
    }
}
