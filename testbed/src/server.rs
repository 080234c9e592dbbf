//! The test server behind the sample service: HTTP, echo and greeting on three ports, each answer naming
//! its cluster. It can misbehave at every Nth request, so that a client's counts have a known answer.

use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::quantity::Span;

/// Bytes of an echo frame: a number, then room for the start of the cluster's name.
pub(crate) const FRAME: usize = 24;
/// How a greeting ends.
pub(crate) const BANNER_END: &[u8] = b"\r\n";
/// What the id of a request follows in its head.
pub(crate) const ID_HEADER: &str = "X-Request: ";
/// A file of that many bytes that is to come back.
pub(crate) const FILE_PATH: &str = "/file/";
/// How often a file of defects is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The longest head of a request.
const HEAD: usize = 16 * 1024;
/// The largest bulk body.
const BULK: u64 = 1 << 40;

/// The byte of a bulk body at that offset.
pub(crate) const fn pattern(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The connection is closed without an answer.
    Drop,
    /// No answer ever comes; the connection stays open.
    Stall,
    /// Half the answer, then the end.
    Truncate,
    /// Half the answer, then a reset.
    Reset,
    /// The answer comes late.
    Slow(Span),
    /// Status 503 (HTTP), else as `Drop`.
    Error,
}

/// What goes wrong at every how-manieth request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Defect {
    /// What.
    pub(crate) what: What,
    /// At every Nth request.
    pub(crate) every: u64,
}

impl FromStr for Defect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a defect: write drop:100, stall:N, truncate:N, reset:N, error:N or slow:N:200ms"
            )
        };
        let mut parts = text.split(':');
        let (name, every) = (parts.next().unwrap_or(""), parts.next().ok_or_else(wrong)?);
        let every = every.parse().ok().filter(|every| *every > 0).ok_or_else(wrong)?;
        let what = match (name, parts.next()) {
            ("drop", None) => What::Drop,
            ("stall", None) => What::Stall,
            ("truncate", None) => What::Truncate,
            ("reset", None) => What::Reset,
            ("error", None) => What::Error,
            ("slow", Some(span)) => What::Slow(span.parse()?),
            _ => return Err(wrong()),
        };
        Ok(Self { what, every })
    }
}

impl Serialize for Defect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Defect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let every = self.every;
        match self.what {
            What::Drop => write!(f, "drop:{every}"),
            What::Stall => write!(f, "stall:{every}"),
            What::Truncate => write!(f, "truncate:{every}"),
            What::Reset => write!(f, "reset:{every}"),
            What::Error => write!(f, "error:{every}"),
            What::Slow(span) => write!(f, "slow:{every}:{span}"),
        }
    }
}

/// What the server answers, and how badly.
#[derive(Debug)]
pub(crate) struct Manners {
    /// The cluster named in answers.
    pub(crate) cluster: String,
    /// What goes wrong.
    defects: Mutex<Vec<Defect>>,
    requests: AtomicU64,
    /// Where the ids of requests go, one a line.
    ids: Option<File>,
}

impl Manners {
    /// Nothing served yet.
    #[cfg(test)]
    pub(crate) fn new(cluster: String, defects: Vec<Defect>) -> Arc<Self> {
        Self::recording(cluster, defects, None)
    }

    /// The same, with every request's id written down before it is answered.
    pub(crate) fn recording(cluster: String, defects: Vec<Defect>, ids: Option<File>) -> Arc<Self> {
        Arc::new(Self { cluster, defects: Mutex::new(defects), requests: AtomicU64::new(0), ids })
    }

    /// From now on other things go wrong, counted from the next request.
    pub(crate) fn change(&self, defects: Vec<Defect>) {
        *self.defects.lock().unwrap_or_else(PoisonError::into_inner) = defects;
        self.requests.store(0, Ordering::Relaxed);
    }

    /// Writes the id down, in one piece: also what is killed in the next instant has been delivered.
    fn record(&self, head: &str) {
        let id = head.lines().find_map(|line| line.strip_prefix(ID_HEADER));
        if let (Some(mut file), Some(id)) = (self.ids.as_ref(), id) {
            // A full disk shows as ids that are missing.
            let _ = file.write_all(format!("{}\n", id.trim()).as_bytes());
        }
    }

    /// Requests seen, of all kinds.
    #[cfg(test)]
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn verdict(&self) -> Option<What> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let defects = self.defects.lock().unwrap_or_else(PoisonError::into_inner);
        defects.iter().find(|defect| number.is_multiple_of(defect.every)).map(|defect| defect.what)
    }
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// HTTP/1.1.
    Http,
    /// Frames come back.
    Echo,
    /// The server speaks first.
    Greet,
}

/// Listens; the address tells the port that was given.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("the test server cannot listen on {address}"))
}

/// The defects that a text names, one a line.
pub(crate) fn defects(text: &str) -> Result<Vec<Defect>, String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::parse).collect()
}

/// Has the manners follow a file, for as long as it runs; one that is not understood changes nothing.
pub(crate) async fn follow(file: &Path, manners: &Manners) {
    let mut known = String::new();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text != known
            && let Ok(defects) = defects(&text)
        {
            manners.change(defects);
            known = text;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, speech: Speech, manners: Arc<Manners>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let manners = Arc::clone(&manners);
        tokio::spawn(async move {
            // A client that went away is the client's business.
            let _ = talk(stream, speech, &manners).await;
        });
    }
}

async fn talk(mut stream: TcpStream, speech: Speech, manners: &Manners) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match speech {
        Speech::Http => http(&mut stream, manners).await,
        Speech::Echo => echo(&mut stream, manners).await,
        Speech::Greet => {
            let mut banner = format!("220 {}", manners.cluster).into_bytes();
            banner.extend_from_slice(BANNER_END);
            respond(&mut stream, &banner, manners.verdict()).await.map(|_| ())
        }
    }
}

/// Answers as the verdict says; false when the connection is to end.
async fn respond(stream: &mut TcpStream, answer: &[u8], verdict: Option<What>) -> io::Result<bool> {
    match verdict {
        None => {}
        Some(What::Drop | What::Error) => return Ok(false),
        Some(What::Stall) => {
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            return Ok(false);
        }
        Some(What::Truncate) => {
            stream.write_all(&answer[..answer.len() / 2]).await?;
            return Ok(false);
        }
        Some(What::Reset) => {
            stream.write_all(&answer[..answer.len() / 2]).await?;
            stream.set_zero_linger()?;
            return Ok(false);
        }
        Some(What::Slow(span)) => tokio::time::sleep(span.0).await,
    }
    stream.write_all(answer).await?;
    Ok(true)
}

async fn http(stream: &mut TcpStream, manners: &Manners) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if buffer.len() > HEAD || stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let request = String::from_utf8_lossy(&buffer[..head]).into_owned();
        buffer.drain(..head);
        let path = request.split(' ').nth(1).unwrap_or("/");
        manners.record(&request);
        let verdict = manners.verdict();
        let sized = |prefix: &str| path.strip_prefix(prefix).and_then(|size| size.parse::<u64>().ok());
        if let Some(size) = sized(FILE_PATH) {
            return file(stream, manners, (size.min(BULK), buffer), verdict).await;
        }
        let keep = match (sized("/bulk/"), verdict) {
            (_, Some(What::Error)) => {
                stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await?;
                true
            }
            (Some(size), _) => bulk(stream, manners, size.min(BULK), verdict).await?,
            (None, _) => {
                let mut answer = head_of(manners, manners.cluster.len() as u64);
                answer.push_str(&manners.cluster);
                respond(stream, answer.as_bytes(), verdict).await?
            }
        };
        if verdict == Some(What::Reset) {
            // Dropped, it is reset; a shutdown would end it in peace.
            return Ok(());
        }
        if !keep || request.to_ascii_lowercase().contains("connection: close") {
            return stream.shutdown().await;
        }
    }
}

fn head_of(manners: &Manners, length: u64) -> String {
    format!("HTTP/1.1 200 OK\r\nX-Cluster: {}\r\nContent-Length: {length}\r\n\r\n", manners.cluster)
}

async fn bulk(
    stream: &mut TcpStream,
    manners: &Manners,
    size: u64,
    verdict: Option<What>,
) -> io::Result<bool> {
    let sent = match verdict {
        Some(What::Truncate | What::Reset) => size / 2,
        _ => size,
    };
    let head_verdict = verdict.filter(|what| !matches!(what, What::Truncate | What::Reset));
    if !respond(stream, head_of(manners, size).as_bytes(), head_verdict).await? {
        return Ok(false);
    }
    let mut offset = 0;
    while offset < sent {
        let chunk: Vec<u8> = (offset..sent.min(offset + 64 * 1024)).map(pattern).collect();
        stream.write_all(&chunk).await?;
        offset += chunk.len() as u64;
    }
    if verdict == Some(What::Reset) {
        stream.set_zero_linger()?;
    }
    Ok(sent == size)
}

/// Sends back what comes, while it comes. The first of it came with the head.
async fn file(
    stream: &mut TcpStream,
    manners: &Manners,
    (size, mut piece): (u64, Vec<u8>),
    verdict: Option<What>,
) -> io::Result<()> {
    let cut = matches!(verdict, Some(What::Truncate | What::Reset));
    let (mut left, mut back) = (size, if cut { size / 2 } else { size });
    if !respond(stream, head_of(manners, size).as_bytes(), verdict.filter(|_| !cut)).await? {
        return Ok(());
    }
    loop {
        let part = usize::try_from(back).unwrap_or(usize::MAX).min(piece.len());
        stream.write_all(&piece[..part]).await?;
        back -= part as u64;
        left = left.saturating_sub(piece.len() as u64);
        if back == 0 && verdict == Some(What::Reset) {
            return stream.set_zero_linger();
        }
        if left == 0 {
            return stream.shutdown().await;
        }
        piece.clear();
        piece.reserve(64 * 1024);
        if stream.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
    }
}

async fn echo(stream: &mut TcpStream, manners: &Manners) -> io::Result<()> {
    loop {
        let mut frame = [0; FRAME];
        if stream.read_exact(&mut frame).await.is_err() {
            return Ok(());
        }
        for (room, byte) in frame[8..].iter_mut().zip(manners.cluster.as_bytes()) {
            *room = *byte;
        }
        if !respond(stream, &frame, manners.verdict()).await? {
            return Ok(());
        }
    }
}
