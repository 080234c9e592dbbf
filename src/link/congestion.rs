//! Fits [`Congestion`] into quinn's seam for congestion controllers. It decides nothing.

use std::{any::Any, sync::Arc, time::Instant};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig},
};

use crate::model::congestion::{Congestion, CongestionControl};

/// What makes the controllers of connections.
#[must_use]
pub fn controllers(congestion: CongestionControl) -> Arc<dyn ControllerFactory + Send + Sync> {
    match congestion {
        CongestionControl::Delay => Arc::new(Delays),
        CongestionControl::Cubic => Arc::new(CubicConfig::default()),
    }
}

#[derive(Debug)]
struct Delays;

impl ControllerFactory for Delays {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Delay(Congestion::new(now, current_mtu)))
    }
}

/// One connection's.
#[derive(Debug, Clone)]
struct Delay(Congestion);

impl Controller for Delay {
    fn on_sent(&mut self, _now: Instant, bytes: u64, _last_packet_number: u64) {
        self.0.on_sent(bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, rtt: &RttEstimator) {
        self.0.on_ack(now, sent, bytes, rtt.get());
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.0.on_acks_end(now, in_flight, !app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.0.on_loss(now, sent, lost_bytes, persistent);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
