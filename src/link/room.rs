//! Room for probes on a path that has gone quiet.
//!
//! Nothing is acknowledged while a path is dead, so what was sent before fills the congestion window, and the
//! datagrams that would show that it lives again wait behind it until the transport's own probe timeout, which
//! doubles each time: after a blackout of 2 s that is too late to keep the lane. So each probe of a lane in
//! doubt brings its own room. It is no congestion control: what the window is, the controller inside says.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use quinn::{
    Connection,
    congestion::{Controller, ControllerFactory},
};
use quinn_proto::RttEstimator;

use crate::model::limits::{PROBE_ROOM_BYTES, PROBE_ROOM_BYTES_MAX};

/// Makes controllers with room for probes.
pub(super) struct Roomy(pub(super) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for Roomy {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = self.0.clone().build(now, mtu);
        Box::new(WithRoom { inner, room: Room::default() })
    }
}

/// The room of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<AtomicU64>);

impl Room {
    /// That of a connection; one of its own when another controller drives it.
    pub(super) fn of(connection: &Connection) -> Self {
        let state = connection.congestion_state().into_any().downcast::<WithRoom>();
        state.map(|with| with.room).unwrap_or_default()
    }

    /// One probe more may be sent.
    pub(super) fn add(&self) {
        let more = self.0.load(Ordering::Relaxed) + PROBE_ROOM_BYTES;
        self.0.store(more.min(PROBE_ROOM_BYTES_MAX), Ordering::Relaxed);
    }

    /// The path lives: its window is what its controller says.
    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

struct WithRoom {
    inner: Box<dyn Controller>,
    room: Room,
}

impl Controller for WithRoom {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window() + self.room.0.load(Ordering::Relaxed)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), room: self.room.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, link::congestion::controllers, model::congestion::CongestionControl};

    #[test]
    fn each_probe_in_doubt_widens_the_window_until_the_path_lives() {
        let now = Clock::system().now();
        let controller = Arc::new(Roomy(controllers(CongestionControl::Cubic))).build(now, 1_200);
        let plain = controller.window();
        let room = controller.clone_box().into_any().downcast::<WithRoom>().map(|with| with.room);
        let room = room.expect("ours");
        room.add();
        assert_eq!(controller.window(), plain + PROBE_ROOM_BYTES);
        (0..1_000).for_each(|_| room.add());
        assert_eq!(controller.window(), plain + PROBE_ROOM_BYTES_MAX);
        room.clear();
        assert_eq!(controller.window(), plain);
    }
}
