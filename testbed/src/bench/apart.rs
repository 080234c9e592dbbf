//! Parts of a benchmark that are processes of their own, so that their descriptors and their processor time are
//! theirs. Each says a line when it has come so far, goes on when it is told to, and ends with who started it.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{gauge, load, misbehave, place::Site};

/// What such a process does.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Part {
    /// Holds idle connections
    Hold { target: SocketAddr, count: usize },
    /// The server of a benchmark; says where
    Serve,
    /// Readers that ask for much and take little
    Slow { target: SocketAddr, readers: usize },
    /// Clients that open a connection for each request
    Flood { target: SocketAddr, clients: usize },
    /// Takes a part of a processor
    Burn { share: f64 },
}

/// Does it.
pub(crate) fn run(part: &Part) -> Result<()> {
    match *part {
        Part::Hold { target, count } => load::idle(target, count, || {
            say("held")?;
            heard()
        }),
        Part::Serve => {
            say(&load::serve(&Site::loopback().far)?.to_string())?;
            loop {
                heard()?;
            }
        }
        Part::Slow { target, readers } => misbehave::slow(target, readers),
        Part::Flood { target, clients } => misbehave::flood(target, clients),
        Part::Burn { share } => misbehave::burn(share),
    }
}

/// Says a line.
pub(super) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Waits for a line. The end of them is who started this, gone.
pub(super) fn heard() -> Result<()> {
    let mut line = String::new();
    let size = std::io::stdin().lock().read_line(&mut line)?;
    anyhow::ensure!(size > 0, "whoever started this is gone");
    Ok(())
}

/// Such a process, ended when this is dropped.
#[derive(Debug)]
pub(super) struct Apart {
    child: Child,
    tell: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Apart {
    /// Starts a part, as it is typed.
    pub(super) fn start(words: &[&str]) -> Result<Self> {
        let own = std::env::current_exe().context("the own program is not known")?;
        let mut command = Command::new(own);
        command.args(["inner", "bench"]).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a part of the benchmark cannot be started")?;
        let tell = child.stdin.take().context("a pipe that was asked for")?;
        let lines = child.stdout.take().context("a pipe that was asked for")?;
        Ok(Self { child, tell, lines: BufReader::new(lines).lines() })
    }

    /// Processor time it has spent, in seconds.
    pub(super) fn spent(&self) -> Result<f64> {
        gauge::processor_seconds(i32::try_from(self.child.id())?)
    }

    /// What it says next.
    pub(super) fn hear(&mut self) -> Result<String> {
        Ok(self.lines.next().context("a part of the benchmark ended")??)
    }

    /// Has it go on.
    pub(super) fn tell(&mut self) -> Result<()> {
        Ok(writeln!(self.tell)?)
    }

    /// Waits until it has ended well.
    pub(super) fn end(mut self) -> Result<()> {
        anyhow::ensure!(self.child.wait()?.success(), "a part of the benchmark failed");
        Ok(())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
