//! `dawson openapi`: the description of the HTTP interface.
use super::{Failure, print_json};
use crate::http;

pub(super) fn run() -> Result<(), Failure> {
    print_json(&http::openapi())
}
