//! What stands behind and before a gateway in the tests: a small application, DNS questions, a client.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An application that tells everybody `words`, until the test ends; its address.
pub(crate) fn application(words: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, words) = (listener.local_addr().expect("bound"), words.to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let _ = (&client).write_all(words.as_bytes());
        }
    });
    address
}

/// What the application at `address` says, if one answers at once.
pub(crate) fn said_by(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    question.to_vec().expect("a packet")
}

/// One question over UDP.
pub(crate) fn dig(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("set");
    socket.send_to(&question(name, kind), server).expect("sent");
    let mut buffer = [0; 4096];
    let size = socket.recv(&mut buffer).expect("an answer");
    Message::from_vec(&buffer[..size]).expect("a message")
}

/// One question over TCP.
pub(crate) fn dig_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).expect("connected");
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("set");
    let packet = question(name, kind);
    let length = u16::try_from(packet.len()).expect("short").to_be_bytes();
    stream.write_all(&[&length[..], &packet].concat()).expect("sent");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).expect("an answer");
    Message::from_vec(&answer).expect("a message")
}

/// The answer's code.
pub(crate) fn code(answer: &Message) -> ResponseCode {
    answer.metadata.response_code
}

/// The address in an answer.
pub(crate) fn address(answer: &Message) -> Option<Ipv4Addr> {
    answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(Ipv4Addr::from(*address)),
        _ => None,
    })
}

/// The port in an answer.
pub(crate) fn port(answer: &Message) -> Option<u16> {
    answer.answers.iter().find_map(|record| match &record.data {
        RData::SRV(srv) => Some(srv.port),
        _ => None,
    })
}

/// Where a client finds port `port` of `name`: the A record, and the port that SRV tells.
pub(crate) fn place(server: SocketAddr, name: &str, number: u16) -> Option<SocketAddr> {
    let ip = address(&dig(server, name, RecordType::A))?;
    let service = format!("_tcp-{number}._tcp.{name}");
    Some((ip, port(&dig(server, &service, RecordType::SRV))?).into())
}
