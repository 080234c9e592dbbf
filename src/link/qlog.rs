//! Records of what QUIC did on each connection, in qlog's JSON-SEQ (draft-ietf-quic-qlog), for people who look
//! into one that misbehaves. Names packets, times and windows, never payload. Off unless asked for: each packet
//! then costs a line. Not a log of what the gateway does.

use std::{
    fs::{DirBuilder, File},
    io::{self, BufWriter, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use quinn::{QlogConfig, QlogStream};

use crate::{clock::Clock, model::limits};

/// A folder that takes a file for each connection.
#[derive(Debug)]
pub struct Qlog {
    folder: PathBuf,
    files: AtomicUsize,
}

impl Qlog {
    /// Records go to `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn into_folder(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned(), files: AtomicUsize::new(0) })
    }

    /// A record for one more connection; none when there are enough, or the file cannot be made.
    pub(super) fn record(&self, way: &str, address: SocketAddr, clock: &Clock) -> Option<QlogStream> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        if number >= limits::QLOG_FILES_MAX {
            return None;
        }
        let title = format!("{}-{number}-{way}-{address}", clock.wall().0).replace([':', '[', ']'], "_");
        let path = self.folder.join(format!("{title}.sqlog"));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = file
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "no qlog can be written"))
            .ok()?;
        let mut config = QlogConfig::default();
        let writer = Bounded { file: BufWriter::new(file), left: limits::QLOG_FILE_BYTES_MAX };
        config.writer(Box::new(writer)).title(Some(title)).start_time(clock.now());
        config.into_stream()
    }
}

/// A file that takes no more than so much; what comes later is left out.
struct Bounded {
    file: BufWriter<File>,
    left: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => {
                self.file.write_all(bytes)?;
                self.left = left;
            }
            // Never half a line after a whole one.
            None => self.left = 0,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // At its own pace: quinn asks after every line.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_what_fits_and_nothing_after() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("record");
        let file = File::options().write(true).create_new(true).open(&path).expect("made");
        let mut bounded = Bounded { file: BufWriter::new(file), left: 10 };
        for line in ["12345\n", "67890\n", "1\n"] {
            assert_eq!(bounded.write(line.as_bytes()).expect("taken"), line.len());
        }
        drop(bounded);
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "12345\n");
    }

    #[test]
    fn connections_beyond_the_limit_are_not_recorded() {
        let folder = tempfile::tempdir().expect("a folder");
        let qlog = Qlog::into_folder(&folder.path().join("qlog")).expect("made");
        let address = "[::1]:7443".parse().expect("an address");
        assert!(qlog.record("to", address, &Clock::system()).is_some());
        qlog.files.store(limits::QLOG_FILES_MAX, Ordering::Relaxed);
        assert!(qlog.record("to", address, &Clock::system()).is_none());
        let files = std::fs::read_dir(folder.path().join("qlog")).expect("listed").count();
        assert_eq!(files, 1);
    }
}
