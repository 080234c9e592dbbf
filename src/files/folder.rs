//! State in a folder of the file system: atomic replacement, one kept predecessor, locks between processes.
//!
//! A change is: write `NAME.tmp`, fsync, link the old file to `NAME.1`, rename over `NAME`, fsync the
//! folder. A crash at any point leaves the old bytes or the new ones, never a mixture and never nothing.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    Digest, Exclusive, Loaded, Persist, PersistError, Stamp, Swap, check_folder, frame, split, storable,
};
use crate::model::limits::STATE_FILE_BYTES_MAX;

/// The layout of state folders that this program writes, and the newest that it reads.
pub const STATE_VERSION: u64 = 1;

/// A state folder. Cloning is cheap enough; clones are the same folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

/// Holds a folder for this process; dropping it, or the end of the process, lets go.
#[derive(Debug)]
#[must_use = "dropping the lock lets go of the folder"]
pub struct FolderLock {
    _file: File,
}

/// One file as found.
enum Found {
    Missing,
    Damaged,
    Whole(Vec<u8>, Digest),
}

impl Folder {
    /// Opens the state folder at `root`, and makes it, mode 0700, where it is missing.
    ///
    /// A folder that was empty or ours gets that mode too; a foreign one with files in it keeps its own.
    ///
    /// # Errors
    /// [`PersistError::Newer`], [`PersistError::Corrupt`] when its version is not a number,
    /// [`PersistError::NotReadable`], [`PersistError::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, PersistError> {
        let folder = Self { root: root.into() };
        let root = &folder.root;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                unreadable(root)(io::Error::new(io::ErrorKind::NotADirectory, "a file is in its place"))
            }
            _ => failed("create", root)(error),
        })?;
        let version = root.join("version");
        let found = match fs::read(&version) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(PersistError::NotReadable { path: version, source }),
        };
        let empty = fs::read_dir(root).map_err(unreadable(root))?.next().is_none();
        if found.is_some() || empty {
            tighten(root)?;
        }
        match found {
            Some(text) => check_version(root, &version, &text)?,
            None => {
                let temporary = write_temporary(&version, &[format!("{STATE_VERSION}\n").as_bytes()])?;
                replace(&temporary, &version)?;
                sync_folder(root)?;
            }
        }
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes `folder` (`""` is the root) for this process, by flock on its file `lock`.
    ///
    /// # Errors
    /// [`PersistError::Locked`] at once when another process, or another lock of this one, has it.
    pub fn lock(&self, folder: &str) -> Result<FolderLock, PersistError> {
        let folder = self.make_folder(folder)?;
        let path = folder.join("lock");
        let mut file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only for the message: its holder may be just about to write it.
                let _ = file.take(20).read_to_string(&mut text);
                return Err(PersistError::Locked { path: folder, holder: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed("write", &path))?;
        Ok(FolderLock { _file: file })
    }

    fn locate(&self, path: &str) -> Result<PathBuf, PersistError> {
        let (folder, name) = split(path)?;
        Ok(self.root.join(folder).join(name))
    }

    /// The folder's path; it and those above it are made where missing.
    fn make_folder(&self, folder: &str) -> Result<PathBuf, PersistError> {
        check_folder(folder)?;
        let mut path = self.root.clone();
        for name in folder.split('/').filter(|name| !name.is_empty()) {
            let parent = path.clone();
            path.push(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => sync_folder(&parent)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed("create", &path)(source)),
            }
        }
        Ok(path)
    }

    /// Makes the folder of `path` and keeps others from changing what is in it.
    fn begin(&self, path: &str) -> Result<Change, PersistError> {
        let (folder, name) = split(path)?;
        let folder = self.make_folder(folder)?;
        let _lock = lock_changes(&folder)?;
        Ok(Change { file: folder.join(name), folder, _lock })
    }
}

/// A file that only we may change for as long as this lives.
struct Change {
    folder: PathBuf,
    file: PathBuf,
    _lock: File,
}

impl Change {
    fn write(&self, bytes: &[u8]) -> Result<Digest, PersistError> {
        let digest = Digest::of(bytes);
        let header = frame::header(digest, bytes);
        if (header.len() + bytes.len()) as u64 > STATE_FILE_BYTES_MAX {
            return Err(failed("write", &self.file)(io::ErrorKind::FileTooLarge.into()));
        }
        let current = read(&self.file)?;
        if matches!(&current, Found::Whole(_, found) if *found == digest) {
            // Whoever wrote it may have been killed before this.
            sync_folder(&self.folder)?;
            return Ok(digest);
        }
        let temporary = write_temporary(&self.file, &[header.as_bytes(), bytes])?;
        // A damaged file must not push a whole predecessor out.
        if matches!(current, Found::Whole(..)) {
            keep_previous(&self.file)?;
        }
        replace(&temporary, &self.file)?;
        sync_folder(&self.folder)?;
        Ok(digest)
    }
}

impl Persist for Folder {
    fn load(&self, path: &str) -> Result<Option<Loaded>, PersistError> {
        load(&self.locate(path)?)
    }

    fn commit(&self, path: &str, bytes: &[u8]) -> Result<Digest, PersistError> {
        self.begin(path)?.write(bytes)
    }

    fn cas(&self, path: &str, expected: Option<Digest>, bytes: &[u8]) -> Result<Swap, PersistError> {
        let change = self.begin(path)?;
        let found = load(&change.file)?.map(|loaded| loaded.digest);
        if found != expected {
            return Ok(Swap::Lost(found));
        }
        change.write(bytes).map(Swap::Done)
    }

    fn stamp(&self, path: &str) -> Result<Option<Stamp>, PersistError> {
        let file = self.locate(path)?;
        match fs::metadata(&file) {
            // Each change is a new file under the old name.
            Ok(found) => {
                let changed = (found.mtime().cast_unsigned(), found.mtime_nsec().cast_unsigned());
                Ok(Some(Stamp([found.ino(), found.len(), changed.0, changed.1])))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PersistError::NotReadable { path: file, source }),
        }
    }

    fn exclusive(&self) -> Result<Exclusive, PersistError> {
        const TRIES: u32 = 400;
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
        let path = self.root.join("shared.lock");
        let file = open_lock(&path)?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Exclusive(Some(file))),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
            }
        }
        Err(PersistError::Locked { path: self.root.clone(), holder: None })
    }

    fn remove(&self, path: &str) -> Result<bool, PersistError> {
        let file = self.locate(path)?;
        let folder = file.parent().unwrap_or(&self.root);
        if !folder.is_dir() {
            return Ok(false);
        }
        let _lock = lock_changes(folder)?;
        // The predecessor first: left alone after a crash, it would come back as the file.
        let previous = remove_if_there(&suffixed(&file, ".1"))?;
        let current = remove_if_there(&file)?;
        remove_if_there(&suffixed(&file, ".tmp"))?;
        sync_folder(folder)?;
        Ok(previous || current)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, PersistError> {
        check_folder(folder)?;
        let path = self.root.join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(PersistError::NotReadable { path, source }),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(unreadable(&path))?;
            let regular = entry.file_type().map_err(unreadable(&path))?.is_file();
            let name = entry.file_name().into_string().unwrap_or_default();
            // Where only the predecessor is left, load gives it: so it is listed too.
            let name = name.strip_suffix(".1").unwrap_or(&name);
            if regular && storable(name) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

fn load(file: &Path) -> Result<Option<Loaded>, PersistError> {
    let current = read(file)?;
    if let Found::Whole(bytes, digest) = current {
        return Ok(Some(Loaded { bytes, digest, recovered_from_backup: false }));
    }
    match (current, read(&suffixed(file, ".1"))?) {
        (_, Found::Whole(bytes, digest)) => Ok(Some(Loaded { bytes, digest, recovered_from_backup: true })),
        (Found::Missing, Found::Missing) => Ok(None),
        _ => Err(PersistError::Corrupt { path: file.to_owned(), recovered: false }),
    }
}

fn read(path: &Path) -> Result<Found, PersistError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(source) => return Err(PersistError::NotReadable { path: path.to_owned(), source }),
    };
    let mut bytes = Vec::new();
    file.take(STATE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable(path))?;
    if bytes.len() as u64 > STATE_FILE_BYTES_MAX {
        return Ok(Found::Damaged);
    }
    Ok(frame::decode(bytes).map_or(Found::Damaged, |(body, digest)| Found::Whole(body, digest)))
}

/// Writes `parts` beside `file`, down to the disk. What a crash left under that name is overwritten.
fn write_temporary(file: &Path, parts: &[&[u8]]) -> Result<PathBuf, PersistError> {
    let temporary = suffixed(file, ".tmp");
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()
    };
    write().map_err(failed("write", &temporary))?;
    Ok(temporary)
}

/// Atomic; the caller syncs the folder after.
fn replace(temporary: &Path, file: &Path) -> Result<(), PersistError> {
    fs::rename(temporary, file).map_err(failed("replace", file))
}

/// Makes the current file the predecessor, without a moment in which it is missing.
fn keep_previous(file: &Path) -> Result<(), PersistError> {
    let (previous, temporary) = (suffixed(file, ".1"), suffixed(file, ".1.tmp"));
    remove_if_there(&temporary)?;
    match fs::hard_link(file, &temporary) {
        Ok(()) => fs::rename(&temporary, &previous),
        // No hard links here: then the file is missing until it is replaced, and load takes its predecessor.
        Err(_) => fs::rename(file, &previous),
    }
    .map_err(failed("keep the previous copy of", file))
}

/// Keeps other threads and processes from changing files in `folder` until dropped.
fn lock_changes(folder: &Path) -> Result<File, PersistError> {
    let path = folder.join("cas.lock");
    let file = open_lock(&path)?;
    file.lock().map_err(failed("lock", &path))?;
    Ok(file)
}

/// Lock files are never removed: a lock on a removed file holds nobody off.
fn open_lock(path: &Path) -> Result<File, PersistError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(failed("open", path))
}

fn check_version(root: &Path, file: &Path, text: &[u8]) -> Result<(), PersistError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<u64>().ok());
    match number {
        Some(found) if found > STATE_VERSION => {
            Err(PersistError::Newer { path: root.to_owned(), found, supported: STATE_VERSION })
        }
        Some(1..) => Ok(()),
        _ => Err(PersistError::Corrupt { path: file.to_owned(), recovered: false }),
    }
}

/// Takes group and others off a folder.
fn tighten(folder: &Path) -> Result<(), PersistError> {
    let mode = fs::metadata(folder).map_err(unreadable(folder))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed("protect", folder))
}

fn remove_if_there(path: &Path) -> Result<bool, PersistError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(failed("remove", path)(source)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), PersistError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PersistError + use<> {
    let path = path.to_owned();
    move |source| PersistError::Io { path, doing, source }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> PersistError + use<> {
    let path = path.to_owned();
    move |source| PersistError::NotReadable { path, source }
}
