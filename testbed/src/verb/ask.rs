//! Steps that ask instead of break: a verb of `tombolo`, a name at a cluster's DNS server. What they wait for has
//! to come in its time, or the repetition cannot be done.

use std::{
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::up::own_path;
use crate::{fault::Fault, gateway, ground::ground, interrupt, quantity::Span, standing::Standing};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long a DNS server may take.
const ANSWER: Duration = Duration::from_secs(1);
/// What the inner lookup prints for a name with an address, and for one without.
const WORDS: [&str; 2] = ["none", "some"];

/// Does a step of this kind; how long it took is part of what is reported.
pub(super) fn ask(standing: &Standing, step: &Fault) -> Result<String> {
    let begun = Instant::now();
    match step {
        Fault::Tombolo { cluster, run, says, within } => {
            let cluster = standing.scenario.cluster(cluster)?;
            let words: Vec<&str> = run.split_whitespace().collect();
            let said = || gateway::call(standing, cluster, &words, "");
            match says {
                None => drop(said()?),
                Some(says) => until(*within, &step.to_string(), || {
                    let said = said()?;
                    ensure!(said.contains(says.as_str()), "it says:\n{}", said.trim());
                    Ok(())
                })?,
            }
        }
        Fault::Name { cluster, name, exists, within } => {
            let cluster = standing.scenario.cluster(cluster)?;
            let server = ground(standing.backend).listens(standing, cluster, 0).dns;
            let mut words = ground(standing.backend).prefix(standing, cluster);
            words.push(own_path()?.to_string_lossy().into_owned());
            words.extend(["inner", "name", &server.to_string(), name].map(str::to_owned));
            until(*within, &step.to_string(), || {
                let output = Command::new(&words[0]).args(&words[1..]).output()?;
                let said = String::from_utf8_lossy(&output.stdout);
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
                ensure!(said.trim() == WORDS[usize::from(*exists)], "it has {}", said.trim());
                Ok(())
            })?;
        }
        other => bail!("`{other}` asks nothing"),
    }
    Ok(format!("{step} ({} ms)", begun.elapsed().as_millis()))
}

/// Tries until it succeeds; once when there is no time.
fn until(within: Span, what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + within.0;
    loop {
        let Err(error) = attempt() else { return Ok(()) };
        interrupt::check()?;
        if Instant::now() >= end {
            return Err(error.context(format!("not within {within}: {what}")));
        }
        std::thread::sleep(LOOK);
    }
}

/// Asks a DNS server over UDP whether a name has an address, and prints that; runs inside the cluster.
pub(crate) fn lookup(server: SocketAddr, name: &str) -> Result<()> {
    let socket = UdpSocket::bind((if server.is_ipv4() { "0.0.0.0" } else { "::" }, 0))?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.send_to(&question(name), server)?;
    let mut answer = [0; 1_500];
    let size = socket.recv(&mut answer).with_context(|| format!("{server} does not answer"))?;
    let word = WORDS[usize::from(has_address(&answer[..size])?)];
    Ok(writeln!(std::io::stdout().lock(), "{word}")?)
}

/// One question for A records (RFC 1035, 4.1).
fn question(name: &str) -> Vec<u8> {
    let mut packet = vec![0x74, 0x62, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// Whether the answer has records; that it has none is said by NOERROR or NXDOMAIN, all else is no answer.
fn has_address(answer: &[u8]) -> Result<bool> {
    ensure!(answer.len() >= 12 && answer[..2] == [0x74, 0x62], "a packet that is no answer to the question");
    match answer[3] & 15 {
        0 => Ok(answer[6..8] != [0, 0]),
        3 => Ok(false),
        code => bail!("the DNS server answers with code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_packet_and_an_answer_says_whether_there_is_an_address() {
        let asked = question("web.shop.");
        assert_eq!(asked[12..], *b"\x03web\x04shop\0\0\x01\0\x01");
        let answer = |code: u8, records: u8| {
            let mut packet = asked.clone();
            (packet[2], packet[3], packet[7]) = (0x84, code, records);
            has_address(&packet)
        };
        assert!(answer(0, 1).unwrap() && !answer(0, 0).unwrap() && !answer(3, 0).unwrap());
        assert!(answer(2, 0).is_err(), "SERVFAIL says nothing of the name");
        assert!(has_address(&asked[..4]).is_err());
    }
}
