//! State in memory, for simulation: clones share it, so it outlives the daemon that a simulation crashes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Digest, Exclusive, Loaded, Persist, PersistError, Stamp, Swap, check_folder, split};

type Files = BTreeMap<String, Vec<u8>>;

/// [`Persist`] without a disk. Writes are durable the moment they return.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Files>>);

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Persist for Memory {
    fn load(&self, path: &str) -> Result<Option<Loaded>, PersistError> {
        split(path)?;
        let loaded = |bytes: &Vec<u8>| Loaded {
            bytes: bytes.clone(),
            digest: Digest::of(bytes),
            recovered_from_backup: false,
        };
        Ok(self.files().get(path).map(loaded))
    }

    fn commit(&self, path: &str, bytes: &[u8]) -> Result<Digest, PersistError> {
        split(path)?;
        self.files().insert(path.to_owned(), bytes.to_vec());
        Ok(Digest::of(bytes))
    }

    fn cas(&self, path: &str, expected: Option<Digest>, bytes: &[u8]) -> Result<Swap, PersistError> {
        split(path)?;
        let mut files = self.files();
        let found = files.get(path).map(|bytes| Digest::of(bytes));
        if found != expected {
            return Ok(Swap::Lost(found));
        }
        files.insert(path.to_owned(), bytes.to_vec());
        Ok(Swap::Done(Digest::of(bytes)))
    }

    fn stamp(&self, path: &str) -> Result<Option<Stamp>, PersistError> {
        split(path)?;
        let stamp = |bytes: &Vec<u8>| {
            let Digest(digest) = Digest::of(bytes);
            let (parts, _) = digest.as_chunks();
            Stamp(std::array::from_fn(|at| u64::from_le_bytes(parts[at])))
        };
        Ok(self.files().get(path).map(stamp))
    }

    /// Whoever shares this runs in one thread, and never waits while it holds it.
    fn exclusive(&self) -> Result<Exclusive, PersistError> {
        Ok(Exclusive(None))
    }

    fn remove(&self, path: &str) -> Result<bool, PersistError> {
        split(path)?;
        Ok(self.files().remove(path).is_some())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, PersistError> {
        check_folder(folder)?;
        let inside = |path: &String| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            (parent == folder).then(|| name.to_owned())
        };
        let mut names: Vec<String> = self.files().keys().filter_map(inside).collect();
        names.sort();
        Ok(names)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} files)", self.files().len())
    }
}
