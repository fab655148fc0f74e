//! What Dawson says to a hospital's archives, and they to it, in the network protocols of DICOM.
//!
//! [`dimse`] writes and reads the commands of PS3.7 for whoever sends and whoever receives.
pub mod dimse;
