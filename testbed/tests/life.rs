//! The life of a testbed on backend `proc`, with a stand-in for the `tombolo` binary: up, faults, failover,
//! down; and that nothing is left after kill -9 and after Ctrl-C in the middle of `up` and of `failover`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// A folder with a testbed in it, taken down with this value.
struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { folder: tempfile::tempdir_in("/tmp").expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("t")
    }

    fn command(&self, words: &[&str]) -> Command {
        // Where the tests were built, or where whoever runs them says that it is.
        let given = |name: &str, built: &str| std::env::var(name).unwrap_or_else(|_| built.to_owned());
        let here = given("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"));
        let fake = Path::new(&here).join("tests/fake_tombolo.py");
        let mut command = Command::new(given("CARGO_BIN_EXE_testbed", env!("CARGO_BIN_EXE_testbed")));
        command.args(words).env("TESTBED_DIR", self.path()).env("TOMBOLO_BIN", fake);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the testbed runs")
    }

    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn run_id(&self) -> Option<String> {
        let text = fs::read(self.path().join("testbed.json")).ok()?;
        let state: Value = serde_json::from_slice(&text).ok()?;
        state["run"].as_str().map(str::to_owned)
    }

    /// Starts a `failover` of its own testbed and waits until its load runs.
    fn half_failover(&self) -> (Child, String) {
        let words = ["failover", "--backend", "proc", "--clusters", "2", "--for", "60s", "--rps", "20"];
        let child = self.command(&words).spawn().expect("the testbed runs");
        let until = Instant::now() + Duration::from_secs(30);
        let mut run = String::new();
        while (run.is_empty() || !has_client(&run)) && Instant::now() < until {
            run = self.run_id().unwrap_or_default();
            std::thread::yield_now();
        }
        (child, run)
    }

    /// Waits until an `up` has made some processes.
    fn wait_half_up(&self) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let run = self.run_id().unwrap_or_default();
            if !run.is_empty() && marked(&run) >= 3 {
                return run;
            }
            assert!(Instant::now() < until, "`up` makes nothing");
            std::thread::yield_now();
        }
    }
}

/// Whether the client of a load runs.
fn has_client(run: &str) -> bool {
    let mark = format!("TOMBOLO_TESTBED_RUN={run}");
    let reads = |path: PathBuf, word: &[u8]| {
        fs::read(path).is_ok_and(|raw| raw.split(|byte| *byte == 0).any(|part| part == word))
    };
    fs::read_dir("/proc").expect("Linux").flatten().any(|entry| {
        reads(entry.path().join("cmdline"), b"client") && reads(entry.path().join("environ"), mark.as_bytes())
    })
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Down already: as it should be.
        let _ = self.run(&["down"]);
    }
}

/// Processes that carry the mark of a run.
fn marked(run: &str) -> usize {
    let mark = format!("TOMBOLO_TESTBED_RUN={run}");
    let has = |path: PathBuf| {
        fs::read(path.join("environ")).is_ok_and(|raw| raw.split(|b| *b == 0).any(|v| v == mark.as_bytes()))
    };
    fs::read_dir("/proc").expect("Linux").flatten().filter(|entry| has(entry.path())).count()
}

#[test]
fn a_testbed_comes_up_is_broken_and_mended_and_leaves_nothing() {
    let bed = Bed::new();
    bed.good(&["up", "3", "--gateways", "2"]);
    let run = bed.run_id().unwrap();
    let status: Value = serde_json::from_str(&bed.good(&["status", "-o", "json"])).unwrap();
    let members = status["members"].as_array().unwrap();
    assert_eq!(members.len(), 11, "a relay, four endpoints, six gateways");
    assert!(members.iter().all(|member| member["alive"] == true));
    assert_eq!(status["complete"], true);
    let account: Value =
        serde_json::from_str(&bed.good(&["load", "--for", "1s", "--rps", "50", "-o", "json"])).unwrap();
    assert_eq!((&account["issued"], &account["ok"]), (&Value::from(50), &Value::from(50)), "{account}");
    let failover =
        ["failover", "--kill", "gateway", "--reps", "1", "--for", "4s", "--rps", "100", "-o", "json"];
    let report: Value = serde_json::from_str(&bed.good(&failover)).unwrap();
    assert_eq!(report["figures"]["issued"], 400.0);
    assert_eq!(report["figures"]["failed"], 0.0);
    assert!(report["repetitions"][0]["detected_near_ms"].as_f64().unwrap() > 100.0, "{report}");
    let link = ["failover", "--kill", "link", "--reps", "1", "--for", "4s", "--rps", "100", "-o", "json"];
    let report: Value = serde_json::from_str(&bed.good(&link)).unwrap();
    let seen = &report["repetitions"][0];
    assert!(seen["detected_near_ms"].is_number() && seen["detected_far_ms"].is_number(), "{report}");
    bed.good(&["down"]);
    assert_eq!(marked(&run), 0);
    assert!(!bed.path().exists());
}

#[test]
fn an_assertion_that_does_not_hold_ends_with_1_and_what_was_seen_is_kept() {
    let bed = Bed::new();
    bed.good(&["up", "2", "--gateways", "1"]);
    let run = bed.run_id().unwrap();
    let output = bed.run(&[
        "failover",
        "--kill",
        "endpoint",
        "--reps",
        "1",
        "--for",
        "3s",
        "--rps",
        "50",
        "--assert",
        "ok<1 ok==0",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("FAIL ok==0"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--assert 'ok<1 ok==0'"), "as a shell reads it");
    let kept = bed.folder.path().join(format!("testbed-kept-{run}"));
    for file in ["report.json", "repeat.sh", "west/gateway-1.log", "east/gateway-1.toml", "wan.log"] {
        assert!(kept.join(file).exists(), "{file}");
    }
    let status = fs::read_to_string(kept.join("rep-1/east-1-status.json")).unwrap();
    assert!(status.contains("west"), "{status}");
    let packets = fs::read(kept.join("rep-1/wan.pcapng")).unwrap();
    assert!(packets.len() > 1_000, "the fakes ping each other: {} bytes", packets.len());
}

#[test]
fn down_finds_what_up_made_before_it_was_killed() {
    let bed = Bed::new();
    let mut child = bed.command(&["up", "3"]).spawn().unwrap();
    let run = bed.wait_half_up();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(marked(&run) > 0, "the processes outlive `up`");
    bed.good(&["down"]);
    assert_eq!(marked(&run), 0);
    assert!(!bed.path().exists());
}

#[test]
fn an_interrupted_up_takes_down_what_it_made() {
    let bed = Bed::new();
    let child = bed.command(&["up", "3"]).spawn().unwrap();
    let run = bed.wait_half_up();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    // Too late to interrupt is as good: then it stands, and `down` ends it.
    if !output.status.success() {
        assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
        assert_eq!(marked(&run), 0);
        assert!(!bed.path().exists());
    }
}

#[test]
fn an_interrupted_failover_takes_down_what_it_made_without_waiting_for_its_load() {
    let bed = Bed::new();
    let (child, run) = bed.half_failover();
    let began = Instant::now();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(began.elapsed() < Duration::from_secs(20), "the load was of 60 s");
    assert_eq!(marked(&run), 0);
    assert!(!bed.path().exists());
}

#[test]
fn down_finds_what_failover_made_before_it_was_killed() {
    let bed = Bed::new();
    let (mut child, run) = bed.half_failover();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(marked(&run) > 0, "the processes outlive `failover`");
    bed.good(&["down"]);
    assert_eq!(marked(&run), 0);
    assert!(!bed.path().exists());
}

#[test]
fn wrong_calls_say_what_to_do() {
    let bed = Bed::new();
    let said = |words: &[&str]| String::from_utf8(bed.run(words).stderr).unwrap();
    assert!(said(&["status"]).contains("try: testbed up 3"));
    assert!(said(&["down"]).contains("no testbed stands"));
    assert!(said(&["up", "99"]).contains("1 to 32 clusters"));
    assert!(said(&["load", "--to", "192.0.2.1:80"]).contains("loopback"));
    assert!(said(&["failover", "--assert", "speed<1s"]).contains("is no figure"));
    assert!(said(&["up", "2", "--tombolo", "/nowhere"]).contains("no tombolo binary"));
}

/// Namespaces of a run.
fn namespaces(run: &str) -> usize {
    let start = format!("tb{run}-");
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with(&start)).count()
}

/// Backend `netns` needs root and nft; elsewhere it must say so.
fn can_netns() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    root && ["/usr/sbin/nft", "/sbin/nft"].iter().any(|path| Path::new(path).exists())
}

#[test]
fn namespaces_come_up_with_nat_and_delay_and_leave_nothing_also_after_kill_9() {
    let bed = Bed::new();
    if !can_netns() {
        let said = String::from_utf8(bed.run(&["up", "2", "--backend", "netns"]).stderr).unwrap();
        assert!(said.contains("root") || said.contains("not installed"), "{said}");
        return;
    }
    bed.good(&["up", "3", "--backend", "netns", "--delay", "20ms"]);
    let run = bed.run_id().unwrap();
    assert_eq!(namespaces(&run), 6);
    let load = ["load", "--for", "1s", "--rps", "50", "-o", "json"];
    let account: Value = serde_json::from_str(&bed.good(&load)).unwrap();
    assert_eq!(account["ok"], 50, "{account}");
    assert!(account["latency_ms"]["p50"].as_f64().unwrap() >= 40.0, "the delay is on the path: {account}");
    bed.good(&["fault", "kill", "west/endpoint/1"]);
    assert!(bed.good(&["fault", "restart", "west/endpoint/1"]).contains("Endpoint(1)"), "it had ended");
    bed.good(&["fault", "rebind", "east"]);
    let account: Value = serde_json::from_str(&bed.good(&load)).unwrap();
    assert_eq!(account["issued"], 50);
    bed.good(&["down"]);
    assert_eq!((marked(&run), namespaces(&run)), (0, 0));
    let mut child = bed.command(&["up", "3", "--backend", "netns"]).spawn().unwrap();
    let run = bed.wait_half_up();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(namespaces(&run) > 0);
    bed.good(&["down"]);
    assert_eq!((marked(&run), namespaces(&run)), (0, 0));
    assert!(!bed.path().exists());
}

#[test]
fn routers_drop_and_refuse_until_told_otherwise_or_until_the_time_is_over() {
    let bed = Bed::new();
    if !can_netns() {
        return;
    }
    bed.good(&["up", "2", "--backend", "netns"]);
    let run = bed.run_id().unwrap();
    let answered = || {
        let load =
            ["load", "--for", "1s", "--rps", "20", "--connections", "0", "--deadline", "500ms", "-o", "json"];
        let account: Value = serde_json::from_str(&bed.good(&load)).unwrap();
        account["ok"].as_u64().unwrap()
    };
    let blocks = || {
        let status: Value = serde_json::from_str(&bed.good(&["status", "-o", "json"])).unwrap();
        let blocks: Vec<String> = serde_json::from_value(status["blocks"].clone()).unwrap();
        blocks
    };
    bed.good(&["fault", "block", "east", "west"]);
    assert_eq!((answered(), blocks().len()), (0, 2), "one rule for each direction");
    assert!(blocks().iter().all(|block| !block.contains("counter packets 0 ")), "{:?}", blocks());
    bed.good(&["fault", "block", "east", "west", "--longer-than", "1280", "--one-way"]);
    assert!(blocks()[0].contains("meta length > 1280"), "{:?}", blocks());
    bed.good(&["fault", "unblock", "west", "east"]);
    assert_eq!((answered(), blocks().len()), (20, 0));
    bed.good(&["fault", "block", "east", "west", "--reject", "--protocol", "tcp", "--for", "3s"]);
    assert_eq!(answered(), 0);
    let until = Instant::now() + Duration::from_secs(20);
    while !blocks().is_empty() {
        assert!(Instant::now() < until, "the kernel ends it");
    }
    assert_eq!(answered(), 20);
    let own = PathBuf::from(format!("/etc/netns/tb{run}-1"));
    let resolver = fs::read_to_string(own.join("resolv.conf")).unwrap();
    assert!(resolver.starts_with("nameserver 127.0.0.1\n"), "{resolver}");
    bed.good(&["down"]);
    assert_eq!((marked(&run), namespaces(&run), own.exists()), (0, 0, false));
}

#[test]
fn links_change_by_schedule_and_back() {
    let bed = Bed::new();
    bed.good(&["up", "2"]);
    let shape = |from: &str| {
        let status: Value = serde_json::from_str(&bed.good(&["status", "-o", "json"])).unwrap();
        let links = status["links"].as_array().unwrap().clone();
        let link = links.into_iter().find(|link| link["from"] == from).unwrap();
        (link["shape"]["loss"].clone(), link["shape"]["delay"].clone(), link["shape"]["up"].clone())
    };
    let until = |wanted: [&str; 2], up: bool| {
        let end = Instant::now() + Duration::from_secs(20);
        while shape("east") != (wanted[0].into(), wanted[1].into(), up.into()) {
            assert!(Instant::now() < end, "{:?}", shape("east"));
        }
    };
    bed.good(&["fault", "link", "east", "west", "--delay", "5ms"]);
    let change =
        ["fault", "link", "east", "west", "--one-way", "--loss", "2%", "--after", "1s", "--for", "1s"];
    assert!(bed.good(&change).contains("in 1s"));
    assert_eq!(shape("east"), ("0%".into(), "5ms".into(), true.into()), "not yet");
    until(["2%", "5ms"], true);
    assert_eq!(shape("west").0, "0%", "one way");
    until(["0%", "5ms"], true);
    bed.good(&["fault", "partition", "east", "west", "--after", "200ms", "--for", "500ms"]);
    until(["0%", "5ms"], false);
    until(["0%", "5ms"], true);
    bed.good(&["fault", "partition", "east", "west"]);
    bed.good(&["fault", "link", "east", "west", "--loss", "3%", "--for", "500ms"]);
    bed.good(&["fault", "heal", "east", "west"]);
    until(["3%", "5ms"], true);
    until(["0%", "5ms"], true);
    let output = bed.run(&["fault", "block", "east", "west"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--backend netns"));
}
