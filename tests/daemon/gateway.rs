//! A cluster's place on this host, and the gateway processes that run there; all end with the test.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// Time for anything that should happen; generous, because the host may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A state folder is settled when it is the same after this time.
const SETTLING: Duration = Duration::from_millis(750);
/// How often it is looked at.
const SETTLING_LOOKS: usize = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    /// It went well; what it said.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// It failed with this exit code and error code, said `cause`, and what to try.
    #[track_caller]
    pub(crate) fn refused(&self, exit: i32, code: &str, cause: &str, fix: &str) {
        let told = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, exit, "{self:?}");
        let error = told.find(&format!("error {code}: ")).unwrap_or_else(|| panic!("no {code} in {told}"));
        let (message, tried) = told[error..].split_once("\n  try: ").expect("a next step");
        assert!(message.contains(cause), "cause of {told}");
        assert!(tried.contains(fix), "next step of {told}");
        assert!(!told.contains("panicked") && !told.contains("ERROR"), "noise in {told}");
    }
}

/// One cluster: its folder and its range of virtual IPs.
pub(crate) struct Cluster {
    pub(crate) id: String,
    folder: TempDir,
    pub(crate) range: String,
}

/// Where a gateway listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listens {
    pub(crate) quic: String,
    pub(crate) dns: String,
    pub(crate) admin: String,
}

impl Listens {
    pub(crate) fn free() -> Self {
        let free = || "127.0.0.1:0".to_owned();
        Self { quic: free(), dns: free(), admin: free() }
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    log: PathBuf,
    pub(crate) said: String,
    socket: String,
    pub(crate) listens: Listens,
}

impl Cluster {
    /// A cluster that was never started. `number`, its own among all tests, chooses its virtual IPs; the
    /// process's id keeps those of several runs at once apart.
    pub(crate) fn new(id: &str, number: u8) -> Self {
        // Short, because the path of a socket is.
        let folder = tempfile::Builder::new().prefix("tb").tempdir_in("/tmp").expect("a folder");
        Self { id: id.to_owned(), folder, range: format!("127.{number}.{}.0/24", std::process::id() % 256) }
    }

    /// Its state folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Writes a file beside the state folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// Lets every user into the folder of the test, not into the state folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn program() -> Command {
        let mut command = Command::new(binary());
        command.env_clear().stdin(Stdio::null());
        command
    }

    /// A command to this cluster's gateway.
    pub(crate) fn tombolo(&self, line: &str) -> Told {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.call(&words, "")
    }

    /// The same with words that hold blanks, and something on standard input.
    pub(crate) fn call(&self, words: &[&str], input: &str) -> Told {
        let mut command = assert_cmd::Command::from_std(Self::program());
        command.env("TOMBOLO_STATE", self.state()).args(words).write_stdin(input).timeout(SOON * 3);
        let output = command.output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Told { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The answer as an object.
    pub(crate) fn json(&self, line: &str) -> Value {
        let words: Vec<&str> = line.split_whitespace().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.call(&words, "").well()).expect("an object")
    }

    /// The same as [`Self::tombolo`], said to one of several gateways.
    pub(crate) fn ask(&self, gateway: &Gateway, line: &str) -> Told {
        let words: Vec<&str> = line.split_whitespace().chain(["--socket", &gateway.socket]).collect();
        self.call(&words, "")
    }

    /// A new token, good for one cluster.
    pub(crate) fn token(&self) -> String {
        self.json("token create --allow-private")["token"].as_str().expect("a token").to_owned()
    }

    /// Redeems a token.
    pub(crate) fn join(&self, token: &str) -> Told {
        self.call(&["join", "-"], token)
    }

    /// The peers in this state.
    pub(crate) fn peers(&self, state: &str) -> Vec<String> {
        let peers = self.json("peers");
        let rows = peers["peers"].as_array().expect("rows").iter();
        rows.filter(|row| row["state"] == state)
            .map(|row| row["cluster"].as_str().expect("id").into())
            .collect()
    }

    fn run_line(&self, listens: &Listens) -> Vec<String> {
        let state = self.state().display().to_string();
        let words = [
            "run",
            "--cluster",
            &self.id,
            "--state",
            &state,
            "--virtual-ips",
            &self.range,
            "--listen",
            &listens.quic,
            "--dns",
            &listens.dns,
            "--admin",
            &listens.admin,
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Starts a gateway on free ports, and waits until it serves.
    pub(crate) fn start(&self) -> Gateway {
        self.start_at(&Listens::free(), &[])
    }

    /// Starts a gateway on these ports with these flags, and waits until it serves.
    pub(crate) fn start_at(&self, listens: &Listens, more: &[&str]) -> Gateway {
        let mut command = Self::program();
        command.args(self.run_line(listens)).args(more);
        Gateway::start(command, self.folder.path())
    }

    /// Starts one more gateway of the same cluster beside the first.
    pub(crate) fn start_another(&self, number: u8) -> Gateway {
        self.start_another_at(number, &Listens::free())
    }

    /// The same on these ports.
    pub(crate) fn start_another_at(&self, number: u8, listens: &Listens) -> Gateway {
        let mut line = self.run_line(listens);
        let range = line.iter_mut().find(|word| **word == self.range).expect("the range");
        *range = format!("127.{number}.{}.0/24", std::process::id() % 256);
        let mut command = Self::program();
        command.args(line);
        Gateway::start(command, self.folder.path())
    }

    /// The same as the user nobody, who owns nothing; only root can do that.
    pub(crate) fn start_as_nobody(&self, more: &[&str]) -> Gateway {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(self.binary_for_all());
        command.env_clear().stdin(Stdio::null());
        command.args(self.run_line(&Listens::free())).args(more).uid(65_534).gid(65_534);
        Gateway::start(command, self.folder.path())
    }

    /// The program where every user may run it: what built it may be root's alone.
    pub(crate) fn binary_for_all(&self) -> PathBuf {
        let copy = self.folder().join("tombolo");
        if !copy.exists() {
            fs::copy(binary(), &copy).expect("a copy");
        }
        copy
    }

    /// A start that is expected to fail.
    pub(crate) fn start_fails(&self, listens: &Listens, more: &[&str]) -> Told {
        let mut words = self.run_line(listens);
        words.extend(more.iter().map(|&word| word.to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.call(&words, "")
    }

    /// The same once a start has written all of its files, some of which come in their own time.
    pub(crate) fn settled(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut last = self.contents();
        for _ in 0..SETTLING_LOOKS {
            std::thread::sleep(SETTLING);
            let now = self.contents();
            if now == last {
                break;
            }
            last = now;
        }
        last
    }

    /// The files that differ from what was there `before`, but for virtual IPs, which are kept every 5 s.
    pub(crate) fn changed_since(&self, before: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
        let now = self.contents();
        let paths = before.keys().chain(now.keys());
        let kept_later = |path: &Path| path.to_string_lossy().contains("virtual-ips.json");
        let differs = |path: &&PathBuf| before.get(*path) != now.get(*path) && !kept_later(path);
        let mut changed: Vec<_> = paths.filter(differs).cloned().collect();
        changed.dedup();
        changed
    }

    /// Everything in the state folder: paths and what is in them, but for locks, sockets, and what gateways say
    /// of themselves while they run.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(&self.state(), &mut found);
        found
    }
}

/// The program: where the tests were built, or where whoever runs them says that it is.
fn binary() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_tombolo")
        .map_or_else(|| env!("CARGO_BIN_EXE_tombolo").into(), PathBuf::from)
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        let passing = ["lock", "cas.lock", "shared.lock", "replicas"];
        let lock = path.file_name().is_some_and(|name| passing.iter().any(|passing| name == *passing));
        if path.is_dir() && !lock {
            collect(&path, found);
        } else if path.is_file() && !lock {
            found.insert(path.clone(), fs::read(&path).expect("a file"));
        }
    }
}

impl Gateway {
    fn start(mut command: Command, folder: &Path) -> Self {
        let name = count();
        let (out, log) = (folder.join(format!("out{name}")), folder.join(format!("err{name}")));
        command.stdout(File::create(&out).expect("a file")).stderr(File::create(&log).expect("a file"));
        let child = command.spawn().expect("it starts");
        let mut gateway =
            Self { child, log, said: String::new(), socket: String::new(), listens: Listens::free() };
        until("it serves", || {
            gateway.said = fs::read_to_string(&out).unwrap_or_default();
            let ended = gateway.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "it ended: {}{}", gateway.said, gateway.log());
            gateway.said.contains("\nnext ").then_some(())
        });
        let word = |name: &str, at: usize| {
            let line = gateway.said.lines().find(|line| line.starts_with(name)).expect(name);
            line.split_whitespace().nth(at).expect("a word").trim_start_matches("http://").to_owned()
        };
        gateway.socket = word("socket", 1);
        gateway.listens = Listens { quic: word("peers", 2), dns: word("dns", 1), admin: word("admin", 1) };
        gateway
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where its DNS answers.
    pub(crate) fn dns(&self) -> SocketAddr {
        self.listens.dns.parse().expect("an address")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it lives");
    }

    /// Waits until it ends.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("it ends", || self.child.try_wait().expect("a child of ours"))
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) -> Listens {
        self.signal(Signal::SIGKILL);
        self.ended();
        self.listens.clone()
    }

    /// SIGTERM, and the end.
    pub(crate) fn stop(mut self) -> Listens {
        self.signal(Signal::SIGTERM);
        assert!(self.ended().success(), "{}", self.log());
        self.listens.clone()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It has ended already, or ends now; both are what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number of its own for each call.
fn count() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Looks until there is something, for a bounded time.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Waits until both are active peers of each other.
#[track_caller]
pub(crate) fn until_active(cluster: &Cluster, peers: &[&str]) {
    until(&format!("{} has active peers {peers:?}", cluster.id), || {
        (cluster.peers("active") == peers).then_some(())
    });
}
