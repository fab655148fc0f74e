//! What is installed beside the program: the runtime and the networks.
use std::path::{Path, PathBuf};

/// How far above the program is looked: `target/debug/deps/` lies four below the checkout.
const LEVELS: usize = 4;

/// The first thing that `found` sees in one of `places` beside the program, up to four folders above it,
/// or below the working directory; else the folders that were looked at.
pub(crate) fn find<T>(
    places: &[&str],
    found: impl Fn(&Path) -> Option<T>,
) -> Result<T, Vec<PathBuf>> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).take(LEVELS).map(Path::to_owned);
    let here = std::env::current_dir().into_iter();
    let mut searched = Vec::new();
    for base in beside.chain(here) {
        for place in places {
            let folder = base.join(place);
            if let Some(thing) = found(&folder) {
                return Ok(thing);
            }
            searched.push(folder);
        }
    }
    Err(searched)
}
