//! Asks a process inside a cluster over HTTP, from there. No client of anything in particular.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{ground::ground, standing::Standing};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The whole answer to a GET, head included, when its status is 200.
pub(crate) fn get(standing: &Standing, cluster: usize, from: SocketAddr, path: &str) -> Result<String> {
    std::thread::scope(|scope| {
        // A thread of its own, because it stays in the cluster.
        let asked = scope.spawn(|| {
            ground(standing.backend).enter(standing, cluster)?;
            ask(from, path)
        });
        asked.join().map_err(|_| anyhow::anyhow!("asking {from} failed"))?
    })
}

fn ask(from: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Asked for in one piece: some answer in chunks otherwise.
    write!(stream, "GET {path} HTTP/1.1\r\nHost: testbed\r\nConnection: close\r\n\r\n")?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).with_context(|| format!("{from} gave no answer"))?;
    let text = String::from_utf8_lossy(&raw).into_owned();
    ensure!(text.starts_with("HTTP/1.1 200"), "{from} refuses {path}");
    Ok(text)
}
