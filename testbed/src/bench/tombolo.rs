//! Two Tombolo gateways, joined: the server's exports it, the clients' has it on a virtual IP. Nothing is
//! tuned but the number of streams a peer may open in a second.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    pair::{Gateways, Pair, free_ports},
    place::{Place, Site},
};
use crate::{admin::Admin, process::MARK};

/// How long starting and joining may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The exported service, as its DNS name starts.
const SERVICE: &str = "bench.default.";

struct Gateway {
    state: PathBuf,
    quic: SocketAddr,
}

impl Gateway {
    fn start(
        gateways: &mut Gateways,
        binary: &Path,
        (place, name, more): (&Place, &str, &str),
        folder: &Path,
        run: &str,
    ) -> Result<Self> {
        let [quic, dns, admin] =
            place.run(free_ports::<3>)?.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let quic = SocketAddr::new(place.address, quic.port());
        let (file, state) = (folder.join(format!("{name}.toml")), folder.join(name));
        fs::create_dir_all(&state)?;
        let text = format!(
            "cluster = \"{name}\"\n[listen]\nquic = \"{quic}\"\ndns = \"{dns}\"\nadmin = \"{admin}\"\n\
             [advertise]\naddresses = [\"{quic}\"]\n[names]\nvirtual_ips = \"127.244.0.0/16\"\n\
             [limits]\nopens_per_second = 1000000\n{more}"
        );
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let words = [binary.to_string_lossy(), "run".into(), "--config".into(), file.to_string_lossy()];
        let mut command: Vec<String> = words.map(|word| word.into_owned()).to_vec();
        command.extend(["--state".to_owned(), state.to_string_lossy().into_owned()]);
        gateways.start(place, command, folder, run)?;
        Ok(Self { state, quic })
    }

    fn admin(&self) -> Result<Admin> {
        Admin::find(&self.state, &self.quic.to_string())
    }

    fn call(&self, binary: &Path, verb: &[&str], input: &str, run: &str) -> Result<String> {
        let admin = self.admin()?;
        let mut child = Command::new(binary)
            .args(verb)
            .arg("--socket")
            .arg(admin.socket())
            .env(MARK, run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        child.stdin.take().context("a pipe that was asked for")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`tombolo {}` failed: {}", verb.join(" "), said.trim());
        String::from_utf8(output.stdout).context("the output of tombolo is no text")
    }
}

/// Waits until `look` finds something; else its last error.
fn wait<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > until => return Err(error.context(format!("waiting for {what}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
        crate::interrupt::check()?;
    }
}

/// Starts both and joins them; with that `[link] congestion` if one is named.
pub(super) fn start(
    site: &Site,
    (binary, congestion): (&Path, Option<&str>),
    server: SocketAddr,
    folder: &Path,
    run: &str,
) -> Result<Pair> {
    let mut gateways = Gateways::default();
    let result = join(&mut gateways, (site, binary, congestion), server, folder, run);
    let (target, empty_kib) = result.map_err(|error| error.context(gateways.last_words()))?;
    Ok(Pair { target, empty_kib, gateways })
}

fn join(
    gateways: &mut Gateways,
    (site, binary, congestion): (&Site, &Path, Option<&str>),
    server: SocketAddr,
    folder: &Path,
    run: &str,
) -> Result<(SocketAddr, f64)> {
    let link = congestion.map_or_else(String::new, |name| format!("[link]\ncongestion = \"{name}\"\n"));
    let exports = format!(
        "{link}[[export]]\nnamespace = \"default\"\nname = \"bench\"\n[[export.port]]\nname = \"bench\"\nport = 8080\n\
         to = [\"{server}\"]\n"
    );
    let near = Gateway::start(gateways, binary, (&site.near, "near", &link), folder, run)?;
    let far = Gateway::start(gateways, binary, (&site.far, "far", &exports), folder, run)?;
    for gateway in [&near, &far] {
        wait("a gateway to be ready", || {
            ensure!(gateway.admin()?.status()?["ready"] == true, "it is not ready");
            Ok(())
        })?;
    }
    let empty_kib = gateways.largest_kib()?;
    let token = near.call(binary, &["token", "create", "--allow-private"], "", run)?;
    far.call(binary, &["join", "-"], &token, run)?;
    let target = wait("the service", || near.admin()?.target(SERVICE, "bench"))?;
    Ok((target, empty_kib))
}
