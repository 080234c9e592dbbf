//! Two Tombolo gateways, joined: the server's exports it, the clients' has it on a virtual IP. Nothing is
//! tuned; a work that would hit a limit raises it.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use serde_json::Value;

use super::{
    pair::{Gateways, Pair, free_ports},
    place::{Place, Site},
};
use crate::{
    admin::Admin,
    process::{Identity, MARK},
};

/// How long starting and joining may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The service of most works.
const SERVICE: &str = "bench";
/// The namespace of all.
const NAMESPACE: &str = "default";
/// The one port of each.
const PORT: &str = "bench";

/// What is asked of both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The program.
    pub(super) binary: &'a Path,
    /// `[link] congestion`, if not its default.
    pub(super) congestion: Option<&'a str>,
    /// Lines of `[limits]`.
    pub(super) limits: &'a str,
    /// What the far one exports: names, and where each leads.
    pub(super) exports: &'a [(String, SocketAddr)],
}

/// Two that know each other.
#[derive(Debug)]
pub(super) struct Joined {
    /// Their processes.
    pub(super) gateways: Gateways,
    /// As of a [`Pair`].
    pub(super) empty_kib: f64,
    near: Gateway,
}

impl Joined {
    /// Where clients reach an export, once it is known.
    pub(super) fn target(&self, name: &str) -> Result<SocketAddr> {
        wait("the service", || self.near.admin()?.target(&format!("{name}.{NAMESPACE}."), PORT))
    }

    /// Where the near one answers for names.
    pub(super) fn dns(&self) -> SocketAddr {
        self.near.dns
    }

    /// The near one's process.
    pub(super) fn near(&self) -> i32 {
        self.near.process.pid
    }

    /// The names of so many services and their addresses, once all of them are known.
    pub(super) fn names(&self, count: usize) -> Result<Vec<(String, IpAddr)>> {
        wait("all services", || {
            let imported = self.near.admin()?.status()?["imported"].as_u64();
            ensure!(imported == Some(count as u64), "{imported:?} of {count} are imported");
            Ok(())
        })?;
        let said = self.near.admin()?.get("/v1/services")?;
        let services = said["services"].as_array().context("no services in the answer")?;
        let name = |service: &Value| {
            let text = |key: &str| service[key].as_str().context("a service without a name or an address");
            Ok((text("dns_name")?.to_owned(), text("virtual_ip")?.parse()?))
        };
        let names: Vec<_> = services.iter().map(name).collect::<Result<_>>()?;
        ensure!(names.len() == count, "{} of {count} services have names", names.len());
        Ok(names)
    }
}

#[derive(Debug)]
struct Gateway {
    process: Identity,
    state: PathBuf,
    quic: SocketAddr,
    dns: SocketAddr,
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
             [advertise]\naddresses = [\"{quic}\"]\n[names]\nvirtual_ips = \"127.244.0.0/16\"\n{more}"
        );
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let words = [binary.to_string_lossy(), "run".into(), "--config".into(), file.to_string_lossy()];
        let mut command: Vec<String> = words.map(|word| word.into_owned()).to_vec();
        command.extend(["--state".to_owned(), state.to_string_lossy().into_owned()]);
        let process = gateways.start(place, command, folder, run)?;
        Ok(Self { process, state, quic, dns })
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

/// Starts both and joins them, with the server exported.
pub(super) fn pair(
    site: &Site,
    binary: (&Path, Option<&str>),
    server: SocketAddr,
    folder: &Path,
    run: &str,
) -> Result<Pair> {
    let (binary, congestion) = binary;
    // As the limits of the others that would cap a work are raised.
    let limits = "opens_per_second = 1000000\n";
    let exports = [(SERVICE.to_owned(), server)];
    let joined = start(site, Wanted { binary, congestion, limits, exports: &exports }, folder, run)?;
    let target = joined.target(SERVICE).map_err(|error| error.context(joined.gateways.last_words()))?;
    Ok(Pair { target, empty_kib: joined.empty_kib, gateways: joined.gateways })
}

/// Starts both and joins them.
pub(super) fn start(site: &Site, wanted: Wanted<'_>, folder: &Path, run: &str) -> Result<Joined> {
    let mut gateways = Gateways::default();
    let result = join(&mut gateways, site, wanted, folder, run);
    let (near, empty_kib) = result.map_err(|error| error.context(gateways.last_words()))?;
    Ok(Joined { gateways, empty_kib, near })
}

fn join(
    gateways: &mut Gateways,
    site: &Site,
    wanted: Wanted<'_>,
    folder: &Path,
    run: &str,
) -> Result<(Gateway, f64)> {
    let binary = wanted.binary;
    let link =
        wanted.congestion.map_or_else(String::new, |name| format!("[link]\ncongestion = \"{name}\"\n"));
    let settings = format!("[limits]\n{}{link}", wanted.limits);
    let exports: String = wanted.exports.iter().map(|(name, to)| export(name, *to)).collect();
    let near = Gateway::start(gateways, binary, (&site.near, "near", &settings), folder, run)?;
    let far =
        Gateway::start(gateways, binary, (&site.far, "far", &(settings.clone() + &exports)), folder, run)?;
    for gateway in [&near, &far] {
        wait("a gateway to be ready", || {
            ensure!(gateway.admin()?.status()?["ready"] == true, "it is not ready");
            Ok(())
        })?;
    }
    let empty_kib = gateways.largest_kib()?;
    let token = near.call(binary, &["token", "create", "--allow-private"], "", run)?;
    far.call(binary, &["join", "-"], &token, run)?;
    Ok((near, empty_kib))
}

fn export(name: &str, to: SocketAddr) -> String {
    format!(
        "[[export]]\nnamespace = \"{NAMESPACE}\"\nname = \"{name}\"\n[[export.port]]\nname = \"{PORT}\"\n\
         port = 8080\nto = [\"{to}\"]\n"
    )
}
