//! `model.toml` is the operator's, but a wrong one must be refused by name and not end the service.
#![no_main]
use dawson_inference::models::Manifest;
use dawson_inference::pipeline::{Asked, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(manifest) = Manifest::parse(text) {
        // Nothing downstream checks these again.
        let input = &manifest.input;
        assert!(!input.contrasts.is_empty() && input.spacing_mm.iter().all(|s| s.is_finite() && *s > 0.0));
        assert!((0.0..1.0).contains(&manifest.patches.overlap));
        assert!((0.0..=1.0).contains(&manifest.output.threshold));
        assert!(Settings::resolve(&Asked::default(), &manifest).is_ok());
    }
});
