//! `testbed down`: takes away what the recorded run made, and nothing else; also after kill -9 of `up`.

use std::path::Path;

use anyhow::Result;

use crate::{
    ground::ground,
    process::marked,
    standing::{Lock, Standing},
};

/// Takes down what stands in a folder.
pub(crate) fn down(folder: &Path) -> Result<Standing> {
    let standing = Standing::find(folder)?;
    let _lock = Lock::take(folder)?;
    take_down(&standing)?;
    Ok(standing)
}

/// Kills what was recorded, then what carries the run's mark, then removes namespaces and files.
pub(crate) fn take_down(standing: &Standing) -> Result<()> {
    for member in &standing.members {
        if let Some(identity) = member.identity {
            identity.kill()?;
        }
    }
    // Started, but killed before the record was written; a few rounds, for what these start in turn.
    for _ in 0..3 {
        for identity in marked(&standing.run) {
            identity.kill()?;
        }
    }
    ground(standing.backend).remove(standing)?;
    standing.erase()
}
