//! The hospital's side: studies come from DICOM nodes image by image, become jobs, and results go back.
//!
//! [`Inbox`] is where images arrive, by whatever way; [`Rules`] say who may send, which studies are run, and
//! where their results go. [`dimse`] writes and reads the commands of PS3.7 for whoever sends and receives.
pub mod dimse;
mod inbox;
mod rules;

pub use inbox::{Arrival, HeldImage, Inbox, InboxConfig, Kept, Refused, Sender, Session, Stage};
pub use rules::{Calling, Rules, RulesError};
