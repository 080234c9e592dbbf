//! The program as it is called: what it prints where, and how it ends, when no gateway runs.

use assert_cmd::Command;

/// The program, with a state folder that holds nothing.
fn tombolo(line: &str) -> Command {
    let mut command = Command::cargo_bin("tombolo").expect("the program is built with the tests");
    command.env_clear().env("TOMBOLO_STATE", "/nonexistent").args(line.split_whitespace());
    command
}

/// Exit code, standard output, standard error.
fn run(line: &str) -> (i32, String, String) {
    let output = tombolo(line).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

#[test]
fn without_a_gateway_commands_say_so_and_fail() {
    let (code, out, err) = run("status");
    assert_eq!((code, out.as_str()), (1, ""));
    insta::assert_snapshot!(err, @r"
    error TMB-1008: no gateway answers in the state folder /nonexistent
      try: start one with `tombolo run`, or name its state folder with `--state`
    ");
}

#[test]
fn problems_are_objects_for_programs() {
    let (code, out, err) = run("peers -o json");
    assert_eq!((code, out.as_str()), (1, ""));
    let refusal: serde_json::Value = serde_json::from_str(&err).expect("an object");
    assert_eq!(
        (&refusal["schema"], &refusal["error"]["code"]),
        (&"tombolo/v1/error".into(), &"TMB-1008".into())
    );
    let (code, _, err) = run("statsu -o json");
    let refusal: serde_json::Value = serde_json::from_str(&err).expect("an object");
    assert_eq!((code, &refusal["error"]["code"]), (2, &"TMB-1004".into()));
}

#[test]
fn a_token_on_the_command_line_is_taken_with_a_warning() {
    let (code, _, err) = run("join tmb1_abc");
    assert_eq!(code, 1);
    insta::assert_snapshot!(err, @r"
    ! TMB-1220: other users and the shell's history can see the token
      try: pipe it instead: `tombolo join -`
    error TMB-1008: no gateway answers in the state folder /nonexistent
      try: start one with `tombolo run`, or name its state folder with `--state`
    ");
    assert!(!err.contains("tmb1_abc"), "a secret is not repeated");
}

#[test]
fn a_token_may_come_by_file_input_or_environment() {
    assert_eq!(run("join /nonexistent/token").0, 2);
    let piped = tombolo("join -").write_stdin("no token here\n").output().expect("it runs");
    assert_eq!(piped.status.code(), Some(2));
    let given = tombolo("join").env("TOMBOLO_TOKEN", "tmb1_abc").output().expect("it runs");
    let err = String::from_utf8_lossy(&given.stderr);
    assert!(given.status.code() == Some(1) && err.starts_with("error TMB-1008"), "{err}");
}

#[test]
fn codes_versions_and_completions_need_no_gateway() {
    let (code, out, _) = run("explain TMB-1201 -o json");
    let info: serde_json::Value = serde_json::from_str(&out).expect("an object");
    assert_eq!(
        (code, &info["schema"], &info["title"]),
        (0, &"tombolo/v1/code".into(), &"token expired".into())
    );
    assert_eq!(run("explain tmb-1201 -o yaml").0, 0);
    let version = concat!("tombolo ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(run("version"), (0, version.to_owned(), String::new()));
    assert_eq!(run("--version"), (0, version.to_owned(), String::new()));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&format!("completions {shell}")).1.contains("tombolo"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_problem() {
    let given = std::env::var("CARGO_BIN_EXE_tombolo");
    let mut command =
        std::process::Command::new(given.unwrap_or_else(|_| env!("CARGO_BIN_EXE_tombolo").to_owned()));
    let mut child = command
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    assert!(child.wait().expect("it ends").success());
}
