//! The first line of every state file: `tombolo1 <SHA-256 in hex> <length>`, then the bytes.
//!
//! It is plain text, so that PEM tools, which skip what stands before BEGIN, still read our PEM files.

use super::Digest;

/// Longer than any first line: name, digest, 20 digits, two blanks and the line's end.
const HEADER_BYTES_MAX: usize = 8 + 1 + 64 + 1 + 20 + 1;

/// The first line for `body`, whose digest is `digest`.
pub(super) fn header(digest: Digest, body: &[u8]) -> String {
    format!("tombolo1 {digest} {}\n", body.len())
}

/// The body of a whole file and its digest; None when anything at all about the file is not as written.
pub(super) fn decode(mut file: Vec<u8>) -> Option<(Vec<u8>, Digest)> {
    let end = file.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n')?;
    let (first_line, body) = file.split_at(end + 1);
    let digest = Digest::of(body);
    // Comparing with the line that we would write leaves no second spelling to be lenient about.
    if header(digest, body).as_bytes() != first_line {
        return None;
    }
    file.drain(..=end);
    Some((file, digest))
}
