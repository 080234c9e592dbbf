//! Files for others to read: what is public, written atomically and without a frame, in a folder of their own.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// A folder of public files. The folder is made when it is not there.
#[derive(Debug, Clone)]
pub struct PublicFolder(PathBuf);

impl PublicFolder {
    /// At this path.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes a file hold these bytes; one that does is left as it is.
    ///
    /// # Errors
    /// What the system says.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(name);
        if fs::read(&path).is_ok_and(|held| held == bytes) {
            return Ok(());
        }
        fs::create_dir_all(&self.0)?;
        let fresh = self.0.join(format!(".{name}.tmp"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    }

    /// Takes a file away; one that is not there is fine.
    ///
    /// # Errors
    /// What the system says.
    pub fn withdraw(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Reads a file that an operator named.
///
/// # Errors
/// What the system says.
pub fn read_named(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}
