//! Talks to a running gateway: HTTP/1.1 through the Unix socket in its state folder, always with a deadline.
//!
//! It finds the socket, sends and reads; what the answers mean is for the verbs.

use std::{
    future::Future,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};

use super::{args::SharedArgs, output::not_understood};
use crate::{
    admin::api::Refusal,
    model::code::{Code, Problem},
    net::unix_connect,
};

/// Time for one answer unless told otherwise.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one answer; a status of a thousand peers is below one MiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one line of a streamed answer.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A gateway's admin API.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// The state folder that is meant: the one given, or the default of the reference.
#[must_use]
pub fn state_folder(given: Option<&Path>) -> PathBuf {
    if let Some(given) = given {
        return given.to_owned();
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/tombolo");
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("tombolo")
}

impl Client {
    /// The gateway behind this socket.
    pub(crate) fn at(socket: PathBuf, timeout: Duration) -> Self {
        Self { socket, timeout }
    }

    /// The gateway the flags mean: that of `--socket`, or the only live one below the state folder.
    pub(crate) async fn find(shared: &SharedArgs, default_timeout: Duration) -> Result<Self, Problem> {
        let timeout = shared.timeout.unwrap_or(default_timeout);
        if let Some(socket) = &shared.socket {
            return Ok(Self::at(socket.clone(), timeout));
        }
        let state = state_folder(shared.state.as_deref());
        let (mut live, mut failure) = (Vec::new(), None);
        for socket in sockets_below(&state)? {
            match unix_connect(&socket).await {
                Ok(_) => live.push(socket),
                Err(error) => failure = Some(no_daemon(&socket, &error)),
            }
        }
        match live.len() {
            0 => Err(failure.unwrap_or_else(|| {
                let message = format!("no gateway answers in the state folder {}", state.display());
                Problem::new(Code::NO_DAEMON, message)
            })),
            1 => Ok(Self::at(live.remove(0), timeout)),
            several => {
                let message = format!("{several} gateways answer in the state folder {}", state.display());
                let fix = format!("name one with `--socket {}`", live[0].display());
                Err(Problem::new(Code::FLAG_INVALID, message).with_fix(fix))
            }
        }
    }

    /// `GET`, the body as it came.
    pub(crate) async fn get(&self, path: &str) -> Result<String, Problem> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// `GET`, the body read.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        serde_json::from_str(&self.get(path).await?).map_err(not_understood)
    }

    /// `POST` of an object, the body as it came.
    pub(crate) async fn post<T: Serialize>(&self, path: &str, body: &T) -> Result<String, Problem> {
        self.call(Method::POST, path, json(body)).await
    }

    /// `DELETE`, the body as it came.
    pub(crate) async fn delete(&self, path: &str) -> Result<String, Problem> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    /// `POST` of an object; `line` gets each line of the answer when it arrives.
    pub(crate) async fn stream<T: Serialize>(
        &self,
        path: &str,
        body: &T,
        mut line: impl FnMut(&str) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.within(path, async {
            self.exchange(Method::POST, path, json(body), async |mut answer| {
                let mut kept = Vec::new();
                while let Some(frame) = answer.frame().await {
                    let frame = frame.map_err(|error| self.cut(path, &error))?;
                    let Ok(data) = frame.into_data() else { continue };
                    kept.extend_from_slice(&data);
                    while let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
                        let whole: Vec<u8> = kept.drain(..=end).collect();
                        line(String::from_utf8_lossy(&whole).trim_end())?;
                    }
                    if kept.len() > LINE_BYTES_MAX {
                        return Err(self.cut(path, &"a line of the answer is too long"));
                    }
                }
                if kept.is_empty() { Ok(()) } else { line(String::from_utf8_lossy(&kept).trim_end()) }
            })
            .await
        })
        .await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<String, Problem> {
        self.within(path, async {
            self.exchange(method, path, body, async |answer| {
                let whole = Limited::new(answer, ANSWER_BYTES_MAX).collect().await;
                let bytes = whole.map_err(|error| self.cut(path, &error))?.to_bytes();
                String::from_utf8(bytes.into()).map_err(|error| self.cut(path, &error))
            })
            .await
        })
        .await
    }

    /// One request on a connection of its own; `take` reads the body of a good answer.
    async fn exchange<T>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        take: impl AsyncFnOnce(Incoming) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let stream = unix_connect(&self.socket).await.map_err(|error| no_daemon(&self.socket, &error))?;
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(|error| self.cut(path, &error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tombolo")
            .header("content-type", "application/json")
            .header("connection", "close")
            .body(Full::new(body))
            .map_err(|error| Problem::new(Code::REQUEST_INVALID, format!("{path}: {error}")))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| self.cut(path, &error))?;
            if answer.status().is_success() {
                return take(answer.into_body()).await;
            }
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.cut(path, &error))?.to_bytes();
            let refusal: Option<Refusal> = serde_json::from_slice(&body).ok();
            Err(refusal.map_or_else(|| answered_oddly(path, status), |refusal| refusal.error))
        };
        // The connection's own error, if any, shows in the answer.
        tokio::pin!(answer, connection);
        tokio::select! {
            biased;
            result = &mut answer => result,
            _ = &mut connection => answer.await,
        }
    }

    async fn within<T>(
        &self,
        path: &str,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            let (secs, what) = (self.timeout.as_secs_f64(), verb_of(path));
            let message = format!("the gateway did not finish {what} within {secs} s");
            let fix = "look at `tombolo status`, then try again with a longer `--timeout`";
            Err(Problem::new(Code::COMMAND_TIMED_OUT, message).with_fix(fix))
        })
    }

    fn cut(&self, path: &str, error: &dyn std::fmt::Display) -> Problem {
        let message = format!(
            "the gateway at {} broke off while answering {}: {error}",
            self.socket.display(),
            verb_of(path)
        );
        Problem::new(Code::NO_DAEMON, message).with_fix("look at what `tombolo run` printed last")
    }
}

fn verb_of(path: &str) -> &str {
    let path = path.trim_start_matches("/v1/");
    path.split(['?', '/']).next().unwrap_or(path)
}

fn json<T: Serialize>(body: &T) -> Bytes {
    serde_json::to_vec(body).expect("a request is plain data").into()
}

fn answered_oddly(path: &str, status: hyper::StatusCode) -> Problem {
    Problem::new(Code::REQUEST_INVALID, format!("the gateway answered {status} to {path}"))
}

fn no_daemon(socket: &Path, error: &std::io::Error) -> Problem {
    let place = socket.display();
    match error.kind() {
        ErrorKind::PermissionDenied => Problem::new(
            Code::STATE_UNREADABLE,
            format!("the gateway's socket {place} may not be used by this user"),
        )
        .with_fix("run the command as the user that runs the gateway"),
        ErrorKind::InvalidInput => Problem::new(Code::STATE_PATH_TOO_LONG, error.to_string()),
        ErrorKind::NotFound => {
            Problem::new(Code::NO_DAEMON, format!("no gateway answers: there is no socket {place}"))
        }
        _ => Problem::new(Code::NO_DAEMON, format!("no gateway answers at {place}: {error}")),
    }
}

/// Sockets of gateways, live or not, below a state folder.
fn sockets_below(state: &Path) -> Result<Vec<PathBuf>, Problem> {
    let folder = state.join("gateways");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let message = format!("the state folder {} may not be read by this user", state.display());
            return Err(Problem::new(Code::STATE_UNREADABLE, message)
                .with_fix("run the command as the user that runs the gateway, or name another `--state`"));
        }
        Err(_) => return Ok(Vec::new()),
    };
    let mut sockets: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("admin.sock")))
        .filter(|socket| socket.exists())
        .collect();
    sockets.sort();
    Ok(sockets)
}

/// Percent-encodes what a person typed, for a path or a query (RFC 3986 section 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
