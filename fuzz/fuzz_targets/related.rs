//! A multipart/related as it comes over the wire: refused by name, or parts that are the same however the body was cut,
//! and that come out again when they are put into a body of our own.
#![no_main]
use libfuzzer_sys::fuzz_target;

// The service's own files: who uses the service needs neither.
#[allow(
    dead_code,
    reason = "weights of types, which the parser has no use for"
)]
#[path = "../../src/http/dicomweb/media.rs"]
mod media;
#[path = "../../src/http/dicomweb/related.rs"]
mod related;

use media::MediaType;
use related::{Event, Malformed, Related, boundary_of};

const BOUNDARY: &str = "b";
/// Small, so that a run meets it.
const MOST_OUTSIDE: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says how the rest is cut.
    let Some((&cut, body)) = bytes.split_first() else {
        return;
    };
    if let Ok(text) = std::str::from_utf8(body) {
        let kinds = MediaType::list(text);
        assert!(kinds.iter().all(|kind| kind.essence.contains('/')));
        let fits = |boundary: &str| (1..=70).contains(&boundary.len()) && boundary.is_ascii();
        assert!(kinds.iter().filter_map(boundary_of).all(fits));
    }
    let whole = read([body]);
    assert_eq!(read(body.chunks(usize::from(cut).max(1))), whole);
    if let Ok(parts) = whole {
        assert!(parts.iter().map(Vec::len).sum::<usize>() < body.len());
        assert_eq!(read([&body_of(&parts)[..]]), Ok(parts));
    }
});

/// The parts of a body that comes in these pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut related = Related::new(BOUNDARY, MOST_OUTSIDE);
    let (mut parts, mut whole) = (Vec::<Vec<u8>>::new(), 0);
    for piece in pieces {
        related.feed(piece);
        while let Some(event) = related.next()? {
            match event {
                Event::Begin => parts.push(Vec::new()),
                Event::Data(data) => {
                    assert!(!data.is_empty() && parts.len() == whole + 1);
                    parts.last_mut().unwrap().extend_from_slice(&data);
                }
                Event::End => whole += 1,
            }
        }
    }
    related.finish()?;
    assert_eq!(parts.len(), whole);
    Ok(parts)
}

fn body_of(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(b"--b\r\nContent-Type: application/dicom\r\n\r\n");
        body.extend_from_slice(part);
        body.extend_from_slice(b"\r\n");
    }
    [&body[..], b"--b--"].concat()
}
