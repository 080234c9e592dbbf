//! The application error codes of Tombolo's QUIC connections and streams, and what they mean.
//!
//! They are part of the wire contract: a number never changes its meaning.

use quinn::VarInt;

/// Why a connection was closed on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The process ends.
    Shutdown,
    /// Another lane of the same number lives; settled in `Hello` (B1).
    Duplicate,
    /// This lane belongs to a former life of the gateway, or a later one took its place.
    Superseded,
    /// No client certificate, or one that the trust of this moment does not cover.
    Unauthenticated,
    /// The trust this connection stood on was removed or ran out.
    TrustRemoved,
    /// No protocol version in common, or a message out of order.
    Protocol,
    /// The peering was ended.
    Terminated,
    /// No proof of a round trip for too long.
    Down,
    /// A join exchange is complete.
    JoinDone,
    /// A limit was reached.
    Limit,
    /// The other side was paused: its streams end, and it may come back without any.
    Paused,
}

impl Close {
    const TABLE: [(Self, u32, &'static str); 11] = [
        (Self::Shutdown, 0x400, "shutdown"),
        (Self::Unauthenticated, 0x401, "unauthenticated"),
        (Self::Duplicate, 0x402, "duplicate"),
        (Self::TrustRemoved, 0x403, "trust removed"),
        (Self::Superseded, 0x404, "superseded"),
        (Self::Protocol, 0x405, "protocol"),
        (Self::Terminated, 0x406, "terminated"),
        (Self::Down, 0x407, "down"),
        (Self::JoinDone, 0x408, "join done"),
        (Self::Paused, 0x409, "paused"),
        (Self::Limit, 0x40a, "limit"),
    ];

    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> VarInt {
        let found = Self::TABLE.iter().find(|row| row.0 == self);
        VarInt::from_u32(found.map_or(0x400, |row| row.1))
    }

    /// The reason phrase on the wire.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        let found = Self::TABLE.iter().find(|row| row.0 == self);
        found.map_or("shutdown", |row| row.2)
    }

    /// What a code of the other side means, if it is one of ours.
    #[must_use]
    pub fn of(code: VarInt) -> Option<Self> {
        Self::TABLE.iter().find(|row| u64::from(row.1) == code.into_inner()).map(|row| row.0)
    }
}

/// Why a stream was reset or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Dropped before it was finished: whatever was read is not the whole.
    Abandoned,
    /// The TCP connection behind it was reset.
    ConnectionReset,
    /// Another attempt for the same client connection won.
    Superseded,
    /// The far side did not answer the open, and the bytes may not be sent twice.
    Unanswered,
    /// The stream's beginning was not understood or came too late.
    Header,
    /// Nobody serves this kind of stream here.
    Unsupported,
    /// A rule no longer allows it.
    Policy,
    /// A limit was reached; nothing of the stream was read.
    Limit,
}

impl Reset {
    const TABLE: [(Self, u32); 8] = [
        (Self::Abandoned, 0x500),
        (Self::ConnectionReset, 0x501),
        (Self::Superseded, 0x502),
        (Self::Unanswered, 0x503),
        (Self::Header, 0x504),
        (Self::Unsupported, 0x505),
        (Self::Policy, 0x506),
        (Self::Limit, 0x507),
    ];

    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> VarInt {
        let found = Self::TABLE.iter().find(|row| row.0 == self);
        VarInt::from_u32(found.map_or(0x500, |row| row.1))
    }

    /// What a code of the other side means, if it is one of ours.
    #[must_use]
    pub fn of(code: VarInt) -> Option<Self> {
        Self::TABLE.iter().find(|row| u64::from(row.1) == code.into_inner()).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_is_distinct_and_reversible() {
        for (close, _, _) in Close::TABLE {
            assert_eq!(Close::of(close.code()), Some(close));
        }
        for (index, row) in Reset::TABLE.iter().enumerate() {
            assert!(Reset::TABLE[..index].iter().all(|other| other.1 != row.1));
            assert_eq!(Reset::of(row.0.code()), Some(row.0));
        }
    }
}
