//! The join token: one line of text that lets another cluster make first contact.
//!
//! It pins the issuer's join key, names where to dial, and holds a seed whose Ed25519 key proves possession;
//! the issuer keeps the public half only. Issuing and redeeming are [`record`]'s matter, what is signed is
//! [`proof`]'s. Format: the joining note's section 5.1.

mod codec;
pub mod proof;
pub mod record;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    code::Code,
    ids::{IdError, Timestamp, TrustDomain},
    limits::{PEER_ENDPOINT_BYTES_MAX, PEER_ENDPOINTS_MAX, TOKEN_BYTES_MAX},
};

/// What every token begins with; secret scanners look for it.
pub const PREFIX: &str = "tmb1_";

/// The public name of a token, shown as 16 characters of Crockford's base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(pub [u8; 10]);

impl TokenId {
    /// Parses what people type: 16 characters, in either case, with Crockford's look-alikes.
    ///
    /// # Errors
    /// [`IdError`] for any other text.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let problem = || IdError {
            what: "token id",
            value: text.chars().take(80).collect(),
            problem: "is not 16 characters of Crockford's base32",
        };
        let bytes = codec::crockford().decode(text.as_bytes()).map_err(|_| problem())?;
        Self::from_slice(&bytes).ok_or_else(problem)
    }

    /// Takes exactly 10 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&codec::crockford().encode(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for TokenId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

/// The secret of a token: whoever has it may join. Wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret([u8; 32]);

impl TokenSecret {
    /// Wraps 32 random bytes.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self(seed)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What a token says, once its text is known to be whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public name.
    pub id: TokenId,
    /// Its secret seed.
    pub secret: TokenSecret,
    /// SHA-256 of the SubjectPublicKeyInfo of the issuer's join key.
    pub pin: [u8; 32],
    /// When it ends, in whole seconds. Whoever redeems only warns: the issuer's clock decides.
    pub expires: Timestamp,
    /// The trust domain the issuer's bundle will be bound to.
    pub issuer: TrustDomain,
    /// Where the issuer listens: 1 to 8 `host:port`.
    pub addresses: Vec<String>,
    /// Joining waits for a person at the issuer.
    pub approval_required: bool,
    /// The issuer expects one certain trust domain.
    pub domain_expected: bool,
}

impl Token {
    /// The text people copy, wiped when dropped.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] for no or too many addresses, or one that is not `host:port`;
    /// [`TokenError::TooLong`] when all together exceed 1,024 bytes.
    pub fn encode(&self) -> Result<Zeroizing<String>, TokenError> {
        codec::encode(self)
    }

    /// Reads the text; white space around it is ignored. Nothing is asked of the network.
    ///
    /// # Errors
    /// [`TokenError`], told apart so that people know whether to copy again, to ask again, or to upgrade.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        codec::parse(text)
    }
}

/// Why a text is not a token that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else was pasted.
    #[error("this is not a join token: it does not begin with {PREFIX}")]
    WrongPrefix,
    /// Longer than any token.
    #[error("a join token has at most {TOKEN_BYTES_MAX} characters")]
    TooLong,
    /// The checksum or the length is wrong.
    #[error("the token is damaged: a part is missing or altered, as by an incomplete copy")]
    Damaged,
    /// Whole, but of a later format.
    #[error("the token has format {version}, this program knows format 1")]
    NewerVersion {
        /// Its format.
        version: u8,
    },
    /// Whole, but its maker broke a rule.
    #[error("the token {0}")]
    Invalid(&'static str),
}

impl TokenError {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::WrongPrefix => Code::TOKEN_NOT_A_TOKEN,
            Self::Damaged | Self::TooLong => Code::TOKEN_DAMAGED,
            Self::NewerVersion { .. } => Code::TOKEN_NEWER,
            Self::Invalid(_) => Code::TOKEN_INVALID,
        }
    }
}

/// Checks a `host:port` that is to be dialled: printable, at most 255 bytes, a port that is not 0.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_good = match bare {
        Some(literal) => literal.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    text.len() <= PEER_ENDPOINT_BYTES_MAX
        && host_is_good
        && port.bytes().all(|b| b.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn check_addresses(addresses: &[String]) -> Result<(), TokenError> {
    if addresses.is_empty() || addresses.len() > PEER_ENDPOINTS_MAX {
        return Err(TokenError::Invalid("does not name one to eight addresses"));
    }
    if !addresses.iter().all(|address| is_address(address)) {
        return Err(TokenError::Invalid("names an address that is not of the form host:port"));
    }
    Ok(())
}
