//! Questions for addresses over UDP, closed loop on several sockets, and what came back. An answer that is missing
//! or says another address fails the run.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use tokio::{
    net::UdpSocket,
    task::{JoinSet, LocalSet},
    time::timeout,
};

use super::load::{Answered, Tally, measured, runtime};

/// Sockets, so that a server that shares its port among threads can use all of them.
const SOCKETS: usize = 32;
/// Questions under way on each.
const WINDOW: u16 = 4;
/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a head (RFC 1035, 4.1.1).
const HEAD: usize = 12;
/// Bytes of an A record without its name (RFC 1035, 4.1.3).
const RECORD: usize = 14;

/// A question, and what it is to be answered with.
#[derive(Debug, Clone)]
pub(super) struct Question {
    packet: Vec<u8>,
    address: Ipv4Addr,
}

impl Question {
    /// For the address of a name.
    pub(super) fn new(name: &str, address: IpAddr) -> Result<Self> {
        let IpAddr::V4(address) = address else { anyhow::bail!("{name} has no IPv4 address but {address}") };
        let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            packet
                .push(u8::try_from(label.len()).ok().filter(|size| *size < 64).context("a label too long")?);
            packet.extend_from_slice(label.as_bytes());
        }
        packet.extend([0, 0, 1, 0, 1]);
        Ok(Self { packet, address })
    }

    /// Whether that is its answer: no error, the question, one record, the address.
    fn is_answered_by(&self, answer: &[u8]) -> bool {
        let Some((asked, records)) = answer.split_at_checked(self.packet.len()) else { return false };
        let good = asked[2] & 0x80 != 0 && asked[3] & 15 == 0 && asked[6..8] == [0, 1];
        // A name is a pointer or labels; nobody says more of it than where it ends.
        let name = match records.first() {
            Some(first) if first & 0xc0 == 0xc0 => 2,
            _ => records.iter().position(|byte| *byte == 0).map_or(records.len(), |end| end + 1),
        };
        let record = records.get(name..name + RECORD);
        good && asked[HEAD..].eq_ignore_ascii_case(&self.packet[HEAD..])
            && record
                .is_some_and(|record| record[..4] == [0, 1, 0, 1] && record[10..] == self.address.octets())
    }
}

/// Waits until a server answers that question.
pub(super) fn wait_answer(server: SocketAddr, question: &Question, most: Duration) -> Result<()> {
    let until = Instant::now() + most;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut room = [0; 1_500];
    while Instant::now() < until {
        socket.send_to(&question.packet, server)?;
        if socket.recv(&mut room).is_ok_and(|size| question.is_answered_by(&room[..size])) {
            return Ok(());
        }
        crate::interrupt::check()?;
    }
    anyhow::bail!("{server} gave no good answer within {most:?}")
}

/// Asks random ones of `questions` for `span`, and reads the gauge at both ends of it.
pub(super) fn closed_loop(
    server: SocketAddr,
    questions: &[Question],
    span: Duration,
    gauge: impl Fn() -> Result<f64>,
) -> Result<Answered> {
    ensure!(!questions.is_empty(), "nothing to ask");
    let runtime = runtime()?;
    LocalSet::new().block_on(&runtime, async {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let questions: Rc<[Question]> = questions.into();
        let mut loops = JoinSet::new();
        for _ in 0..SOCKETS {
            loops.spawn_local(ask(server, questions.clone(), tally.clone()));
        }
        measured(loops, &tally, span, gauge).await
    })
}

/// One socket: a question for each answer.
async fn ask(server: SocketAddr, questions: Rc<[Question]>, tally: Rc<RefCell<Tally>>) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server).await?;
    let mut packet = Vec::new();
    let mut under_way = Vec::new();
    for slot in 0..WINDOW {
        under_way.push(send(&socket, slot, &questions, &mut packet).await?);
    }
    let mut room = [0; 1_500];
    loop {
        let size = timeout(PATIENCE, socket.recv(&mut room)).await.context("no answer")??;
        let answer = &room[..size];
        let slot = answer.first_chunk::<2>().map(|id| u16::from_be_bytes(*id));
        let slot = slot.filter(|slot| *slot < WINDOW).context("an answer to no question")?;
        let (question, began) = under_way[usize::from(slot)];
        ensure!(questions[question].is_answered_by(answer), "a wrong answer of {size} bytes");
        tally.borrow_mut().note(began);
        under_way[usize::from(slot)] = send(&socket, slot, &questions, &mut packet).await?;
    }
}

async fn send(
    socket: &UdpSocket,
    slot: u16,
    questions: &[Question],
    packet: &mut Vec<u8>,
) -> Result<(usize, Instant)> {
    let number = rand::rng().random_range(0..questions.len());
    packet.clone_from(&questions[number].packet);
    packet[..2].copy_from_slice(&slot.to_be_bytes());
    let began = Instant::now();
    socket.send(packet).await?;
    Ok((number, began))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(question: &Question, name: &[u8], address: [u8; 4]) -> Vec<u8> {
        let mut packet = question.packet.clone();
        (packet[2], packet[7]) = (0x85, 1);
        packet.extend_from_slice(name);
        packet.extend([0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        packet.extend(address);
        packet
    }

    #[test]
    fn an_answer_is_good_with_its_name_said_either_way_and_with_no_other_address() {
        let question = Question::new("web.shop.", [10, 0, 0, 7].into()).unwrap();
        assert_eq!(question.packet[HEAD..], *b"\x03web\x04shop\0\0\x01\0\x01");
        for name in [&b"\xc0\x0c"[..], b"\x03web\x04shop\0"] {
            assert!(question.is_answered_by(&answer(&question, name, [10, 0, 0, 7])));
            assert!(!question.is_answered_by(&answer(&question, name, [10, 0, 0, 8])));
        }
        let good = answer(&question, b"\xc0\x0c", [10, 0, 0, 7]);
        assert!((0..good.len()).all(|size| !question.is_answered_by(&good[..size])));
        let mut refused = good;
        refused[3] = 5;
        assert!(!question.is_answered_by(&refused));
    }

    #[test]
    fn every_question_is_answered_by_a_server_that_answers() {
        let question = Question::new("a.test", [127, 0, 0, 1].into()).unwrap();
        let server = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        let good = answer(&question, b"\xc0\x0c", [127, 0, 0, 1]);
        std::thread::spawn(move || {
            let (mut room, mut good) = ([0; 1_500], good);
            while let Ok((_, from)) = server.recv_from(&mut room) {
                good[..2].copy_from_slice(&room[..2]);
                let _ = server.send_to(&good, from);
            }
        });
        wait_answer(address, &question, PATIENCE).unwrap();
        let seen = closed_loop(address, &[question], Duration::from_millis(50), || Ok(0.0)).unwrap();
        assert!(seen.requests > 0);
    }
}
