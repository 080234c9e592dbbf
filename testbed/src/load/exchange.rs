//! One request and its answer on one connection, checked to the last byte. Written by hand over TCP, so
//! that no client library retries, pools or forgives anything.

use std::{fmt, io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Kind, Plan, file};
use crate::server::{BANNER_END, FRAME, ID_HEADER, pattern};

/// The longest head of an answer.
const HEAD: usize = 16 * 1024;

/// A whole and correct answer.
pub(super) struct Answer {
    /// The cluster that gave it.
    pub(super) cluster: String,
    /// Its size.
    pub(super) bytes: u64,
}

/// Why a try did not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection was refused.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer began.
    Closed,
    /// The connection ended inside the answer.
    Truncated,
    /// The answer was not what the server sends.
    Wrong,
    /// An HTTP status other than 200.
    Status(u16),
    /// Another error of the operating system.
    Other(io::ErrorKind),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Closed => f.write_str("closed"),
            Self::Truncated => f.write_str("truncated"),
            Self::Wrong => f.write_str("wrong"),
            Self::Status(code) => write!(f, "status {code}"),
            Self::Other(kind) => write!(f, "{kind}"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            kind => Self::Other(kind),
        }
    }
}

/// Opens a connection.
pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream, Trouble> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends the request and reads the whole answer.
///
/// Each try has an id of its own, so that a server that counts ids tells what was delivered twice on the way from
/// what the client sent twice.
pub(super) async fn exchange(
    plan: &Plan,
    stream: &mut TcpStream,
    index: u64,
    attempt: u8,
) -> Result<Answer, Trouble> {
    let id = format!("{:08x}.{index}.{attempt}", plan.nonce);
    match plan.kind {
        Kind::HttpKeepalive => http(stream, "/", ("keep-alive", &id), None).await,
        Kind::HttpPerConnection => http(stream, "/", ("close", &id), None).await,
        Kind::Bulk => {
            let path = format!("/bulk/{}", plan.bulk_bytes);
            http(stream, &path, ("close", &id), Some(plan.bulk_bytes)).await
        }
        Kind::File => file::there_and_back(stream, (plan.bulk_bytes, index), &id).await,
        Kind::LongTcp => echo(stream, index).await,
        Kind::ServerFirst => greet(stream).await,
    }
}

async fn read_more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<(), Trouble> {
    let begun = !buffer.is_empty();
    match stream.read_buf(buffer).await? {
        0 if begun => Err(Trouble::Truncated),
        0 => Err(Trouble::Closed),
        _ => Ok(()),
    }
}

async fn http(
    stream: &mut TcpStream,
    path: &str,
    (connection, id): (&str, &str),
    bulk: Option<u64>,
) -> Result<Answer, Trouble> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: testbed\r\nConnection: {connection}\r\n{ID_HEADER}{id}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let (length, cluster, mut body) = read_head(stream).await?;
    if let Some(expected) = bulk {
        if length != expected {
            return Err(Trouble::Wrong);
        }
        drain_bulk(stream, body, length).await?;
    } else {
        while (body.len() as u64) < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Err(Trouble::Truncated);
            }
        }
        if body != cluster.as_bytes() {
            return Err(Trouble::Wrong);
        }
    }
    Ok(Answer { cluster, bytes: length })
}

/// The length of the body, the cluster, and what came of the body with the head.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<(u64, String, Vec<u8>), Trouble> {
    let mut buffer = Vec::with_capacity(1024);
    let head = loop {
        read_more(stream, &mut buffer).await?;
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if buffer.len() > HEAD {
            return Err(Trouble::Wrong);
        }
    };
    let (length, cluster) = parse_head(&buffer[..head])?;
    Ok((length, cluster, buffer.split_off(head)))
}

async fn drain_bulk(stream: &mut TcpStream, first: Vec<u8>, length: u64) -> Result<(), Trouble> {
    let (mut chunk, mut seen) = (first, 0u64);
    loop {
        if chunk.iter().enumerate().any(|(at, byte)| *byte != pattern(seen + at as u64)) {
            return Err(Trouble::Wrong);
        }
        seen += chunk.len() as u64;
        if seen >= length {
            return if seen == length { Ok(()) } else { Err(Trouble::Wrong) };
        }
        chunk.clear();
        chunk.reserve(64 * 1024);
        if stream.read_buf(&mut chunk).await? == 0 {
            return Err(Trouble::Truncated);
        }
    }
}

fn parse_head(head: &[u8]) -> Result<(u64, String), Trouble> {
    let head = std::str::from_utf8(head).map_err(|_| Trouble::Wrong)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(Trouble::Wrong)?;
    let code = status.get(..3).and_then(|code| code.parse().ok()).ok_or(Trouble::Wrong)?;
    if code != 200 {
        return Err(Trouble::Status(code));
    }
    let (mut length, mut cluster) = (None, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("x-cluster") {
            cluster = Some(value.trim().to_owned());
        }
    }
    length.zip(cluster).ok_or(Trouble::Wrong)
}

/// Sends a frame and reads it back.
pub(super) async fn echo(stream: &mut TcpStream, index: u64) -> Result<Answer, Trouble> {
    let mut frame = [0; FRAME];
    frame[..8].copy_from_slice(&index.to_be_bytes());
    stream.write_all(&frame).await?;
    let mut answer = Vec::with_capacity(FRAME);
    while answer.len() < FRAME {
        read_more(stream, &mut answer).await?;
    }
    if answer.len() != FRAME || answer[..8] != frame[..8] {
        return Err(Trouble::Wrong);
    }
    let name = String::from_utf8_lossy(&answer[8..]);
    Ok(Answer { cluster: name.trim_end_matches('\0').to_owned(), bytes: FRAME as u64 })
}

async fn greet(stream: &mut TcpStream) -> Result<Answer, Trouble> {
    let mut banner = Vec::new();
    while !banner.ends_with(BANNER_END) {
        read_more(stream, &mut banner).await?;
        if banner.len() > HEAD {
            return Err(Trouble::Wrong);
        }
    }
    let text = String::from_utf8_lossy(&banner);
    let cluster = text.strip_prefix("220 ").ok_or(Trouble::Wrong)?.trim_end().to_owned();
    Ok(Answer { cluster, bytes: banner.len() as u64 })
}
