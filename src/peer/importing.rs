//! Takes the catalog of one peer from one of its gateways: the shell around `model::replication::Importer`.
//!
//! One stream a peer at a time: whoever has the turn reads, a second lane waits for its own. What arrives is
//! acknowledged after the store has applied it.

use std::{collections::VecDeque, sync::Arc, time::Instant as StdInstant};

use federation_proto::v1::{self, catalog_client::CatalogClient};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    call::{self, CallError},
    sessions::Turn,
};
use crate::{
    clock::Clock,
    link::{Lane, stream::Kind},
    model::{
        ids::ClusterId,
        limits,
        replication::{Action, Importer, ImporterProgress, Quotas, Violation},
        state::{CatalogChange, Event, Peer, State},
    },
    store::{Store, StoreError},
    wire::{self, WireError},
};

/// Why taking the catalog ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportingEnd {
    /// The lane is gone.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The exporter ended the call, or the lane broke.
    #[error("the exporter ended the call: {}", .0.message())]
    Status(#[from] tonic::Status),
    /// The exporter closed its side.
    #[error("the exporter closed the stream")]
    Closed,
    /// A message that is none.
    #[error("the exporter sent nonsense: {0}")]
    Wire(#[from] WireError),
    /// Messages out of order.
    #[error("the exporter broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The store does not take events any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is no peer any more.
    #[error("it is no peer any more")]
    NoPeer,
    /// Acknowledgements do not leave.
    #[error("the exporter does not read what it is told")]
    Stalled,
}

/// What taking a catalog needs.
pub(super) struct Importing {
    pub(super) peer: ClusterId,
    pub(super) lane: Arc<Lane>,
    pub(super) importer: Arc<Mutex<Importer>>,
    pub(super) quotas: Quotas,
    /// HTTP/2 window of its call, in bytes.
    pub(super) window: u32,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) progress: watch::Sender<Option<ImporterProgress>>,
}

impl Importing {
    /// Waits for its turn, which the caller gives back, and takes the catalog until the stream ends.
    pub(super) async fn run(&self, turn: &mut Option<Turn>) -> ImportingEnd {
        let importer = turn.insert(self.importer.clone().lock_owned().await);
        let state = self.store.state();
        let Some(peer) = state.peers.get(&self.peer) else { return ImportingEnd::NoPeer };
        let rows = state.catalogs.get(&self.peer).map_or(0, |held| held.rows.len());
        if !importer.continues(peer.generation, rows) {
            **importer = fresh(&state, peer, self.quotas, self.clock.now());
        }
        match self.follow(importer).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(&self, importer: &mut Importer) -> Result<std::convert::Infallible, ImportingEnd> {
        let subscribe = wire::importer_proto(importer.subscribe());
        // From here on this session speaks for the peer.
        self.progress.send_replace(Some(importer.progress()));
        let channel = call::open(&self.lane, Kind::Catalog, self.window).await?;
        let (sender, receiver) = mpsc::channel::<v1::Importer>(limits::CALL_QUEUE_MAX);
        sender.try_send(subscribe).map_err(|_| ImportingEnd::Stalled)?;
        let mut client =
            CatalogClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX);
        let mut stream = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
        loop {
            self.progress.send_replace(Some(importer.progress()));
            let wake = importer.next_wake().map(Instant::from_std);
            let soon = Instant::from_std(self.clock.now());
            let actions = tokio::select! {
                biased;
                message = stream.message() => {
                    let message = message?.ok_or(ImportingEnd::Closed)?;
                    importer.on_message(wire::exporter_message(message)?, self.clock.now())?
                }
                () = sleep_until(wake.unwrap_or(soon)), if wake.is_some() => {
                    importer.poll(self.clock.now())
                }
            };
            self.carry_out(importer, actions, &sender).await?;
        }
    }

    async fn carry_out(
        &self,
        importer: &mut Importer,
        actions: Vec<Action>,
        sender: &mpsc::Sender<v1::Importer>,
    ) -> Result<(), ImportingEnd> {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let (ticket, rows, swept) = match action {
                Action::Send(message) => {
                    let message = wire::importer_proto(message);
                    sender.try_send(message).map_err(|_| ImportingEnd::Stalled)?;
                    continue;
                }
                Action::Synced => {
                    if let Some(position) = importer.position() {
                        self.store.apply(Event::CatalogSynced(self.peer.clone(), position)).await?;
                    }
                    continue;
                }
                Action::Apply { ticket, changes } => (ticket, changes, Vec::new()),
                Action::Sweep { ticket, names } => (ticket, Vec::new(), names),
            };
            let peer = self.peer.clone();
            let change = CatalogChange { peer, position: importer.position(), rows, swept };
            self.store.apply(Event::Catalog(change)).await?;
            // What confirming brings about is done after what was already asked for.
            actions.extend(importer.applied(ticket, self.clock.now()));
        }
        Ok(())
    }
}

/// An importer that holds what the state does.
pub(super) fn fresh(state: &State, peer: &Peer, quotas: Quotas, now: StdInstant) -> Importer {
    let held = state.catalogs.get(&peer.cluster);
    let rows = held.into_iter().flat_map(|held| held.rows.values().map(AsRef::as_ref));
    let position = held.and_then(|held| held.position);
    Importer::new(peer.generation, quotas, position, rows, now)
}
