//! A WAN of two sides for one process: two namespaces without names, a device in each, the emulator between
//! them as a thread. It vanishes with the process, however that ends. Testbeds that stand for later calls have
//! named namespaces instead.

use std::{
    fs::File, net::Ipv4Addr, os::fd::AsRawFd as _, process::Command, sync::mpsc, thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use super::{
    control::{Control, Request},
    engine::Engine,
    link::Shape,
    tun::{DEVICE_QUEUE, Devices, Side, enter},
};

/// Both directions, by the names of the sides.
pub(crate) const DIRECTIONS: [(&str, &str); 2] = [("a", "b"), ("b", "a")];
/// The MTU of the devices.
const MTU: u16 = 1_500;

/// Two namespaces without names, which vanish with this value or with the process.
pub(crate) struct Pair {
    spaces: [File; 2],
}

impl Pair {
    fn make() -> Result<Self> {
        let make = || -> Result<File> {
            // A thread of its own, because it stays in what it makes.
            let made = std::thread::spawn(|| -> Result<File> {
                unshare(CloneFlags::CLONE_NEWNET).context("a network namespace cannot be made")?;
                Ok(File::open("/proc/thread-self/ns/net")?)
            });
            made.join().map_err(|_| anyhow::anyhow!("making a namespace failed"))?
        };
        Ok(Self { spaces: [make()?, make()?] })
    }

    /// What `enter` takes.
    pub(crate) fn name(&self, at: usize) -> String {
        format!("/proc/self/fd/{}", self.spaces[at].as_raw_fd())
    }

    /// Runs `ip` in one of them.
    fn ip(&self, at: usize, words: &str) -> Result<()> {
        let (name, words) = (self.name(at), words.to_owned());
        let ran = std::thread::spawn(move || -> Result<()> {
            enter(&name)?;
            let output =
                Command::new("ip").args(words.split(' ')).output().context("`ip` cannot be started")?;
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            ensure!(output.status.success(), "`ip {words}` failed: {said}");
            Ok(())
        });
        ran.join().map_err(|_| anyhow::anyhow!("running `ip` failed"))?
    }
}

/// Two namespaces and what is between them.
pub(crate) struct Wan {
    /// The namespaces.
    pub(crate) pair: Pair,
    /// Of the emulator.
    pub(crate) control: Control,
    engine: Option<JoinHandle<Result<()>>>,
}

/// The address of a side.
pub(crate) const fn address(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, if at == 0 { 1 } else { 2 }, 1)
}

/// Gives both directions a shape.
pub(crate) fn set(control: &Control, shape: Shape) -> Result<()> {
    for (from, to) in DIRECTIONS {
        control.ask(&Request::Shape { from: from.to_owned(), to: to.to_owned(), shape })?;
    }
    Ok(())
}

impl Wan {
    /// Makes it; needs root.
    pub(crate) fn start(shape: Shape) -> Result<Self> {
        let pair = Pair::make()?;
        let names = [pair.name(0), pair.name(1)];
        let (listener, control) = Control::without_file(&format!("testbed-wan-{}", std::process::id()))?;
        let (ready, stands) = mpsc::sync_channel(1);
        let engine = std::thread::spawn(move || -> Result<()> {
            let side = |at: usize| Side {
                namespace: names[at].clone(),
                device: "wan0".to_owned(),
                network: address(at),
            };
            let devices = Devices::open(&[side(0), side(1)], MTU)?;
            let clusters = vec!["a".to_owned(), "b".to_owned()];
            let mut engine = Engine::new(devices, clusters, shape, 7, listener)?;
            ready.send(()).context("nobody waits for the engine")?;
            engine.run()
        });
        if stands.recv_timeout(Duration::from_secs(5)).is_err() {
            return match engine.join() {
                Ok(Err(error)) => Err(error),
                _ => anyhow::bail!("the engine did not start"),
            };
        }
        for at in 0..2 {
            pair.ip(at, "link set lo up")?;
            pair.ip(at, &format!("addr add {}/16 dev wan0", address(at)))?;
            pair.ip(at, &format!("link set wan0 txqueuelen {DEVICE_QUEUE} up"))?;
        }
        Ok(Self { pair, control, engine: Some(engine) })
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        // It ends with the process at the latest.
        if self.control.ask(&Request::Stop).is_ok()
            && let Some(engine) = self.engine.take()
        {
            let _ = engine.join();
        }
    }
}
