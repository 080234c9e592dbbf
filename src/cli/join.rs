//! `tombolo join`: takes the token from where no other user sees it, and tells each step as it is done.

use std::{io::ErrorKind, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    args::{JoinArgs, Output, SharedArgs},
    client::Client,
    output::{self, Printer, Tone, not_understood},
};
use crate::{
    admin::api::{JoinStep, JoinWish},
    model::{
        code::{Code, Problem},
        limits::TOKEN_BYTES_MAX,
    },
};

/// Joining waits until the peer is usable.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What every token begins with.
const PREFIX: &str = "tmb1_";
/// Bytes read in search of a token: it may stand in the whole of what `token create` printed.
const INPUT_BYTES_MAX: u64 = 16 * 1024;
/// The token in the environment.
const VARIABLE: &str = "TOMBOLO_TOKEN";

/// `tombolo join -|FILE`.
pub(super) async fn run(args: &JoinArgs, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    redeem(args, false, shared, printer).await
}

/// `tombolo peer re-trust -|FILE`.
pub(super) async fn re_trust(args: &JoinArgs, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    redeem(args, true, shared, printer).await
}

async fn redeem(
    args: &JoinArgs,
    re_trust: bool,
    shared: &SharedArgs,
    printer: Printer,
) -> Result<(), Problem> {
    let wish = JoinWish { token: read(args.token.as_deref()).await?, re_trust };
    let client = Client::find(shared, TIMEOUT).await?;
    let mut told = Told::default();
    let lines = client.stream("/v1/join", &wish, |line| {
        if line.is_empty() {
            return Ok(());
        }
        let step: JoinStep = serde_json::from_str(line).map_err(not_understood)?;
        match printer.form() {
            Output::Json => output::line(line),
            Output::Yaml => printer.body(line, |_| Ok(String::new()))?,
            Output::Table => output::line(&step_line(&step, printer)),
        }
        told.hear(step);
        Ok(())
    });
    lines.await?;
    told.end()
}

/// The token: from standard input for `-`, else from the file named, else from the environment. One that was
/// typed itself is taken with a warning.
pub(super) async fn read(argument: Option<&str>) -> Result<String, Problem> {
    let from = Source::of(argument, std::env::var(VARIABLE).ok())?;
    if let Some(warning) = from.warning() {
        output::warning(&warning);
    }
    from.token().await
}

/// What the steps came to.
#[derive(Debug, Default)]
struct Told {
    done: bool,
    problem: Option<Problem>,
}

impl Told {
    fn hear(&mut self, step: JoinStep) {
        self.done |= step.step == "done";
        self.problem = step.problem.or_else(|| self.problem.take());
    }

    fn end(self) -> Result<(), Problem> {
        match self.problem {
            Some(problem) => Err(problem),
            None if self.done => Ok(()),
            None => Err(Problem::new(Code::NO_DAEMON, "the gateway broke off before the join was done")
                .with_fix("look at `tombolo peers`; the same token may be used again by this cluster")),
        }
    }
}

/// One line of a join for people.
fn step_line(step: &JoinStep, printer: Printer) -> String {
    if step.problem.is_some() {
        // Why follows as the command's own error.
        return printer.style().paint(Tone::Bad, " !!  not joined");
    }
    let (mark, tone) = (" ok ", Tone::Good);
    let line = format!("{} {:<9} {}", printer.style().paint(tone, mark), step.step, step.text);
    match &step.peer {
        Some(peer) if step.step == "done" => {
            format!("{line}\nCompare fingerprints with its operator: tombolo peer verify {peer}")
        }
        _ => line.trim_end().to_owned(),
    }
}

/// Where the token comes from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Input,
    File(String),
    Environment(String),
    Typed(String),
}

impl Source {
    fn of(argument: Option<&str>, environment: Option<String>) -> Result<Self, Problem> {
        match (argument, environment) {
            (Some("-"), _) => Ok(Self::Input),
            (Some(text), _) if text.starts_with(PREFIX) => Ok(Self::Typed(text.to_owned())),
            (Some(path), _) => Ok(Self::File(path.to_owned())),
            (None, Some(token)) => Ok(Self::Environment(token)),
            (None, None) => Err(Problem::new(Code::FLAG_INVALID, "no token was given")
                .with_fix("paste it into `tombolo join -`, or name the file that holds it")),
        }
    }

    fn warning(&self) -> Option<Problem> {
        let told = matches!(self, Self::Typed(_));
        told.then(|| {
            Problem::new(Code::TOKEN_ON_COMMAND_LINE, "other users and the shell's history can see the token")
        })
    }

    async fn token(self) -> Result<String, Problem> {
        match self {
            Self::Typed(text) | Self::Environment(text) => token_in(&text, VARIABLE),
            Self::Input => read_token(tokio::io::stdin(), "standard input").await,
            Self::File(path) => {
                let file = tokio::fs::File::open(&path).await.map_err(|error| unreadable(&path, &error))?;
                read_token(file, &path).await
            }
        }
    }
}

fn unreadable(path: &str, error: &std::io::Error) -> Problem {
    let problem = Problem::new(Code::FLAG_INVALID, format!("the token file {path} cannot be read: {error}"));
    match error.kind() {
        ErrorKind::NotFound => problem.with_fix("check the path, or paste the token into `tombolo join -`"),
        _ => problem.with_fix("check who may read the file"),
    }
}

/// Reads until a whole token has gone by: whoever pastes one ends it with a new line, not with the input.
async fn read_token(mut from: impl AsyncRead + Unpin, place: &str) -> Result<String, Problem> {
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    while (text.len() as u64) < INPUT_BYTES_MAX {
        match from.read(&mut chunk).await {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&chunk[..count]),
            Err(error) => return Err(unreadable(place, &error)),
        }
        let so_far = String::from_utf8_lossy(&text);
        let token = so_far.find(PREFIX).map(|at| &so_far[at..]);
        if token.is_some_and(|token| token.contains(char::is_whitespace)) {
            break;
        }
    }
    token_in(&String::from_utf8_lossy(&text), place)
}

/// The token in a text that may be more, such as all that `token create` printed.
fn token_in(text: &str, place: &str) -> Result<String, Problem> {
    let at = text.find(PREFIX).ok_or_else(|| {
        Problem::new(
            Code::TOKEN_NOT_A_TOKEN,
            format!("there is no token in {place}: tokens begin with {PREFIX}"),
        )
    })?;
    let of_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let token: String = text[at..].chars().take_while(|c| of_token(*c)).collect();
    if token.len() > TOKEN_BYTES_MAX {
        let message = format!("the token in {place} is {} characters long, more than any token", token.len());
        return Err(Problem::new(Code::TOKEN_DAMAGED, message));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_all_that_create_printed() {
        let text = "Join token   id K7\nrun: tombolo join -\n\ntmb1_AQ-x_9   shown once\n";
        assert_eq!(token_in(text, "x").expect("token"), "tmb1_AQ-x_9");
        assert_eq!(token_in(r#"{"token":"tmb1_abc","uses":1}"#, "x").expect("token"), "tmb1_abc");
        assert_eq!(token_in("nothing", "x").unwrap_err().code, Code::TOKEN_NOT_A_TOKEN);
        assert_eq!(
            token_in(&format!("tmb1_{}", "a".repeat(2000)), "x").unwrap_err().code,
            Code::TOKEN_DAMAGED
        );
    }

    #[test]
    fn only_a_token_on_the_command_line_is_warned_of() {
        let source = |argument, variable: Option<&str>| Source::of(argument, variable.map(str::to_owned));
        let typed = source(Some("tmb1_x"), None).expect("typed");
        assert_eq!(typed.warning().expect("warned").code, Code::TOKEN_ON_COMMAND_LINE);
        for quiet in [source(Some("-"), None), source(Some("file"), None), source(None, Some("tmb1_x"))] {
            assert_eq!(quiet.expect("source").warning(), None);
        }
        assert_eq!(source(None, None).unwrap_err().code, Code::FLAG_INVALID);
        assert_eq!(source(Some("-"), Some("tmb1_x")).expect("source"), Source::Input, "what was typed holds");
    }

    #[tokio::test]
    async fn a_pasted_token_ends_with_its_line() {
        let (mut paste, terminal) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut paste, b"tmb1_abc\n").await.expect("paste");
        assert_eq!(read_token(terminal, "standard input").await.expect("token"), "tmb1_abc");
    }
}
