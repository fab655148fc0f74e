//! Paint over paint: how a point becomes a mixture of tissues.
use super::shapes::coverage;
use super::signal::{Palette, Signals, Tissue};

/// Paints one point, paint over paint.
pub(super) struct Brush<'a> {
    palette: &'a Palette,
    /// Diameter of the ball that the point stands for, mm.
    pub softness: f32,
    /// Relative signals (white matter = 1).
    pub signals: Signals,
    /// What covers at least half of the point, the last such paint.
    pub tissue: Tissue,
    /// How much of the point may turn into a lesion.
    pub host: f32,
}

impl<'a> Brush<'a> {
    /// A point of air.
    pub(super) fn new(palette: &'a Palette, softness: f32) -> Self {
        let tissue = Tissue::Background;
        Self {
            palette,
            softness,
            signals: *palette.of(tissue),
            tissue,
            host: 0.0,
        }
    }

    /// Covers what lies deeper than 0 with `tissue`.
    pub(super) fn fill(&mut self, depth: f32, tissue: Tissue) {
        self.wash(coverage(depth, self.softness), tissue);
    }

    /// Covers a share of the point with `tissue`.
    fn wash(&mut self, share: f32, tissue: Tissue) {
        if share <= 0.0 {
            return;
        }
        for (signal, &new) in self.signals.iter_mut().zip(self.palette.of(tissue)) {
            *signal += share * (new - *signal);
        }
        let host = if tissue.hosts_lesions() { 1.0 } else { 0.0 };
        self.host += share * (host - self.host);
        if share >= 0.5 || (tissue.hosts_lesions() && self.host >= 0.5) {
            self.tissue = tissue;
        }
    }

    /// Brightens what is there by a factor per contrast; `share` of it.
    pub(super) fn tint(&mut self, share: f32, factors: Signals) {
        for (signal, factor) in self.signals.iter_mut().zip(factors) {
            *signal *= 1.0 + share * (factor - 1.0);
        }
    }
}
