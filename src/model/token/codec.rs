//! The bytes of a token: layout, base64url and checksum. What they mean is told one floor up, in the module.
//!
//! Layout, integers big-endian: version 1, flags 1, id 10, seed 32, pin 32, expiry 4 (seconds), trust domain
//! 1 + n, addresses 1 + sum(1 + m), CRC-32C 4. The checksum stays the last 4 bytes in every later version.

use data_encoding::{BASE64URL_NOPAD, Encoding, Specification};
use zeroize::Zeroizing;

use super::{PREFIX, Token, TokenError, TokenId, TokenSecret, check_addresses};
use crate::model::{
    ids::{Timestamp, TrustDomain},
    limits::{TOKEN_BINARY_BYTES_MAX, TOKEN_BYTES_MAX},
};

const VERSION: u8 = 1;
const FLAG_APPROVAL_REQUIRED: u8 = 1;
const FLAG_DOMAIN_EXPECTED: u8 = 2;
static CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// Crockford's base32 without padding: capitals, no I, L, O, U; their look-alikes are read as digits.
pub(super) fn crockford() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    specification.translate.from.push_str("abcdefghjkmnpqrstvwxyzIiLlOo");
    specification.translate.to.push_str("ABCDEFGHJKMNPQRSTVWXYZ111100");
    specification.encoding().expect("32 distinct symbols")
}

pub(super) fn encode(token: &Token) -> Result<Zeroizing<String>, TokenError> {
    check_addresses(&token.addresses)?;
    // Never grows, so that no copy of the seed stays behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(TOKEN_BINARY_BYTES_MAX));
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(token.approval_required, FLAG_APPROVAL_REQUIRED)
        | flag(token.domain_expected, FLAG_DOMAIN_EXPECTED);
    let expires = u32::try_from(token.expires.0 / 1_000)
        .map_err(|_| TokenError::Invalid("expires later than the format can say"))?;
    let needed: usize =
        85 + token.issuer.as_str().len() + token.addresses.iter().map(|a| 1 + a.len()).sum::<usize>();
    if needed > TOKEN_BINARY_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    bytes.extend_from_slice(&[VERSION, flags]);
    bytes.extend_from_slice(&token.id.0);
    bytes.extend_from_slice(&token.secret.0);
    bytes.extend_from_slice(&token.pin);
    bytes.extend_from_slice(&expires.to_be_bytes());
    push_text(&mut bytes, token.issuer.as_str());
    bytes.push(u8::try_from(token.addresses.len()).expect("at most 8 were let through"));
    for address in &token.addresses {
        push_text(&mut bytes, address);
    }
    let checksum = CRC32C.checksum(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_BYTES_MAX));
    text.push_str(PREFIX);
    BASE64URL_NOPAD.encode_append(&bytes, &mut text);
    Ok(text)
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).expect("its type holds at most 255 bytes"));
    bytes.extend_from_slice(text.as_bytes());
}

pub(super) fn parse(text: &str) -> Result<Token, TokenError> {
    let text = text.trim();
    if text.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::WrongPrefix)?;
    let decoded = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| TokenError::Damaged)?;
    let bytes = Zeroizing::new(decoded);
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
    if CRC32C.checksum(body) != u32::from_be_bytes(*checksum) {
        return Err(TokenError::Damaged);
    }
    match body.first() {
        Some(&VERSION) => parse_body(body),
        Some(&version) if version > VERSION => Err(TokenError::NewerVersion { version }),
        _ => Err(TokenError::Damaged),
    }
}

fn parse_body(body: &[u8]) -> Result<Token, TokenError> {
    let mut reader = Reader(body);
    let [_version, flags] = reader.array()?;
    if flags & !(FLAG_APPROVAL_REQUIRED | FLAG_DOMAIN_EXPECTED) != 0 {
        return Err(TokenError::Invalid("has flags this program does not know"));
    }
    let id = TokenId(reader.array()?);
    let secret = TokenSecret::new(reader.array()?);
    let pin = reader.array()?;
    let expires = Timestamp(u64::from(u32::from_be_bytes(reader.array()?)) * 1_000);
    let issuer = TrustDomain::parse(reader.text()?)
        .map_err(|_| TokenError::Invalid("names something that is not a trust domain"))?;
    let [count] = reader.array()?;
    let addresses =
        (0..count).map(|_| reader.text().map(str::to_owned)).collect::<Result<Vec<_>, TokenError>>()?;
    check_addresses(&addresses)?;
    if !reader.0.is_empty() {
        return Err(TokenError::Invalid("has bytes after its end"));
    }
    let approval_required = flags & FLAG_APPROVAL_REQUIRED != 0;
    let domain_expected = flags & FLAG_DOMAIN_EXPECTED != 0;
    Ok(Token { id, secret, pin, expires, issuer, addresses, approval_required, domain_expected })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(TokenError::Damaged)?;
        self.0 = rest;
        Ok(*first)
    }

    fn text(&mut self) -> Result<&'a str, TokenError> {
        let [length] = self.array()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length)).ok_or(TokenError::Damaged)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| TokenError::Invalid("holds text that is not UTF-8"))
    }
}
