//! How many holes one stream may have before quinn-proto ends its connection, beside the windows we grant.
//!
//! A sender that overshoots a short queue loses about every second datagram. What follows the first of them waits
//! in the receiver, with a hole between any two, and quinn-proto, once it holds 2,048 pieces, takes no more than 1,024 of them. So no sender
//! may be granted more of one stream than that many holes. The worst case is played here, in virtual time.
#![expect(clippy::disallowed_methods, reason = "its virtual clock begins at an instant, whichever")]

#[path = "../benches/bottleneck/tls.rs"]
mod tls;

use std::{
    any::Any,
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, RttEstimator, Side,
    StreamId,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};
use tombolo::model::limits::STREAM_WINDOW_BYTES;

/// Sends whatever the windows allow, whatever is lost.
#[derive(Debug, Clone)]
struct Overshoots;

impl ControllerFactory for Overshoots {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for Overshoots {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_ack(&mut self, _: Instant, _: Instant, _: u64, _: bool, _: &RttEstimator) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        1 << 30
    }

    fn metrics(&self) -> ControllerMetrics {
        ControllerMetrics::default()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// One end of the connection.
struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    address: SocketAddr,
    connected: bool,
    ended: Option<ConnectionError>,
}

impl End {
    fn new(endpoint: Endpoint, last: u8) -> Self {
        let address = SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), 4433));
        Self { endpoint, connection: None, address, connected: false, ended: None }
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let mut answer = Vec::new();
        match self.endpoint.handle(now, from, None, None, BytesMut::from(datagram), &mut answer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.connection = self.endpoint.accept(incoming, now, &mut answer, None).ok();
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    /// What it has to send now.
    fn drive(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let Some((handle, connection)) = &mut self.connection else { return Vec::new() };
        if connection.poll_timeout().is_some_and(|due| due <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.ended = Some(reason),
                _ => {}
            }
        }
        let (mut sent, mut buffer) = (Vec::new(), Vec::new());
        while let Some(transmit) = connection.poll_transmit(now, 1, &mut buffer) {
            sent.push(buffer[..transmit.size].to_vec());
            buffer.clear();
        }
        sent
    }

    fn stream(&mut self) -> (&mut Connection, StreamId) {
        (&mut self.connection.as_mut().expect("connected").1, StreamId::new(Side::Client, Dir::Bi, 0))
    }

    /// Writes as much as it may.
    fn write(&mut self) {
        static PIECE: [u8; 64 * 1024] = [7; 64 * 1024];
        let (connection, stream) = self.stream();
        while connection.send_stream(stream).write(&PIECE).is_ok() {}
    }

    /// Reads what is there in order.
    fn read(&mut self) -> u64 {
        let (connection, stream) = self.stream();
        let _ = connection.streams().accept(Dir::Bi);
        let mut receiving = connection.recv_stream(stream);
        let Ok(mut chunks) = receiving.read(true) else { return 0 };
        let mut bytes = 0;
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            bytes += chunk.bytes.len() as u64;
        }
        let _ = chunks.finalize();
        bytes
    }
}

/// A sender with a window of one stream of so many bytes loses every second full datagram until the first of them
/// comes once more, and nothing before and after. Gives what arrived in the end, or why it ended.
fn overshoot(window: u64) -> Result<u64, ConnectionError> {
    const STEP: Duration = Duration::from_millis(5);
    /// Long enough for a window to be sent before any loss is known.
    const WAY: Duration = Duration::from_millis(100);
    let (tls, maker): (_, tls::Maker) = (tls::Tls::new(), Arc::new(Overshoots));
    let mut receiver =
        End::new(Endpoint::new(tls::endpoint(1), Some(tls.server(&maker, window)), true, None), 1);
    let mut sender = End::new(Endpoint::new(tls::endpoint(2), None, true, None), 2);
    let mut now = Instant::now();
    sender.connection =
        sender.endpoint.connect(now, tls.client(&maker, window), receiver.address, tls::NAME).ok();
    let mut under_way: VecDeque<(Instant, bool, Vec<u8>)> = VecDeque::new();
    let (mut began, mut full, mut arrived) = (false, 0_usize, 0);
    for _ in 0..4_000 {
        now += STEP;
        while under_way.front().is_some_and(|(arrives, ..)| *arrives <= now) {
            let Some((_, forth, datagram)) = under_way.pop_front() else { break };
            let (to, from) =
                if forth { (&mut receiver, sender.address) } else { (&mut sender, receiver.address) };
            to.receive(now, from, &datagram);
        }
        if began {
            sender.write();
        } else if sender.connected && receiver.connected {
            began = sender.stream().0.streams().open(Dir::Bi).is_some();
        }
        // As long as there is nothing to read, the first of them is missing.
        let loses = began && arrived == 0;
        for datagram in sender.drive(now) {
            let counts = loses && datagram.len() >= 1_200;
            full += usize::from(counts);
            if !(counts && full % 2 == 1) {
                under_way.push_back((now + WAY, true, datagram));
            }
        }
        under_way.extend(receiver.drive(now).into_iter().map(|datagram| (now + WAY, false, datagram)));
        if let Some(ended) = receiver.ended.take().or_else(|| sender.ended.take()) {
            return Err(ended);
        }
        if began {
            arrived += receiver.read();
        }
        if arrived >= 3 * window {
            break;
        }
    }
    Ok(arrived)
}

#[test]
fn every_second_datagram_of_the_largest_window_may_be_lost() {
    let arrived = overshoot(STREAM_WINDOW_BYTES).expect("the connection lives");
    assert!(arrived >= 3 * STREAM_WINDOW_BYTES, "{arrived} bytes arrived");
}

/// Fails when quinn-proto learns to hold more: then the largest window may grow.
#[test]
fn in_a_window_of_8_mib_that_ends_the_connection() {
    let ended = overshoot(8 << 20).expect_err("more holes than quinn-proto takes");
    assert!(ended.to_string().contains("too many gaps"), "{ended}");
}
