//! The hospital's side: studies come from DICOM nodes image by image, and become jobs.
//!
//! [`Inbox`] is where images arrive, by whatever way; [`Receiver`] is the way over DICOM's own protocol.
//! [`Rules`] say who may send, which studies are run, and where their results go.
mod inbox;
mod rules;

pub use inbox::{Arrival, Inbox, InboxConfig, Kept, Refused, Sender, Session, Stage};
pub use rules::{Calling, Rules, RulesError};
