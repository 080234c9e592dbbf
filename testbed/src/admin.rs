//! A client of a gateway's admin socket. It reads only the fields it needs, from JSON, so that it follows
//! no type of the daemon.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The largest answer read.
const LARGEST: u64 = 64 << 20;
/// What a gateway says of a port whose listener is still to be opened.
const NOT_BOUND: &str = "not bound yet";

/// One gateway's admin socket.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    socket: PathBuf,
}

/// What the testbed wants to know of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its cluster id.
    pub(crate) cluster: String,
    /// Its state.
    pub(crate) state: String,
    /// The state of its link, or `none`.
    pub(crate) link: String,
    /// The gateway at the other end, if a lane is up.
    pub(crate) gateway: String,
    /// Its address.
    pub(crate) address: String,
    /// How many gateways of it have a lane that is up.
    pub(crate) links_up: usize,
}

impl Peer {
    /// What a fault changes; which of several good links comes first is no such thing.
    pub(crate) fn shown(&self) -> (&str, &str, usize) {
        (&self.state, &self.link, self.links_up)
    }
}

impl Admin {
    /// Of the gateway of that state folder that listens there; asks each gateway's socket.
    pub(crate) fn find(state: &Path, quic: &str) -> Result<Self> {
        for entry in std::fs::read_dir(state.join("gateways")).into_iter().flatten().flatten() {
            let admin = Self { socket: entry.path().join("admin.sock") };
            if admin.status().is_ok_and(|status| status["addresses"]["quic"] == quic) {
                return Ok(admin);
            }
        }
        bail!("no gateway of {} answers for {quic}", state.display())
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`.
    pub(crate) fn status(&self) -> Result<Value> {
        self.get("/v1/status")
    }

    /// The peers of the status.
    pub(crate) fn peers(&self) -> Result<Vec<Peer>> {
        let status = self.status()?;
        let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
        let peers = status["peers"].as_array().context("a status without peers")?;
        let peer = |peer: &Value| Peer {
            cluster: text(&peer["cluster"]),
            state: text(&peer["state"]),
            link: text(&peer["link"]["state"]),
            gateway: text(&peer["link"]["gateway"]),
            address: text(&peer["link"]["address"]),
            links_up: links_up(peer),
        };
        Ok(peers.iter().map(peer).collect())
    }

    /// The number of the newest event, and how many of those after one that is known say that a link became so.
    pub(crate) fn links_became(&self, after: u64, word: &str) -> Result<(u64, u64)> {
        let said = self.get(&format!("/v1/events?after={after}"))?;
        let events = said["events"].as_array().context("no events in the answer")?;
        let newest = events.iter().filter_map(|event| event["number"].as_u64()).max().unwrap_or(after);
        let became = |event: &&Value| {
            event["kind"] == "link" && event["text"].as_str().is_some_and(|text| text.contains(word))
        };
        Ok((newest, events.iter().filter(became).count() as u64))
    }

    /// Where clients of this gateway connect to for a port of the sample service; an error while it is not
    /// known or has no listener yet.
    pub(crate) fn target(&self, name: &str, port: &str) -> Result<std::net::SocketAddr> {
        let services = self.get("/v1/services")?;
        let all = services["services"].as_array().context("no services in the answer")?;
        let found = all.iter().find(|s| s["dns_name"].as_str().is_some_and(|dns| dns.starts_with(name)));
        let service = found.with_context(|| format!("the gateway does not know {name} yet"))?;
        let address = service["virtual_ip"].as_str().with_context(|| format!("{name} has no virtual IP"))?;
        let ports = service["ports"].as_array().context("a service without ports")?;
        let port =
            ports.iter().find(|p| p["name"] == port).with_context(|| format!("{name} has no port {port}"))?;
        ensure!(port["state"] != NOT_BOUND, "nobody listens for {name} yet");
        let number =
            port["bound_port"].as_u64().or_else(|| port["port"].as_u64()).context("a port without number")?;
        Ok(std::net::SocketAddr::new(address.parse()?, u16::try_from(number)?))
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("no gateway answers on {}", self.socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: tombolo\r\nConnection: close\r\n\r\n")?;
        let mut raw = Vec::new();
        stream.take(LARGEST).read_to_end(&mut raw)?;
        let body = body_of(&raw)?;
        serde_json::from_slice(&body).with_context(|| format!("the answer to {path} is not JSON"))
    }
}

/// The gateways of a peer with a link that is up; a gateway that lists none but the first has that one.
fn links_up(peer: &Value) -> usize {
    let up = |link: &&Value| link["state"] == "up";
    match peer["links"].as_array() {
        Some(all) => {
            let gateways = all.iter().filter(up).map(|link| link["gateway"].to_string());
            gateways.collect::<std::collections::BTreeSet<_>>().len()
        }
        None => usize::from(up(&&peer["link"])),
    }
}

/// The body of a whole HTTP/1.1 answer with status 200.
fn body_of(raw: &[u8]) -> Result<Vec<u8>> {
    let end = raw.windows(4).position(|w| w == b"\r\n\r\n").context("an answer without a head")?;
    let head = std::str::from_utf8(&raw[..end])?.to_ascii_lowercase();
    let body = &raw[end + 4..];
    ensure!(head.starts_with("http/1.1 200"), "refused: {}", String::from_utf8_lossy(body).trim());
    if !head.contains("transfer-encoding: chunked") {
        return Ok(body.to_vec());
    }
    let (mut rest, mut whole) = (body, Vec::new());
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line])?.trim(), 16)?;
        if size == 0 {
            return Ok(whole);
        }
        let chunk = rest.get(line + 2..line + 2 + size).context("a chunk that is cut short")?;
        whole.extend_from_slice(chunk);
        rest = rest.get(line + 4 + size..).context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_whole_in_both_encodings_and_refusals_are_errors() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(body_of(plain).unwrap(), b"{}");
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
        assert_eq!(body_of(chunked).unwrap(), b"{}");
        assert!(
            body_of(b"HTTP/1.1 404 No\r\n\r\nno such path").unwrap_err().to_string().contains("no such path")
        );
        assert!(body_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{").is_err());
    }
}
