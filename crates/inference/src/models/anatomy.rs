//! The description of an anatomy network: `model.toml` with `task = "anatomy"`.
use std::num::NonZeroUsize;

use dawson_imaging::anatomy::{Part, Showing};
use serde::Deserialize;

use super::Error;
use super::manifest::{Golden, GoldenTable, Heading, finite, wrong};

/// A checked description.
#[derive(Debug, Clone, PartialEq)]
pub struct AnatomyManifest {
    /// What every network says about itself.
    pub heading: Heading,
    /// The tensor's name; `[n, 1, k, j, i]` with k upwards, j forwards, i to the right (RAS+).
    pub input: String,
    /// Every side of what it is shown is a multiple of this.
    pub multiple: NonZeroUsize,
    /// How it is shown a scan.
    pub showing: Showing,
    /// The name of its answer, `[n, classes, k, j, i]`.
    pub output: String,
    /// The part of the head that each class is.
    pub classes: Vec<Part>,
    /// Fluid counts as brain within this distance of tissue.
    pub fluid_within_mm: f64,
    /// A patch whose answer is known: of the first class.
    pub golden: Golden,
}

#[derive(Deserialize)]
struct Document {
    #[serde(flatten)]
    heading: Heading,
    input: InputTable,
    showing: ShowingTable,
    output: OutputTable,
    golden: GoldenTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputTable {
    name: String,
    spacing_mm: [f64; 3],
    multiple: NonZeroUsize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShowingTable {
    quantile: f64,
    most: f32,
    head_above: f32,
    air: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputTable {
    name: String,
    classes: Vec<String>,
    fluid_within_mm: f64,
}

impl AnatomyManifest {
    /// Reads and checks the text of a `model.toml`.
    ///
    /// # Errors
    /// [`Error::Manifest`] with the key and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document: Document = super::manifest::document(text)?;
        let heading = document.heading.check()?;
        let InputTable {
            name: input,
            spacing_mm,
            multiple,
        } = document.input;
        if !spacing_mm.iter().all(|s| (0.5..=10.0).contains(s)) {
            return Err(wrong("input.spacing_mm", "must be 0.5 to 10"));
        }
        if multiple.get() > 64 {
            return Err(wrong("input.multiple", "must be 1 to 64"));
        }
        let showing = document.showing;
        if !(0.5..=1.0).contains(&showing.quantile) {
            return Err(wrong("showing.quantile", "must be 0.5 to 1"));
        }
        if showing.air > 64 {
            return Err(wrong("showing.air", "must be 0 to 64"));
        }
        let classes = document
            .output
            .classes
            .iter()
            .map(|name| {
                Part::parse(name)
                    .ok_or_else(|| wrong("output.classes", format!("'{name}' is no part")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if classes.is_empty() {
            return Err(wrong("output.classes", "must be at least one part"));
        }
        let fluid_within_mm = document.output.fluid_within_mm;
        if !(0.0..=1000.0).contains(&fluid_within_mm) {
            return Err(wrong("output.fluid_within_mm", "must be 0 to 1000"));
        }
        Ok(Self {
            golden: document.golden.check(1, multiple)?,
            heading,
            input,
            multiple,
            showing: Showing {
                spacing_mm,
                quantile: showing.quantile,
                most: finite("showing.most", showing.most)?.max(0.0),
                head_above: finite("showing.head_above", showing.head_above)?,
                air: showing.air,
            },
            output: document.output.name,
            classes,
            fluid_within_mm,
        })
    }
}
