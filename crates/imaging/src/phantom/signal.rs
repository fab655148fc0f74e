//! What each tissue looks like in each contrast.
//!
//! Signals are relative to cerebral white matter = 1 of the same contrast. Brain tissue was chosen so
//! that normalised intensities (median 0, IQR/1.349 = 1 over the brain) come out as in skull-stripped
//! 3 T scans of patients: white matter, cortex and lesions on FLAIR near −0.3, 0.9 and 2.2. The rest
//! was chosen to look like the usual protocols: spin-echo T1w, fat not suppressed but on FLAIR.
use crate::chance::Chance;
use crate::study::Contrast;

/// What a voxel is made of; the discriminant is the label in [`super::Phantom::tissue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tissue {
    /// Air, and everything that was stripped.
    Background = 0,
    /// Skin of head and neck.
    Skin,
    /// Fat under the skin, in the orbits and between muscles.
    Fat,
    /// Muscle and other soft tissue outside the skull.
    Muscle,
    /// Compact bone.
    Bone,
    /// Marrow between the tables of the skull and in the vertebrae.
    Marrow,
    /// Dura: falx and tentorium.
    Dura,
    /// Cerebrospinal fluid outside the ventricles.
    Csf,
    /// Fluid of the lateral, third and fourth ventricle.
    Ventricle,
    /// Cortex of the cerebrum.
    Cortex,
    /// White matter of the cerebrum, callosum and septum included.
    WhiteMatter,
    /// Caudate nucleus.
    Caudate,
    /// Putamen.
    Putamen,
    /// Globus pallidus.
    Pallidum,
    /// Thalamus and hypothalamus.
    Thalamus,
    /// Hippocampus and amygdala.
    Hippocampus,
    /// Midbrain, pons, medulla and upper cord.
    Brainstem,
    /// Cortex of the cerebellum.
    CerebellarCortex,
    /// White matter of the cerebellum.
    CerebellarWhite,
    /// Choroid plexus of the lateral ventricles.
    ChoroidPlexus,
    /// Venous sinuses and larger vessels.
    Vessel,
    /// Vitreous body of the eye.
    Vitreous,
    /// Lens of the eye.
    Lens,
    /// Lining of nose and sinuses.
    Mucosa,
}

impl Tissue {
    /// Every tissue, in the order of the labels.
    pub const ALL: [Self; 24] = [
        Self::Background,
        Self::Skin,
        Self::Fat,
        Self::Muscle,
        Self::Bone,
        Self::Marrow,
        Self::Dura,
        Self::Csf,
        Self::Ventricle,
        Self::Cortex,
        Self::WhiteMatter,
        Self::Caudate,
        Self::Putamen,
        Self::Pallidum,
        Self::Thalamus,
        Self::Hippocampus,
        Self::Brainstem,
        Self::CerebellarCortex,
        Self::CerebellarWhite,
        Self::ChoroidPlexus,
        Self::Vessel,
        Self::Vitreous,
        Self::Lens,
        Self::Mucosa,
    ];

    /// Its label in [`super::Phantom::tissue`].
    #[must_use]
    pub fn label(self) -> u8 {
        self as u8
    }

    /// Whether lesions may lie in it.
    pub(super) fn hosts_lesions(self) -> bool {
        matches!(
            self,
            Self::WhiteMatter | Self::Brainstem | Self::CerebellarWhite
        )
    }

    /// Signals in the order of [`Contrast::ALL`]: FLAIR, T1w, T2w, `PDw`, T1gd.
    fn signals(self) -> Signals {
        match self {
            Self::Background => [0.02, 0.015, 0.015, 0.015, 0.015],
            Self::Skin => [0.55, 0.95, 0.60, 0.70, 1.05],
            Self::Fat => [0.38, 1.85, 1.35, 1.05, 1.90],
            Self::Muscle => [0.45, 0.62, 0.45, 0.62, 0.75],
            Self::Bone => [0.05, 0.08, 0.06, 0.08, 0.08],
            Self::Marrow => [0.30, 1.15, 0.75, 0.70, 1.20],
            Self::Dura => [0.45, 0.50, 0.40, 0.55, 1.30],
            Self::Csf => [0.25, 0.30, 3.00, 1.00, 0.30],
            Self::Ventricle => [0.20, 0.27, 3.30, 1.03, 0.27],
            Self::Cortex => [1.185, 0.78, 1.36, 1.18, 0.80],
            Self::WhiteMatter => [1.00, 1.00, 1.00, 1.00, 1.00],
            Self::Caudate => [1.09, 0.81, 1.26, 1.13, 0.83],
            Self::Putamen => [1.00, 0.85, 1.15, 1.09, 0.87],
            Self::Pallidum => [0.88, 0.94, 0.84, 0.95, 0.95],
            Self::Thalamus => [1.04, 0.88, 1.17, 1.09, 0.90],
            Self::Hippocampus => [1.24, 0.77, 1.45, 1.19, 0.79],
            Self::Brainstem => [1.05, 0.94, 1.10, 1.03, 0.95],
            Self::CerebellarCortex => [1.12, 0.79, 1.36, 1.17, 0.82],
            Self::CerebellarWhite => [1.00, 0.98, 1.04, 1.01, 0.98],
            Self::ChoroidPlexus => [1.05, 0.72, 2.00, 1.15, 1.90],
            Self::Vessel => [0.30, 0.55, 0.55, 0.60, 2.20],
            Self::Vitreous => [0.20, 0.28, 3.00, 1.00, 0.28],
            Self::Lens => [0.50, 0.70, 0.50, 0.60, 0.70],
            Self::Mucosa => [1.10, 0.80, 1.80, 1.10, 1.50],
        }
    }
}

/// A value for each contrast, in the order of [`Contrast::ALL`].
pub(super) type Signals = [f32; 5];

/// Signal of white matter in scanner units.
const WHITE_MATTER: Signals = [310.0, 520.0, 240.0, 610.0, 540.0];

/// Standard deviation of the noise before Rician rectification, relative to white matter.
const NOISE: Signals = [0.042, 0.025, 0.055, 0.025, 0.028];

/// A full-blown lesion, relative to white matter; enhancement comes on top.
pub(super) const LESION: Signals = [1.48, 0.66, 2.25, 1.36, 0.68];

/// Signals of the tissues of one head: the table with a jitter of a few per cent.
#[derive(Debug, Clone)]
pub(super) struct Palette {
    tissues: [Signals; Tissue::ALL.len()],
}

impl Palette {
    pub(super) fn new(chance: Chance) -> Self {
        let tissues = Tissue::ALL.map(|tissue| {
            let draw = chance.of(u64::from(tissue.label()));
            let mut signals = tissue.signals();
            // White matter is the unit; brain tissue keeps its order under 1.5 per cent.
            if tissue != Tissue::WhiteMatter {
                for (n, signal) in signals.iter_mut().enumerate() {
                    *signal *= 1.0 + draw.of(n as u64).between(-0.015, 0.015);
                }
            }
            signals
        });
        Self { tissues }
    }

    pub(super) fn of(&self, tissue: Tissue) -> &Signals {
        &self.tissues[usize::from(tissue.label())]
    }
}

/// The place of a contrast in [`Signals`].
pub(super) fn place(contrast: Contrast) -> usize {
    match contrast {
        Contrast::Flair => 0,
        Contrast::T1w => 1,
        Contrast::T2w => 2,
        Contrast::Pdw => 3,
        Contrast::T1gd => 4,
    }
}

/// What the scanner makes of a relative signal: gain, then noise as in magnitude images
/// (Gudbjartsson and Patz, 1995): the length of signal plus complex Gaussian noise.
pub(super) fn acquire(contrast: Contrast, signal: f32, bias: f32, noise: [f32; 2]) -> f32 {
    let n = place(contrast);
    let real = signal * bias + NOISE[n] * noise[0];
    let imaginary = NOISE[n] * noise[1];
    WHITE_MATTER[n] * real.hypot(imaginary)
}
