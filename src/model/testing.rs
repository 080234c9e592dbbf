//! What the tests of `model/` share, and those of the zone's readers: somewhere on the time line to begin. Not compiled into the program.

use std::time::Instant;

/// A moment to count from; its value means nothing, and no test may depend on it.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made in any other way")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
