//! multipart/related as it comes over the wire, read piece by piece.
//!
//! An image that a parser loses is a hole in a volume, so this one is strict where others are kind: lines end
//! with CRLF, each part says `Content-Type: application/dicom`, and a body without its closing boundary is no
//! body. What stands before the first part and after the last is skipped, but bounded like a part's header.
//! Nothing here knows what a part holds; nothing is kept of it but the bytes that may be a boundary's beginning.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use bytes::{Bytes, BytesMut};

use super::media::{MediaType, is_token_byte};

/// What every part is.
pub(super) const DICOM: &str = "application/dicom";
/// The most blanks between a boundary and its line's end (RFC 2046, 5.1.1, "transport padding").
const MAX_PADDING: usize = 64;

/// Why a body is no multipart/related of DICOM files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("what stands before the first boundary, or after the last, has more than {most} bytes")]
    Outside { most: usize },
    #[error("the header of part {part} has more than {most} bytes")]
    HeaderTooLong { part: usize, most: usize },
    #[error("part {part} has no header; each part says Content-Type: application/dicom")]
    NoHeader { part: usize },
    #[error("the header of part {part} is not made of lines 'name: value' that end with CRLF")]
    Header { part: usize },
    #[error("part {part} does not say Content-Type: application/dicom, once")]
    NotDicom { part: usize },
    #[error("part {part} has a Content-Transfer-Encoding other than binary")]
    Encoded { part: usize },
    #[error("the body has no part")]
    NoPart,
    #[error("the body ends within part {part}: its boundary is missing")]
    Unfinished { part: usize },
}

/// What comes next in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A part begins.
    Begin,
    /// Bytes of the part.
    Data(Bytes),
    /// The part is whole.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Preamble,
    Header,
    /// Behind a header's blank line, which may be the beginning of a boundary.
    Blank,
    Content,
    Epilogue,
}

/// Reads the body of a multipart/related.
#[derive(Debug)]
pub(super) struct Related {
    /// CRLF, two hyphens, the boundary.
    delimiter: Vec<u8>,
    most_outside: usize,
    buffer: BytesMut,
    place: Where,
    /// Bytes skipped before the first part, or after the last.
    outside: usize,
    /// Parts that have begun.
    parts: usize,
}

/// What the bytes behind a boundary make of it.
enum Line {
    /// A part begins after so many bytes.
    Next(usize),
    /// That was the last part; so many bytes belong to the boundary.
    Last(usize),
    /// It is no boundary.
    Other,
    /// More bytes will tell.
    Unknown,
}

/// The boundary of a multipart type, if it has one that RFC 2046 allows.
pub(super) fn boundary_of(kind: &MediaType) -> Option<&str> {
    let boundary = kind.parameter("boundary")?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    let fits = (1..=70).contains(&boundary.len()) && boundary.bytes().all(allowed);
    (fits && !boundary.ends_with(' ')).then_some(boundary)
}

impl Related {
    /// `most_outside` bounds a part's header, what stands before the first part, and what stands after the last.
    pub(super) fn new(boundary: &str, most_outside: usize) -> Self {
        Self {
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            most_outside,
            // The first boundary may be the body's first line.
            buffer: BytesMut::from(&b"\r\n"[..]),
            place: Where::Preamble,
            outside: 0,
            parts: 0,
        }
    }

    /// Takes more of the body.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event; none until more is fed.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Malformed> {
        loop {
            let place = self.place;
            let event = match place {
                Where::Preamble => self.preamble()?,
                Where::Header => self.header()?,
                Where::Blank => {
                    self.blank();
                    None
                }
                Where::Content => return Ok(self.content()),
                Where::Epilogue => {
                    self.skip(self.buffer.len())?;
                    return Ok(None);
                }
            };
            if event.is_some() || self.place == place {
                return Ok(event);
            }
        }
    }

    /// The body has ended.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        match (self.place, self.parts) {
            (Where::Epilogue, 1..) => Ok(()),
            (Where::Header | Where::Blank | Where::Content, part) => {
                Err(Malformed::Unfinished { part })
            }
            _ => Err(Malformed::NoPart),
        }
    }

    /// Drops bytes that belong to no part.
    fn skip(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.outside = self.outside.saturating_add(bytes);
        let most = self.most_outside;
        if self.outside > most.saturating_add(self.delimiter.len()) {
            return Err(Malformed::Outside { most });
        }
        drop(self.buffer.split_to(bytes.min(self.buffer.len())));
        Ok(())
    }

    fn preamble(&mut self) -> Result<Option<Event>, Malformed> {
        let (at, line) = self.find();
        self.skip(at)?;
        match line {
            Some(Line::Next(length)) => self.begin_header(length),
            Some(Line::Last(length)) => self.end(length),
            _ => {}
        }
        Ok(None)
    }

    fn begin_header(&mut self, boundary: usize) {
        drop(self.buffer.split_to(boundary.min(self.buffer.len())));
        self.parts = self.parts.saturating_add(1);
        self.place = Where::Header;
    }

    fn end(&mut self, boundary: usize) {
        drop(self.buffer.split_to(boundary.min(self.buffer.len())));
        self.outside = 0;
        self.place = Where::Epilogue;
    }

    fn header(&mut self) -> Result<Option<Event>, Malformed> {
        let part = self.parts;
        let most = self.most_outside;
        let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
        // The last three bytes may be the beginning of the header's end.
        let seen = end.unwrap_or(self.buffer.len().saturating_sub(3));
        if self.buffer.starts_with(b"\r\n") {
            return Err(Malformed::NoHeader { part });
        }
        if seen > most {
            return Err(Malformed::HeaderTooLong { part, most });
        }
        let Some(end) = end else { return Ok(None) };
        let header = self.buffer.split_to(end);
        drop(self.buffer.split_to(4.min(self.buffer.len())));
        check_header(&header, part)?;
        self.place = Where::Blank;
        Ok(Some(Event::Begin))
    }

    /// A part without content has its boundary right behind its header (RFC 2046, 5.1.1).
    fn blank(&mut self) {
        let boundary = self.delimiter.get(2..).unwrap_or_default();
        match self.buffer.strip_prefix(boundary).map(line) {
            Some(Line::Unknown) => return,
            None if boundary.starts_with(&self.buffer) => return,
            Some(Line::Next(_) | Line::Last(_)) => {
                let rest = self.buffer.split();
                self.buffer.extend_from_slice(b"\r\n");
                self.buffer.extend_from_slice(&rest);
            }
            _ => {}
        }
        self.place = Where::Content;
    }

    fn content(&mut self) -> Option<Event> {
        let (at, line) = self.find();
        if at > 0 {
            return Some(Event::Data(self.buffer.split_to(at).freeze()));
        }
        match line {
            Some(Line::Next(length)) => self.begin_header(length),
            Some(Line::Last(length)) => self.end(length),
            _ => return None,
        }
        Some(Event::End)
    }

    /// How many bytes come before the next boundary, and what the boundary is; without one, how many bytes are
    /// surely before any.
    fn find(&self) -> (usize, Option<Line>) {
        let bytes = &self.buffer[..];
        let mut from = 0;
        while let Some(next) = bytes
            .get(from..)
            .and_then(|rest| rest.iter().position(|&b| b == b'\r'))
        {
            let at = from.saturating_add(next);
            let rest = bytes.get(at..).unwrap_or_default();
            if let Some(behind) = rest.strip_prefix(&self.delimiter[..]) {
                match line(behind) {
                    Line::Next(n) => {
                        let length = self.delimiter.len().saturating_add(n);
                        return (at, Some(Line::Next(length)));
                    }
                    Line::Last(n) => {
                        let length = self.delimiter.len().saturating_add(n);
                        return (at, Some(Line::Last(length)));
                    }
                    Line::Unknown => return (at, None),
                    Line::Other => {}
                }
            } else if self.delimiter.starts_with(rest) {
                return (at, None);
            }
            from = at.saturating_add(1);
        }
        (bytes.len(), None)
    }
}

/// What stands behind a boundary on its line.
fn line(behind: &[u8]) -> Line {
    if behind.starts_with(b"--") {
        return Line::Last(2);
    }
    let is_blank = |b: &&u8| matches!(b, b' ' | b'\t');
    let padding = behind.iter().take_while(is_blank).count();
    let end = behind.get(padding..).unwrap_or_default();
    match end {
        _ if padding > MAX_PADDING => Line::Other,
        [b'\r', b'\n', ..] => Line::Next(padding.saturating_add(2)),
        [] | [b'\r'] => Line::Unknown,
        [b'-'] if padding == 0 => Line::Unknown,
        _ => Line::Other,
    }
}

/// Whether a part's header says what it must, and says it well.
fn check_header(header: &[u8], part: usize) -> Result<(), Malformed> {
    let wrong = Malformed::Header { part };
    let text = std::str::from_utf8(header).map_err(|_| wrong)?;
    // A line that begins with a blank goes on with the line before (RFC 5322, 2.2.3).
    let unfolded = text.replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut kind = None;
    for line in unfolded.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or(wrong)?;
        let plain = |c: char| c == '\t' || !c.is_control();
        if name.is_empty() || !name.bytes().all(is_token_byte) || !value.chars().all(plain) {
            return Err(wrong);
        }
        if name.eq_ignore_ascii_case("content-type") {
            let twice = kind.replace(value.trim()).is_some();
            if twice {
                return Err(Malformed::NotDicom { part });
            }
        }
        let encoding = name.eq_ignore_ascii_case("content-transfer-encoding");
        if encoding && !value.trim().eq_ignore_ascii_case("binary") {
            return Err(Malformed::Encoded { part });
        }
    }
    let kind = kind.and_then(MediaType::parse);
    if kind.is_some_and(|kind| kind.essence == DICOM) {
        return Ok(());
    }
    Err(Malformed::NotDicom { part })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 300;

    /// The parts of a body that comes in these pieces.
    fn read(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut related = Related::new("b", MOST);
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut whole = 0;
        for piece in pieces {
            related.feed(piece);
            while let Some(event) = related.next()? {
                match event {
                    Event::Begin => parts.push(Vec::new()),
                    Event::Data(data) => {
                        assert!(!data.is_empty());
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

    fn part(content: &[u8]) -> Vec<u8> {
        let head = b"--b\r\nContent-Type: application/dicom\r\n\r\n";
        [&head[..], content, b"\r\n"].concat()
    }

    fn body(parts: &[&[u8]]) -> Vec<u8> {
        let mut all: Vec<u8> = parts.iter().flat_map(|content| part(content)).collect();
        all.extend_from_slice(b"--b--\r\n");
        all
    }

    /// `bytes` cut at `cuts`.
    fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|two| &bytes[two[0]..two[1]]).collect()
    }

    #[test]
    fn parts_come_whole_whatever_stands_around_them() {
        let parts: [&[u8]; 4] = [b"one", b"", b"\r\n--bX\r\n--b-\r\n--", b"--bX"];
        let plain = body(&parts);
        assert_eq!(read(&[&plain]).unwrap(), parts);
        let preamble = [b"This is a preamble.\r\n", &plain[..]].concat();
        assert_eq!(read(&[&preamble]).unwrap(), parts);
        let epilogue = [&plain[..], b"and an epilogue"].concat();
        assert_eq!(read(&[&epilogue]).unwrap(), parts);
    }

    #[test]
    fn headers_may_say_more_in_any_case_and_over_two_lines() {
        let body = b"--b  \r\nContent-Length: 1\r\ncontent-TYPE: Application/DICOM;\r\n transfer-syntax=1.2\r\n\
            Content-Transfer-Encoding: BINARY\r\n\r\nx\r\n--b--";
        assert_eq!(read(&[body]).unwrap(), [b"x"]);
    }

    #[test]
    fn what_other_parsers_swallow_is_refused() {
        let (part, wrong) = (1, |text: &[u8]| read(&[text]).unwrap_err());
        let kind = "Content-Type: application/dicom";
        let of = |header: &str| format!("--b\r\n{header}\r\n\r\nx\r\n--b--");
        // Bare line feeds: no boundary is seen at all.
        assert_eq!(
            wrong(b"--b\nContent-Type: application/dicom\n\nx\n--b--\n"),
            Malformed::NoPart
        );
        assert_eq!(
            wrong(of(&format!("{kind}\nX: y")).as_bytes()),
            Malformed::Header { part }
        );
        // No header line: multer takes the next part for content.
        assert_eq!(
            wrong(b"--b\r\n\r\nx\r\n--b--"),
            Malformed::NoHeader { part }
        );
        // No blank line.
        let cut = b"--b\r\nContent-Type: application/dicom\r\n--b--\r\n\r\n";
        assert_eq!(wrong(cut), Malformed::Header { part });
        for header in [
            "X: y",
            "Content-Type: text/plain",
            &format!("{kind}\r\n{kind}"),
            "Content-Type: application/dicom+json",
        ] {
            let found = wrong(of(header).as_bytes());
            assert_eq!(found, Malformed::NotDicom { part }, "{header}");
        }
        let encoded = of(&format!("{kind}\r\nContent-Transfer-Encoding: base64"));
        assert_eq!(wrong(encoded.as_bytes()), Malformed::Encoded { part });
        // No content: what follows is the next part, not this one's content.
        let empty = [
            b"--b\r\nContent-Type: application/dicom\r\n\r\n",
            &body(&[b"x"])[..],
        ];
        assert_eq!(read(&[&empty.concat()]).unwrap(), [&b""[..], b"x"]);
        // No closing boundary.
        let open = body(&[b"one", b"two"]);
        let open = &open[..open.len() - b"--b--\r\n".len()];
        assert_eq!(wrong(open), Malformed::Unfinished { part: 2 });
        assert_eq!(wrong(b"--b--"), Malformed::NoPart);
        assert_eq!(wrong(b""), Malformed::NoPart);
    }

    #[test]
    fn what_is_no_part_is_bounded() {
        let long = vec![b'x'; 2 * MOST];
        let most = MOST;
        let wrong = |pieces: &[&[u8]]| read(pieces).unwrap_err();
        assert_eq!(wrong(&[&long]), Malformed::Outside { most });
        assert_eq!(wrong(&[&body(&[b""]), &long]), Malformed::Outside { most });
        let header = [b"--b\r\nX: ", &long[..]].concat();
        assert_eq!(
            wrong(&[&header]),
            Malformed::HeaderTooLong { part: 1, most }
        );
        let padded = [b"--b", &vec![b' '; 2 * MOST][..]].concat();
        assert_eq!(wrong(&[&padded]), Malformed::Outside { most });
    }

    #[test]
    fn a_boundary_is_what_rfc_2046_allows() {
        let of = |text: &str| {
            let kind = MediaType::parse(&format!("multipart/related; boundary={text}"));
            kind.and_then(|kind| boundary_of(&kind).map(str::to_owned))
        };
        assert_eq!(of("\"a; b\""), None);
        assert_eq!(of("\"a b:c\"").as_deref(), Some("a b:c"));
        assert_eq!(of("\"a \""), None);
        assert_eq!(of(&"x".repeat(71)), None);
        assert_eq!(of(&"x".repeat(70)).map(|b| b.len()), Some(70));
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        // Bytes of which boundaries are made come often.
        let byte = prop_oneof![
            Just(b'\r'),
            Just(b'\n'),
            Just(b'-'),
            Just(b'b'),
            any::<u8>()
        ];
        proptest::collection::vec(byte, 0..60)
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_parts(
            parts in proptest::collection::vec(content(), 1..5),
            cuts in proptest::collection::vec(any::<usize>(), 0..40),
        ) {
            let is_boundary = |part: &Vec<u8>| {
                let text = [b"\r\n", &part[..], b"\r\n"].concat();
                text.windows(7).any(|w| w.starts_with(b"\r\n--b") && line(&w[5..]).ends())
            };
            prop_assume!(!parts.iter().any(is_boundary));
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let body = body(&parts);
            prop_assert_eq!(read(&pieces(&body, &cuts)).unwrap(), parts);
        }

        #[test]
        fn any_bytes_come_to_the_same_however_they_are_cut(
            bytes in proptest::collection::vec(content(), 0..8),
            cuts in proptest::collection::vec(any::<usize>(), 0..40),
        ) {
            let bytes = [b"--b\r\nContent-Type: application/dicom\r\n\r\n".to_vec(), bytes.concat()].concat();
            let cut = read(&pieces(&bytes, &cuts));
            prop_assert_eq!(cut, read(&[&bytes]));
        }
    }

    impl Line {
        /// Whether content may not hold it.
        fn ends(&self) -> bool {
            !matches!(self, Self::Other)
        }
    }
}
