//! A change of a shape, as it is typed and as it stands in scenarios: what is not named stays as it is.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Bursts, Shape};
use crate::quantity::{Rate, Share, Span};

/// What is to become otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Default, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Links")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Change {
    /// Delay, one way
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay: Option<Span>,
    /// Jitter on top of the delay
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jitter: Option<Span>,
    /// Random loss
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) loss: Option<Share>,
    /// Loss in bursts: chance to enter, chance to leave, loss inside
    #[arg(long, value_name = "ENTER,LEAVE,LOSS", value_parser = parse_bursts)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bursts: Option<Bursts>,
    /// Rate
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<Rate>,
    /// Queue in front of the rate
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<Span>,
    /// Share that overtakes
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reorder: Option<Share>,
    /// Share that comes twice
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duplicate: Option<Share>,
    /// Share with a bit turned
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) corrupt: Option<Share>,
    /// Largest packet that passes, in bytes
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<usize>,
}

fn parse_bursts(text: &str) -> Result<Bursts, String> {
    let parts: Vec<Share> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    match parts[..] {
        [enter, leave, loss] => Ok(Bursts { enter, leave, loss }),
        _ => Err("write three shares, as 1%,25%,100%".to_owned()),
    }
}

impl Change {
    /// A shape with the change put over it.
    pub(crate) fn over(&self, shape: Shape) -> Shape {
        Shape {
            up: shape.up,
            delay: self.delay.unwrap_or(shape.delay),
            jitter: self.jitter.unwrap_or(shape.jitter),
            loss: self.loss.unwrap_or(shape.loss),
            bursts: self.bursts.or(shape.bursts),
            rate: self.rate.or(shape.rate),
            queue: self.queue.unwrap_or(shape.queue),
            reorder: self.reorder.unwrap_or(shape.reorder),
            duplicate: self.duplicate.unwrap_or(shape.duplicate),
            corrupt: self.corrupt.unwrap_or(shape.corrupt),
            mtu: self.mtu.or(shape.mtu),
        }
    }
}
