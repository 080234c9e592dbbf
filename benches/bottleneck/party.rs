//! One end of a connection and the program that uses it: it sends in bulk, answers requests, or asks.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, Side, StreamId,
    WriteError,
};

/// Datagrams that leave in one call, as quinn sends them.
const BATCH: usize = 10;
/// Bytes of a request.
pub(crate) const REQUEST: usize = 64;
/// Streams that ask.
const ASKING: u64 = 50;
/// Bytes after which a stream ranks below young ones, as in the product.
const YOUNG: u64 = 128 * 1024;

static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// One stream of the side that answers.
#[derive(Debug, Default, Clone, Copy)]
struct Served {
    owed: u64,
    asked: usize,
    written: u64,
    begun: bool,
}

/// One end.
pub(crate) struct Party {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Option<(ConnectionHandle, Connection)>,
    pub(crate) address: SocketAddr,
    /// The other end.
    pub(crate) peer: usize,
    /// When its timer is set, and which setting that is.
    pub(crate) timer: Option<Instant>,
    pub(crate) timer_set: u64,
    /// Bytes of bulk that arrived.
    pub(crate) received: u64,
    /// Round trips of requests: when asked, how long.
    pub(crate) answered: Vec<(Instant, Duration)>,
    /// Why the connection ended, if it did.
    pub(crate) ended: Option<ConnectionError>,
    /// Bytes of an answer.
    answer: usize,
    asked: Vec<(VecDeque<Instant>, usize)>,
    served: Vec<Served>,
    ready: bool,
}

fn stream(index: u64) -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, index)
}

impl Party {
    pub(crate) fn new(endpoint: Endpoint, address: SocketAddr, peer: usize, answer: usize) -> Self {
        Self {
            endpoint,
            connection: None,
            address,
            peer,
            timer: None,
            timer_set: 0,
            received: 0,
            answered: Vec::new(),
            ended: None,
            answer,
            asked: vec![(VecDeque::new(), 0); ASKING as usize + 1],
            served: vec![Served::default(); ASKING as usize + 1],
            ready: false,
        }
    }

    /// A datagram arrived; what the endpoint answers by itself is in the result.
    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut answer = Vec::new();
        match self.endpoint.handle(now, from, None, None, BytesMut::from(bytes), &mut answer)? {
            DatagramEvent::ConnectionEvent(_, event) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
                None
            }
            DatagramEvent::NewConnection(incoming) => {
                let accepted = self.endpoint.accept(incoming, now, &mut answer, None);
                self.connection = accepted.ok();
                None
            }
            DatagramEvent::Response(sent) => {
                answer.truncate(sent.size);
                Some(answer)
            }
        }
    }

    /// Lets everything happen that can; what is to be sent goes to `send`.
    pub(crate) fn drive(&mut self, now: Instant, mut send: impl FnMut(Vec<u8>)) {
        let Some((handle, mut connection)) = self.connection.take() else { return };
        loop {
            let mut buffer = Vec::new();
            while let Some(sent) = connection.poll_transmit(now, BATCH, &mut buffer) {
                let segment = sent.segment_size.unwrap_or(sent.size);
                buffer[..sent.size].chunks(segment).for_each(|datagram| send(datagram.to_vec()));
                buffer.clear();
            }
            let mut again = false;
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(handle, event) {
                    connection.handle_event(event);
                    again = true;
                }
            }
            while let Some(event) = connection.poll() {
                again = true;
                match event {
                    Event::Connected => self.ready = true,
                    Event::ConnectionLost { reason } => self.ended = Some(reason),
                    _ => {}
                }
            }
            if again {
                self.listen(&mut connection, now);
            } else {
                break;
            }
        }
        self.timer = connection.poll_timeout();
        self.connection = Some((handle, connection));
    }

    /// Opens the streams of the side that asks.
    pub(crate) fn open(&mut self) {
        if let Some((_, connection)) = &mut self.connection {
            while connection.streams().open(Dir::Bi).is_some_and(|id| id.index() < ASKING) {}
        }
    }

    /// Asks for bytes without end.
    pub(crate) fn ask_bulk(&mut self) {
        if let Some((_, connection)) = &mut self.connection {
            let _ = connection.send_stream(stream(0)).write(&[1]);
        }
    }

    /// Sends the request number `number`.
    pub(crate) fn ask(&mut self, now: Instant, number: u64) {
        let index = 1 + number % ASKING;
        if let Some((_, connection)) = &mut self.connection {
            self.asked[index as usize].0.push_back(now);
            // A request never fills the stream's window: what is not taken is counted as unanswered.
            let _ = connection.send_stream(stream(index)).write(&[0; REQUEST]);
        }
    }

    /// Requests asked and not answered: since when.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = Instant> {
        self.asked.iter().flat_map(|(asked, _)| asked.iter().copied())
    }

    fn listen(&mut self, connection: &mut Connection, now: Instant) {
        while connection.streams().accept(Dir::Bi).is_some() {}
        for index in 0..=ASKING {
            let read = read(connection, index);
            if connection.side().is_client() {
                self.take(now, index, read);
            } else {
                self.serve(connection, index, read);
            }
        }
    }

    fn take(&mut self, now: Instant, index: u64, read: usize) {
        if index == 0 {
            self.received += read as u64;
            return;
        }
        let (asked, arrived) = &mut self.asked[index as usize];
        *arrived += read;
        while *arrived >= self.answer {
            *arrived -= self.answer;
            if let Some(since) = asked.pop_front() {
                self.answered.push((since, now - since));
            }
        }
    }

    fn serve(&mut self, connection: &mut Connection, index: u64, read: usize) {
        let served = &mut self.served[index as usize];
        served.asked += read;
        if index == 0 {
            served.owed = if served.asked > 0 { u64::MAX } else { 0 };
        } else {
            served.owed += ((served.asked / REQUEST) * self.answer) as u64;
            served.asked %= REQUEST;
        }
        if served.owed > 0 && !served.begun {
            served.begun = true;
            let _ = connection.send_stream(stream(index)).set_priority(1);
        }
        while served.owed > 0 {
            let wanted = usize::try_from(served.owed).unwrap_or(usize::MAX).min(ZEROES.len());
            match connection.send_stream(stream(index)).write(&ZEROES[..wanted]) {
                Ok(written) => {
                    let before = served.written;
                    served.written += written as u64;
                    if index > 0 {
                        served.owed -= written as u64;
                    }
                    if before < YOUNG && served.written >= YOUNG {
                        let _ = connection.send_stream(stream(index)).set_priority(0);
                    }
                }
                Err(WriteError::Blocked | _) => break,
            }
        }
    }
}

fn read(connection: &mut Connection, index: u64) -> usize {
    let mut bytes = 0;
    let mut stream = connection.recv_stream(stream(index));
    if let Ok(mut chunks) = stream.read(true) {
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            bytes += chunk.bytes.len();
        }
        let _ = chunks.finalize();
    }
    bytes
}
