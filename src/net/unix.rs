//! Unix sockets, for the admin API: only the user who runs the daemon may connect.
//!
//! A socket file that nobody listens behind (its daemon was killed) is cleared away; one that somebody
//! answers on is `AddrInUse`; anything else in its place is left alone.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, PermissionsExt as _},
    },
    path::Path,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use crate::model::limits::{TCP_BACKLOG, UNIX_PATH_BYTES_MAX};

/// Listens on `path` with mode 0600, on the calling runtime.
///
/// # Errors
/// `InvalidInput` when the path is too long, `AddrInUse` when somebody answers there or the path is no
/// socket, else the system's.
pub fn unix_listen(path: &Path) -> io::Result<UnixListener> {
    check_length(path)?;
    clear_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // On Linux the file is born with the socket's own mode, so it is never open to others; where the
    // system does not know that, the mode follows a moment later.
    let _ = nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::from_bits_truncate(0o600));
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(TCP_BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Connects to `path`.
///
/// # Errors
/// `InvalidInput` when the path is too long, `NotFound` or `ConnectionRefused` when no daemon is there,
/// `PermissionDenied` when it is another user's.
pub async fn unix_connect(path: &Path) -> io::Result<UnixStream> {
    check_length(path)?;
    UnixStream::connect(path).await
}

fn check_length(path: &Path) -> io::Result<()> {
    let len = path.as_os_str().as_bytes().len();
    if len <= UNIX_PATH_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the socket path {} has {len} bytes and the system allows {UNIX_PATH_BYTES_MAX}: \
         choose a shorter state folder",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn clear_stale(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(in_use(path, "is in the way and is no socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog must not make us wait: it too is somebody.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(in_use(path, "is answered by a running daemon")),
    }
}

fn in_use(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("{} {what}", path.display()))
}
