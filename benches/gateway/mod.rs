//! One gateway as a real process, seen from outside: its admin socket, its DNS, what the kernel says of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use serde_json::{Value, json};

use super::usage::Usage;

/// Time for whatever is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time for one DNS answer; then the question is asked again.
const ANSWER: Duration = Duration::from_secs(5);

/// A running gateway. Dropping it kills it.
pub(crate) struct Gateway {
    program: PathBuf,
    child: Child,
    socket: PathBuf,
    dns: UdpSocket,
    asked: u16,
}

impl Gateway {
    /// Starts `program run` with all it writes below `folder`; `exports` end its config file. Waits until it
    /// is ready.
    pub(crate) fn start(program: &Path, folder: &Path, cluster: &str, exports: &str) -> Result<Self> {
        let (file, state) = (folder.join(format!("{cluster}.toml")), folder.join(cluster));
        let head = format!(
            "cluster = \"{cluster}\"\n[listen]\nquic = \"127.0.0.1:0\"\ndns = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
             [names]\nvirtual_ips = \"127.93.0.0/16\"\n"
        );
        fs::write(&file, head + exports)?;
        let log_file = folder.join(format!("{cluster}.log"));
        let log = fs::File::create(&log_file)?;
        let mut command = Command::new(program);
        command.args(["run", "--exit-with-parent", "--config"]).arg(&file).arg("--state").arg(&state);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let dns = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        dns.set_read_timeout(Some(ANSWER))?;
        let mut gateway = Self { program: program.to_owned(), child, socket: PathBuf::new(), dns, asked: 0 };
        wait("a gateway to be ready", || {
            if let Some(ended) = gateway.child.try_wait()? {
                let said = fs::read_to_string(&log_file)?;
                bail!("the gateway of {cluster} ended at its start: {ended}\n{said}");
            }
            let folders = fs::read_dir(state.join("gateways")).into_iter().flatten().flatten();
            for socket in folders.map(|entry| entry.path().join("admin.sock")) {
                gateway.socket = socket;
                if let Ok(status) = gateway.get("/v1/status")
                    && status["ready"] == true
                {
                    let address: SocketAddr = text(&status["addresses"]["dns"])?.parse()?;
                    gateway.dns.connect(address)?;
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        Ok(gateway)
    }

    /// A token with which one other cluster may join this one.
    pub(crate) fn token(&self) -> Result<String> {
        let answer = self.call("POST", "/v1/tokens", Some(&json!({ "allow_private": true })))?;
        Ok(text(&answer["token"])?.to_owned())
    }

    /// Joins with a token, as people do; returns when the peer is usable.
    pub(crate) fn join(&self, token: &str) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(["join", "-", "--timeout", "2m", "--socket"]).arg(&self.socket);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        child.stdin.take().context("a pipe that was asked for")?.write_all(token.as_bytes())?;
        Ok(child)
    }

    /// Asks for an export, or for its end, and does not wait for the answer.
    pub(crate) fn begin(&self, method: &str, path: &str, body: Option<&Value>) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: tombolo\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        Ok(stream)
    }

    /// `GET` of the admin API.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        finish(self.begin(method, path, body)?)
    }

    /// Asks for the A record of a name: whether there is one.
    pub(crate) fn has(&mut self, name: &str) -> Result<bool> {
        let mut question = Message::query();
        self.asked = self.asked.wrapping_add(1);
        question.metadata.id = self.asked;
        question.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
        self.dns.send(&question.to_vec()?)?;
        let mut packet = [0; 1_500];
        loop {
            let size = self.dns.recv(&mut packet).context("no DNS answer")?;
            let answer = Message::from_vec(&packet[..size])?;
            if answer.metadata.id == self.asked {
                return match answer.metadata.response_code {
                    ResponseCode::NoError => Ok(!answer.answers.is_empty()),
                    ResponseCode::NXDomain | ResponseCode::ServFail => Ok(false),
                    other => bail!("{name}: {other}"),
                };
            }
        }
    }

    /// What it uses now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the answer to a request.
pub(crate) fn finish(mut stream: UnixStream) -> Result<Value> {
    let mut raw = String::new();
    stream.read_to_string(&mut raw)?;
    let (head, body) = raw.split_once("\r\n\r\n").context("an answer without a head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "refused: {body}");
    Ok(serde_json::from_str(body)?)
}

/// Looks again and again until `is_so`.
pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("an answer without a field that is needed")
}
