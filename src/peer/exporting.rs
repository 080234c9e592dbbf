//! Feeds our catalog to one gateway of a peer: the shell around `model::replication::Exporter`.
//!
//! The reader never waits for the writer: messages of the importer are taken whenever they come, and the next
//! batch is only made when there is room to send it (P3).

use std::sync::Arc;

use federation_proto::v1;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use super::views::View;
use crate::{
    clock::Clock,
    link::LaneKey,
    model::{
        limits,
        replication::{Exporter, ExporterMessage},
    },
    wire,
};

/// Why feeding ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportingEnd {
    /// The importer closed its side, or the lane is gone.
    #[error("the importer is gone")]
    Gone,
    /// Its messages do not follow the protocol.
    #[error("the importer broke the protocol: {0}")]
    Protocol(String),
    /// The importer opened its catalog anew.
    #[error("the importer opened its catalog anew")]
    Replaced,
    /// It took nothing for too long (P4).
    #[error("the importer took nothing for {} s", limits::SEND_STALL_MAX.as_secs())]
    Stalled,
}

/// Whom a catalog is fed to, and how.
pub(super) struct Exporting {
    pub(super) peer: LaneKey,
    pub(super) view: Arc<View>,
    pub(super) generation: u64,
    pub(super) clock: Clock,
}

impl Exporting {
    /// Feeds until the stream ends.
    pub(super) async fn run(
        self,
        mut incoming: Streaming<v1::Importer>,
        outgoing: mpsc::Sender<Result<v1::Exporter, Status>>,
    ) {
        let gateway = self.peer.gateway.clone();
        let replaced = self.view.begin_feeding(&gateway);
        let fresh = || Exporter::new(self.generation, self.clock.now());
        // One of an older peering would refuse the peer for ever (P24).
        let kept = self.view.take_exporter(&gateway).filter(|kept| kept.generation() == self.generation);
        let mut exporter = kept.unwrap_or_else(fresh);
        exporter.open(self.clock.now());
        let feeding = feed_until_end(&self.view, &mut exporter, &self.clock, &mut incoming, &outgoing);
        let end = replaced.run_until_cancelled(feeding).await.unwrap_or(ExportingEnd::Replaced);
        // Ended, it is nobody's older stream any more.
        replaced.cancel();
        tracing::debug!(peer = %self.peer.cluster, reason = %end, "stopped feeding the catalog");
        self.view.keep_exporter(gateway, exporter);
    }
}

async fn feed_until_end(
    view: &View,
    exporter: &mut Exporter,
    clock: &Clock,
    incoming: &mut Streaming<v1::Importer>,
    outgoing: &mpsc::Sender<Result<v1::Exporter, Status>>,
) -> ExportingEnd {
    let mut changes = view.changes();
    let mut waiting: Option<ExporterMessage> = None;
    loop {
        if waiting.is_none() {
            waiting = exporter.next(&view.log(), clock.now());
        }
        let never = Instant::from_std(clock.now() + limits::DIGEST_INTERVAL);
        let wake = exporter.next_wake(&view.log()).map(Instant::from_std);
        let has_message = waiting.is_some();
        tokio::select! {
            biased;
            message = incoming.message() => {
                let Ok(Some(message)) = message else { return ExportingEnd::Gone };
                let taken = wire::importer_message(message).map_err(|error| error.to_string()).and_then(|message| {
                    exporter.on_message(&view.log(), message, clock.now()).map_err(|error| error.to_string())
                });
                if let Err(error) = taken {
                    let _ = outgoing.try_send(Err(Status::invalid_argument(error.clone())));
                    return ExportingEnd::Protocol(error);
                }
                let head = view.log().head();
                let confirmed = exporter.progress(&view.log()).acked;
                view.confirm(confirmed.unwrap_or(0).min(head));
            }
            room = timeout(limits::SEND_STALL_MAX, outgoing.reserve()), if has_message => {
                let Ok(room) = room else { return ExportingEnd::Stalled };
                let Ok(room) = room else { return ExportingEnd::Gone };
                if let Some(message) = waiting.take() {
                    room.send(Ok(wire::exporter_proto(message)));
                }
            }
            changed = changes.changed(), if !has_message => {
                if changed.is_err() {
                    return ExportingEnd::Gone;
                }
            }
            () = sleep_until(wake.unwrap_or(never)), if wake.is_some() && !has_message => {}
        }
    }
}
