//! The walls of the house, held by machine.
//!
//! Who may import whom is the table below; a failure quotes the reason. Sources are read as tokens, so
//! comments and strings do not count and paths inside macros do. What the packages link is compared
//! with a list by `cargo tree`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail loudly"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A room of `src/`, the rooms that it may import, and why no others.
const ROOMS: &[(&str, &[&str], &str)] = &[
    ("files", &[], "durable writing knows no other room"),
    (
        "config",
        &[],
        "settings are the sum of plain values; no room reads them but cli/serve.rs",
    ),
    (
        "telemetry",
        &["store", "files"],
        "a leaf: it names jobs, counts, and asks how full the disk is",
    ),
    (
        "store",
        &["files"],
        "rows and files know neither who asks nor what is computed",
    ),
    (
        "keys",
        &["files"],
        "who may call: it knows neither the wire nor what a scope opens",
    ),
    (
        "tls",
        &["files"],
        "certificates and whom they are shown to: it knows neither HTTP nor DICOM, which both speak within it",
    ),
    (
        "jobs",
        &["store", "files", "telemetry"],
        "a job's life knows nothing of HTTP",
    ),
    (
        "pacs",
        &["jobs", "store", "telemetry", "files", "tls"],
        "archives are another wire: it knows nothing of HTTP, and jobs know nothing of it",
    ),
    (
        "http",
        // `keys` for who asks, `pacs` for studies that arrive.
        &["jobs", "store", "telemetry", "files", "keys", "pacs", "tls"],
        "handlers only translate, they never compute",
    ),
    (
        "cli",
        &["files"],
        "commands call the pipeline; only serve.rs puts the service together",
    ),
];

/// Files that may import more than their room.
const MEETING_PLACES: &[(&str, &[&str])] = &[
    (
        "cli/serve.rs",
        &["config", "http", "jobs", "pacs", "telemetry", "files"],
    ),
    (
        "cli/edge.rs",
        &["config", "http", "keys", "telemetry", "tls"],
    ),
    ("cli/keys.rs", &["config", "keys", "telemetry"]),
    ("cli/jobs.rs", &["config", "jobs"]),
    ("cli/openapi.rs", &["http"]),
    ("cli/pacs.rs", &["config", "jobs", "pacs", "files", "tls"]),
];

/// Modules of `dawson_inference` that a room of `src/` may name.
const INFERENCE: &[(&str, &[&str], &str)] = &[
    ("files", &[], "durable writing knows no results"),
    ("config", &[], "settings are plain values"),
    ("keys", &[], "keys are the wire's"),
    ("tls", &[], "certificates are the wire's"),
    (
        "telemetry",
        &["problem", "report", "engine"],
        "it counts codes, stages and batches",
    ),
    (
        "store",
        &["problem", "pipeline", "models"],
        "rows hold problems, folders hold artifacts",
    ),
    (
        "jobs",
        &["pipeline", "models", "problem", "report"],
        "the engine is the pipeline's business",
    ),
    (
        "pacs",
        &["pipeline", "problem"],
        "what it sends was made and written before",
    ),
    (
        "http",
        &["pipeline", "models", "problem", "report", "engine"],
        "the wire names precisions, it never runs the engine",
    ),
    (
        "cli",
        &["pipeline", "models", "problem", "report", "engine"],
        "commands start the engine",
    ),
];

/// All that `dawson-imaging` may link: numbers in, numbers out.
const IMAGING_LINKS: &[&str] = &[
    "dicom-core",
    "dicom-dictionary-std",
    "dicom-object",
    "dicom-transfer-syntax-registry",
    "embedded-graphics",
    "flate2",
    "glam",
    "hayro-jpeg2000",
    "hmac",
    "jpeg-decoder",
    "nifti",
    "png",
    "rayon",
    "sha2",
    "thiserror",
    "zip",
];

/// What `dawson-inference` must never link: it blocks, and it knows no wire.
const INFERENCE_NEVER: &[&str] = &["tokio", "axum", "hyper", "sqlx", "tower", "futures-util"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What follows `root::` anywhere in the tokens; a brace group gives each of its heads.
fn follows(tokens: TokenStream, root: &str, found: &mut BTreeSet<String>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    for (n, tree) in trees.iter().enumerate() {
        if let TokenTree::Group(group) = tree {
            follows(group.stream(), root, found);
        }
        let colon =
            |at: usize| matches!(trees.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
        if matches!(tree, TokenTree::Ident(i) if i == root) && colon(n + 1) && colon(n + 2) {
            match trees.get(n + 3) {
                Some(TokenTree::Ident(ident)) => {
                    found.insert(ident.to_string());
                }
                Some(TokenTree::Group(group)) => heads(group.stream(), found),
                _ => {}
            }
        }
    }
}

/// The first name of each item of a brace group.
fn heads(tokens: TokenStream, found: &mut BTreeSet<String>) {
    let mut at_start = true;
    for tree in tokens {
        match tree {
            TokenTree::Ident(ident) if at_start => {
                found.insert(ident.to_string());
                at_start = false;
            }
            TokenTree::Punct(p) if p.as_char() == ',' => at_start = true,
            _ => at_start = false,
        }
    }
}

fn tokens(path: &Path) -> TokenStream {
    let text = std::fs::read_to_string(path).unwrap();
    TokenStream::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// How far up a chain of `super::` leads, in modules below the package's root, from tokens that lie `depth` below it.
fn reach(tokens: TokenStream, depth: usize) -> usize {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let ident =
        |n: usize, name: &str| matches!(trees.get(n), Some(TokenTree::Ident(i)) if i == name);
    let colons = |n: usize| matches!(&trees.get(n..n + 2), Some([TokenTree::Punct(a), TokenTree::Punct(b)]) if a.as_char() == ':' && b.as_char() == ':');
    let mut least = depth;
    for (n, tree) in trees.iter().enumerate() {
        if let TokenTree::Group(group) = tree {
            let in_module = n >= 2 && ident(n - 2, "mod");
            least = least.min(reach(group.stream(), depth + usize::from(in_module)));
        }
        let steps = (0..).take_while(|s| ident(n + 3 * s, "super") && colons(n + 3 * s + 1));
        least = least.min(depth.saturating_sub(steps.count()));
    }
    least
}

/// Whether a function takes `name`, or something with `name` in it.
fn is_taken(tokens: TokenStream, name: &str) -> bool {
    let mut in_signature = false;
    tokens.into_iter().any(|tree| match tree {
        TokenTree::Ident(ident) => {
            in_signature |= ident == "fn";
            false
        }
        TokenTree::Group(group) => {
            let parameters =
                std::mem::take(&mut in_signature) && group.delimiter() == Delimiter::Parenthesis;
            (parameters && is_in(group.stream(), name)) || is_taken(group.stream(), name)
        }
        _ => false,
    })
}

fn is_in(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|tree| match tree {
        TokenTree::Ident(ident) => ident == name,
        TokenTree::Group(group) => is_in(group.stream(), name),
        _ => false,
    })
}

fn imports(path: &Path, root: &str) -> BTreeSet<String> {
    let tokens = tokens(path);
    let mut found = BTreeSet::new();
    follows(tokens, root, &mut found);
    found
}

/// The room of a file below `src/`, if it has one.
fn room(relative: &str) -> Option<&str> {
    let first = relative.split('/').next()?;
    match first.strip_suffix(".rs") {
        Some("lib" | "main") => None,
        Some(name) => Some(name),
        None => Some(first),
    }
}

#[test]
fn rooms_import_only_the_rooms_that_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let relative = path
            .strip_prefix(&src)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let Some(room) = room(&relative) else {
            continue;
        };
        let (_, allowed, why) = ROOMS
            .iter()
            .find(|(name, ..)| *name == room)
            .unwrap_or_else(|| panic!("{room} is not in the table"));
        let more = MEETING_PLACES
            .iter()
            .find(|(file, _)| *file == relative)
            .map_or(&[][..], |(_, more)| more);
        for import in imports(&path, "crate") {
            let inside = import == room
                || allowed.contains(&import.as_str())
                || more.contains(&import.as_str());
            if ROOMS.iter().any(|(name, ..)| *name == import) && !inside {
                wrong.push(format!("{relative} imports {import}: {why}"));
            }
        }
        let (_, allowed, why) = INFERENCE.iter().find(|(name, ..)| *name == room).unwrap();
        let serves = relative == "cli/serve.rs";
        for import in imports(&path, "dawson_inference") {
            if !serves && !allowed.contains(&import.as_str()) {
                wrong.push(format!(
                    "{relative} imports dawson_inference::{import}: {why}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_is_looked_for_in_tokens_is_found() {
    let tokens = |text: &str| TokenStream::from_str(text).unwrap();
    assert_eq!(reach(tokens("use super::super::App;"), 3), 1);
    assert_eq!(reach(tokens("mod tests { use super::super::App; }"), 2), 1);
    assert_eq!(reach(tokens("fn f() { super::super::g() }"), 2), 0);
    assert_eq!(reach(tokens("pub(super) fn f() {}"), 1), 1);
    assert!(is_taken(
        tokens("fn f(body: Option<axum::Json<u8>>) {}"),
        "Json"
    ));
    assert!(is_taken(
        tokens("mod m { async fn f(Json(body): Json<u8>) {} }"),
        "Json"
    ));
    assert!(!is_taken(tokens("fn f() -> Json<u8> { Json(1) }"), "Json"));
}

#[test]
fn no_chain_of_super_leaves_its_room() {
    // A wall that `crate::` may not pass is not walked around.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for src in [root.join("src"), root.join("crates/inference/src")] {
        for path in sources(&src) {
            let relative = path.strip_prefix(&src).unwrap();
            if room(&relative.to_string_lossy()).is_none() {
                continue;
            }
            let is_folder = relative.ends_with("mod.rs");
            let depth = relative.components().count() - usize::from(is_folder);
            assert!(
                reach(tokens(&path), depth) > 0,
                "a chain of super:: in {} leaves its room: name it by crate::",
                path.display()
            );
        }
    }
}

#[test]
fn no_handler_takes_a_body_as_axum_reads_it() {
    // Its refusals are not ours: no code, no word of which field was wrong, no bound.
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        for name in ["Json", "Multipart"] {
            assert!(
                !is_taken(tokens(&path), name),
                "{} takes {name}: take a body by http/extract.rs or http/upload.rs",
                path.display()
            );
        }
    }
}

#[test]
fn the_inference_package_s_rooms_keep_to_their_order() {
    // The engine knows no models: it is given a network's bytes. A model can try itself on an engine.
    let order: &[(&str, &[&str])] = &[
        ("problem", &[]),
        ("report", &[]),
        ("beside", &[]),
        ("engine", &["beside"]),
        ("models", &["engine", "beside"]),
        ("pipeline", &["engine", "models", "report", "problem"]),
    ];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/inference/src");
    for path in sources(&src) {
        let relative = path
            .strip_prefix(&src)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let Some(room) = room(&relative) else {
            continue;
        };
        let (_, allowed) = order.iter().find(|(name, _)| *name == room).unwrap();
        for import in imports(&path, "crate") {
            let known = order.iter().any(|(name, _)| *name == import);
            assert!(
                !known || import == room || allowed.contains(&import.as_str()),
                "{relative} imports {import}"
            );
        }
    }
}

/// The packages that one links directly (`depth` 1) or at all.
fn links(package: &str, depth: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--depth",
            depth,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let text = String::from_utf8(tree.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != package)
        .map(str::to_owned)
        .collect()
}

#[test]
fn imaging_links_nothing_that_could_read_a_file_or_a_socket() {
    let direct = links("dawson-imaging", "1");
    let allowed: BTreeSet<String> = IMAGING_LINKS.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(
        direct, allowed,
        "imaging takes bytes and gives numbers; a new dependency is a decision"
    );
}

#[test]
fn inference_is_neither_async_nor_on_the_wire() {
    let all = links("dawson-inference", "99");
    let never: Vec<&&str> = INFERENCE_NEVER
        .iter()
        .filter(|name| all.contains(**name))
        .collect();
    assert!(
        never.is_empty(),
        "inference blocks on its own threads; it must not link {never:?}"
    );
}

#[test]
fn imaging_forbids_unsafe_code() {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/imaging/src/lib.rs");
    assert!(
        std::fs::read_to_string(lib)
            .unwrap()
            .contains("#![forbid(unsafe_code)]")
    );
}
