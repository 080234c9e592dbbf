//! The control protocol of a running emulator or relay: one JSON line each way on a Unix socket.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::link::{Counts, Shape};
use crate::quantity::Span;

/// The longest line accepted.
const LINE: u64 = 64 * 1024;

/// What can be asked of a running emulator. Directions are named by cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// All links with their counts.
    Status,
    /// Sets one direction, but not whether it is up.
    Shape { from: String, to: String, shape: Shape },
    /// Cuts or mends one direction and leaves its shape.
    Cut { from: String, to: String, cut: bool },
    /// Gives a cluster's flows new source ports.
    Rebind { cluster: String },
    /// Does something later.
    At { after: Span, request: Box<Self> },
    /// Forgets what is to be done later.
    Forget,
    /// Forgets the packets captured so far.
    ClearCapture,
    /// Writes the packets captured to a file.
    WriteCapture { to: PathBuf },
    /// Ends the emulator.
    Stop,
}

/// One direction with its shape and its counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LinkStatus {
    /// The sending cluster.
    pub(crate) from: String,
    /// The receiving cluster.
    pub(crate) to: String,
    /// What happens to packets.
    pub(crate) shape: Shape,
    /// What became of them.
    pub(crate) counts: Counts,
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// The links, when the status was asked for.
    #[serde(default)]
    pub(crate) links: Vec<LinkStatus>,
}

/// Reads one request; the stream's timeout bounds it.
pub(crate) fn read_request(stream: &UnixStream) -> Result<Request> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE)).read_line(&mut line).context("the request did not arrive")?;
    serde_json::from_str(&line).context("the request is not understood")
}

/// Answers.
pub(crate) fn write_reply(mut stream: &UnixStream, reply: &Reply) -> Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

/// A client of one emulator.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    socket: Place,
}

/// Where a control socket is.
#[derive(Debug, Clone)]
enum Place {
    /// A file.
    File(PathBuf),
    /// A name that the kernel forgets with the socket, so that nothing is left behind in any case.
    Name(String),
}

impl Control {
    /// Nothing is opened before the first request.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: Place::File(socket.to_owned()) }
    }

    /// A socket without a file, and a client of it.
    pub(crate) fn without_file(name: &str) -> Result<(UnixListener, Self)> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        Ok((listener, Self { socket: Place::Name(name.to_owned()) }))
    }

    /// Asks, and waits at most five seconds.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply> {
        let stream = match &self.socket {
            Place::File(path) => UnixStream::connect(path),
            Place::Name(name) => {
                SocketAddr::from_abstract_name(name).and_then(|a| UnixStream::connect_addr(&a))
            }
        };
        let mut stream = stream.with_context(|| format!("no emulator answers on {:?}", self.socket))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).context("the emulator did not answer in 5 s")?;
        let reply: Reply =
            serde_json::from_str(&answer).context("the emulator's answer is not understood")?;
        match reply.problem {
            Some(problem) => bail!(problem),
            None => Ok(reply),
        }
    }

    /// The shape of one direction now.
    pub(crate) fn shape(&self, from: &str, to: &str) -> Result<Shape> {
        let links = self.ask(&Request::Status)?.links;
        let found = links.iter().find(|link| link.from == from && link.to == to);
        Ok(found.with_context(|| format!("there is no link from `{from}` to `{to}`"))?.shape)
    }
}
