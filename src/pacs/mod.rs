//! The hospital's side: studies come from DICOM nodes image by image, become jobs, and results go back.
//!
//! [`Inbox`] is where images arrive, by whatever way, and [`Receiver`] the way over DIMSE. [`Filing`] sends
//! results to archives. Who may send, which studies are run and where results go stands in the operator's
//! file ([`PacsFile`]). [`dimse`] writes and reads the commands of PS3.7 for whoever sends and receives.
mod classes;
mod commitment;
mod destinations;
pub mod dimse;
mod file;
mod filing;
mod inbox;
mod receiver;
mod rules;
mod send;

pub use destinations::{AeTitle, Destination, DimsePeer, Peer, StowPeer};
pub use file::{Error, PacsFile};
pub use filing::Filing;
pub use inbox::{Arrival, HeldImage, Inbox, InboxConfig, Kept, Refused, Sender, Session, Stage};
pub use receiver::{Receiver, ReceiverConfig};
pub use rules::{Calling, Route, Rules};
