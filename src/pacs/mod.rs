//! What Dawson says to a hospital's archives, and they to it, in the network protocols of DICOM.
//!
//! [`Filing`] sends results to the destinations of the operator's file ([`PacsFile`]); [`dimse`] writes and reads
//! the commands of PS3.7 for whoever sends and whoever receives.
mod destinations;
pub mod dimse;
mod file;
mod filing;
mod send;

pub use destinations::{AeTitle, Destination, DimsePeer, Peer, StowPeer};
pub use file::{Error, PacsFile};
pub use filing::Filing;
