//! State on disk: whole small files, each replaced atomically, checked when read, its predecessor kept.
//!
//! [`Persist`] is the seam: [`Folder`] in production, [`Memory`] in simulation. All of it blocks (call it
//! through `supervise::Tasks::blocking`), and knows nothing of what the files mean.

mod folder;
mod frame;
mod memory;
mod public;

use std::{fmt, io, path::PathBuf};

use aws_lc_rs::digest;

pub use folder::{Folder, FolderLock, STATE_VERSION};
pub use memory::Memory;
pub use public::{PublicFolder, read_named};

/// Named pieces of state. A path is relative, of plain components with `/` between them:
/// `peers/west.json`. Reserved are names that begin with `.`, end in `.1` or `.tmp`, and `version`,
/// `lock`, `cas.lock`, `shared.lock`.
pub trait Persist: Send + Sync + fmt::Debug {
    /// The bytes of `path`, None when it was never written or is removed.
    ///
    /// A damaged or missing file whose previous copy is whole gives that copy, and says so.
    ///
    /// # Errors
    /// [`PersistError::Corrupt`] when no copy is whole: never taken for absence. Else as the variants say.
    fn load(&self, path: &str) -> Result<Option<Loaded>, PersistError>;

    /// Replaces `path`; when it returns, the bytes are on disk.
    ///
    /// # Errors
    /// As the variants say; the old bytes are then still there.
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<Digest, PersistError>;

    /// Replaces `path` if it still holds what the caller has seen: `expected` is [`Loaded::digest`], or
    /// None for "it does not exist". Holds against other processes on the same folder too.
    ///
    /// # Errors
    /// As [`Persist::load`] and [`Persist::commit`]. Losing is no error.
    fn cas(&self, path: &str, expected: Option<Digest>, bytes: &[u8]) -> Result<Swap, PersistError>;

    /// What tells cheaply whether `path` was changed since it was looked at last, None when it does not exist.
    ///
    /// # Errors
    /// As the variants say.
    fn stamp(&self, path: &str) -> Result<Option<Stamp>, PersistError>;

    /// Keeps other processes from doing the same until the result is dropped, so that what is read may be
    /// decided on and written with nobody in between. Waits a little for its turn.
    ///
    /// # Errors
    /// [`PersistError::Locked`] when another process does not let go, else as the variants say.
    fn exclusive(&self) -> Result<Exclusive, PersistError>;

    /// Removes `path` and its previous copy; whether it existed.
    ///
    /// # Errors
    /// As the variants say.
    fn remove(&self, path: &str) -> Result<bool, PersistError>;

    /// The names of the files right in `folder` (`""` is the root), sorted; none when it does not exist.
    ///
    /// # Errors
    /// As the variants say.
    fn list(&self, folder: &str) -> Result<Vec<String>, PersistError>;
}

/// SHA-256 of a file's bytes: the version that compare-and-swap compares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut value = [0; 32];
        value.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(value)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Changes whenever a file does; of no meaning in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp([u64; 4]);

/// The right to change what processes share, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it lets others go on"]
pub struct Exclusive(#[expect(dead_code, reason = "held, never read")] Option<std::fs::File>);

/// What a path holds. Its bytes may be secret, so they are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Loaded {
    /// As they were committed.
    pub bytes: Vec<u8>,
    /// Of `bytes`, for [`Persist::cas`].
    pub digest: Digest,
    /// They are the previous copy, because the current one is damaged or gone: worth a warning, and the
    /// last change is lost.
    pub recovered_from_backup: bool,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, digest, recovered_from_backup } = self;
        write!(f, "Loaded({} bytes, {digest}, recovered {recovered_from_backup})", bytes.len())
    }
}

/// How a compare-and-swap went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost swap changed nothing"]
pub enum Swap {
    /// The new bytes are on disk, with this digest.
    Done(Digest),
    /// Somebody else was faster: this is what is there now, None for nothing. Load and decide again.
    Lost(Option<Digest>),
}

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The file or folder is there, but the daemon may not read it, or the disk fails: check its owner and
    /// mode (another user ran Tombolo on this state folder once), then the disk.
    #[error("{} cannot be read: {source}", path.display())]
    NotReadable {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file does not match its checksum. As an error: nor does its previous copy, so an operator must
    /// restore it or remove both. With `recovered`, the warning that goes with
    /// [`Loaded::recovered_from_backup`].
    #[error("{} is damaged{}", path.display(), recovery(*recovered))]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// Whether the previous copy was used.
        recovered: bool,
    },
    /// A later Tombolo wrote this state folder: run that one, or give this one a folder of its own.
    #[error("{} is of version {found}, and this program knows {supported} at most", path.display())]
    Newer {
        /// The state folder.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version known here.
        supported: u64,
    },
    /// Another process runs on this folder: stop it, or choose another `--state`.
    #[error("{} is in use{}", path.display(), holder.map_or_else(String::new, |pid| format!(" by process {pid}")))]
    Locked {
        /// The locked folder.
        path: PathBuf,
        /// The process that holds it, if it said so.
        holder: Option<u32>,
    },
    /// A name that [`Persist`] does not allow: a mistake of ours, never of the state folder.
    #[error("{path:?} is no path of a state file")]
    BadPath {
        /// As given.
        path: String,
    },
    /// A change did not reach the disk: it is full, read-only, over quota, or not ours.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried, as a verb.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
}

impl PersistError {
    /// The warning for `loaded`, when it came from the previous copy.
    #[must_use]
    pub fn warning(path: &str, loaded: &Loaded) -> Option<Self> {
        loaded.recovered_from_backup.then(|| Self::Corrupt { path: path.into(), recovered: true })
    }
}

fn recovery(recovered: bool) -> &'static str {
    if recovered { " or gone; its previous copy is used" } else { ", and so is its previous copy, if any" }
}

/// Names of this module's own files.
const RESERVED: [&str; 4] = ["version", "lock", "cas.lock", "shared.lock"];

/// Whether `name` may be one component of a path. Refuses `.`, `..`, absolute paths and hidden files.
fn plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Whether `name` may be a state file.
fn storable(name: &str) -> bool {
    plain(name) && !name.ends_with(".1") && !name.ends_with(".tmp") && !RESERVED.contains(&name)
}

/// Splits a file's path into folder and name.
fn split(path: &str) -> Result<(&str, &str), PersistError> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let fine = storable(name) && folder.is_empty() != path.contains('/');
    if !fine {
        return Err(PersistError::BadPath { path: path.to_owned() });
    }
    check_folder(folder)?;
    Ok((folder, name))
}

/// `""` is the root.
fn check_folder(folder: &str) -> Result<(), PersistError> {
    if folder.is_empty() || folder.split('/').all(plain) {
        return Ok(());
    }
    Err(PersistError::BadPath { path: folder.to_owned() })
}

#[cfg(test)]
mod tests;
