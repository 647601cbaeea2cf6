//! Where the device state ends: a search, since its sections have no lengths.
//!
//! The last section's footer is followed by a byte 00 (`QEMU_VM_EOF`), then by a section of type 06
//! with the description: `7e`, number of the section, `00 06`, length, JSON. Which number the last
//! section has cannot be known, but the JSON begins with one of two texts. That is a pattern of 25
//! bytes and more, which device state does not have by chance. A guest that writes it into the
//! state of one of its devices makes us see the end too early, and harms its own move alone.

use super::stream::NO_DESCRIPTION;

/// How the JSON begins: in QEMU 7.2, and in 10.0.
const BEGINNINGS: [&[u8]; 2] = [b"{\"page_size\": ", b"{\"configuration\": {\"vmsd_name\": "];
/// Longest description that is believed, in bytes. Seen: 46 to 108 thousand.
pub(super) const MAX_DESCRIPTION: u32 = 16 << 20;
/// Footer, 00, 06, length.
const HEAD: usize = 5 + 1 + 1 + 4;
/// First byte of a footer.
const FOOTER: u8 = 0x7e;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Bytes before this one are not of the end; those from it on may be.
    NotBefore(usize),
    /// The 00 stands here, and the JSON behind it has this length.
    Eof { at: usize, description: u32 },
}

/// Looks for the first end in `bytes`.
pub(super) fn find(bytes: &[u8]) -> Found {
    let mut from = 0;
    while let Some(next) = bytes[from..].iter().position(|&byte| byte == FOOTER) {
        let at = from + next;
        match looks_like_the_end(&bytes[at..]) {
            Some(Some(description)) => return Found::Eof { at: at + 5, description },
            Some(None) => return Found::NotBefore(at),
            None => from = at + 1,
        }
    }
    Found::NotBefore(bytes.len())
}

/// `None`: it is none. `Some(None)`: as far as it goes it may be one.
fn looks_like_the_end(bytes: &[u8]) -> Option<Option<u32>> {
    let marks = bytes.get(5..).unwrap_or_default();
    if !marks[..marks.len().min(2)].iter().eq([0, 6][..marks.len().min(2)].iter()) {
        return None;
    }
    let Some(&[a, b, c, d]) = bytes.get(7..HEAD) else { return Some(None) };
    let description = u32::from_be_bytes([a, b, c, d]);
    if description > MAX_DESCRIPTION {
        return None;
    }
    let json = &bytes[HEAD..];
    if bytes.len() <= 5 + 1 + NO_DESCRIPTION.len() && NO_DESCRIPTION.starts_with(&bytes[6..]) {
        return Some(None); // too short to be sure of before the stream is over
    }
    let mut open = false;
    for beginning in BEGINNINGS {
        if description as usize <= beginning.len() {
            continue;
        }
        if json.starts_with(beginning) {
            return Some(Some(description));
        }
        open |= beginning.starts_with(json);
    }
    open.then_some(None)
}

/// Where the 00 stands in a stream that ends with these bytes, and how long the description behind it
/// is: where there is none, or the one that says nothing ([`NO_DESCRIPTION`]).
pub(super) fn last_end(rest: &[u8]) -> Option<(usize, Option<u32>)> {
    let (rest, description) = match rest.strip_suffix(&NO_DESCRIPTION) {
        Some(rest) => (rest, Some(2)),
        None => (rest, None),
    };
    matches!(rest, [.., FOOTER, _, _, _, _, 0]).then(|| (rest.len() - 1, description))
}
