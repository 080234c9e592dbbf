//! The demo's temporary folder, gone when the demo is.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::failed;
use crate::model::code::Problem;

/// A folder of this run, readable by this user only, removed when dropped.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Creates it below the system's temporary folder.
    pub(super) fn create() -> Result<Self, Problem> {
        let path = std::env::temp_dir().join(format!("tombolo-demo-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| failed(format!("the folder {} cannot be created: {error}", path.display())))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which clears this place by itself.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
