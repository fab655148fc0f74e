//! How far a study is, how long each part took, and whether it is still wanted.
use std::sync::Arc;
use std::time::Instant;

use tracing::info_span;
use tracing::span::EnteredSpan;

use super::Error;
use crate::engine::Cancel;
use crate::report::Timings;

/// A part of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each stage is described at the field of that name in `Timings`"
)]
pub enum Stage {
    Decode,
    Align,
    Anatomy,
    Assemble,
    Normalise,
    Infer,
    Restore,
    Count,
}

impl Stage {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Align => "align",
            Self::Anatomy => "anatomy",
            Self::Assemble => "assemble",
            Self::Normalise => "normalise",
            Self::Infer => "infer",
            Self::Restore => "restore",
            Self::Count => "count",
        }
    }
}

/// How far a study has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The stage that has begun or goes on.
    pub stage: Stage,
    /// Patches done, in [`Stage::Infer`].
    pub done: usize,
    /// Patches in all, in [`Stage::Infer`].
    pub total: usize,
}

/// Times the stages and stops between them once the study is no longer wanted.
pub(super) struct Clock<'a> {
    pub(super) progress: &'a mut dyn FnMut(Progress),
    cancel: &'a Arc<Cancel>,
    begun: Instant,
    entered: Vec<(Stage, Instant)>,
    /// What is logged meanwhile says the stage.
    span: Option<EnteredSpan>,
}

impl<'a> Clock<'a> {
    pub(super) fn start(progress: &'a mut dyn FnMut(Progress), cancel: &'a Arc<Cancel>) -> Self {
        Self {
            progress,
            cancel,
            begun: Instant::now(),
            entered: Vec::new(),
            span: None,
        }
    }

    pub(super) fn enter(&mut self, stage: Stage) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.span = None; // The last one ends before the next begins.
        let name = stage.name();
        self.span = Some(info_span!("stage", stage = name, otel.name = name).entered());
        self.entered.push((stage, Instant::now()));
        (self.progress)(Progress {
            stage,
            done: 0,
            total: 0,
        });
        Ok(())
    }

    pub(super) fn end(&self, network: f64, anatomy_network: f64) -> Timings {
        let now = Instant::now();
        let seconds = |stage: Stage| {
            let at = self.entered.iter().position(|(s, _)| *s == stage);
            at.map_or(0.0, |at| {
                let end = self.entered.get(at + 1).map_or(now, |(_, start)| *start);
                (end - self.entered[at].1).as_secs_f64()
            })
        };
        Timings {
            decode: seconds(Stage::Decode),
            align: seconds(Stage::Align),
            anatomy: seconds(Stage::Anatomy),
            anatomy_network,
            assemble: seconds(Stage::Assemble),
            normalise: seconds(Stage::Normalise),
            infer: seconds(Stage::Infer),
            network,
            restore: seconds(Stage::Restore),
            count: seconds(Stage::Count),
            total: (now - self.begun).as_secs_f64(),
        }
    }
}
