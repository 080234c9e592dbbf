//! Which part of the configured range a gateway claims, so that several gateways share one host (B9).
//!
//! Only the order of preference is decided here; a claim is a socket bound to the block's guard address, and
//! whoever calls binds it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{MAX_PREFIX, VipError};

/// The address whose bound socket claims a block: its first. It never stands for a name.
#[must_use]
pub fn guard(block: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block.network()) | 1)
}

/// The blocks of `range` in the order to try them: the one held before, then from the lowest on. A range
/// that is smaller than a block is its only one.
///
/// # Errors
/// [`VipError::RangeTooSmall`].
pub fn block_candidates(
    range: Ipv4Net,
    prefix: u8,
    held_before: Option<Ipv4Net>,
) -> Result<impl Iterator<Item = Ipv4Net>, VipError> {
    let range = range.trunc();
    if range.prefix_len().max(prefix) > MAX_PREFIX {
        return Err(VipError::RangeTooSmall { range });
    }
    let prefix = prefix.max(range.prefix_len());
    let held = held_before.map(|block| block.trunc());
    let held = held.filter(|block| block.prefix_len() == prefix && range.contains(block));
    let blocks = range.subnets(prefix).expect("the prefix is no shorter than the range's");
    Ok(held.into_iter().chain(blocks.filter(move |block| Some(*block) != held)))
}
