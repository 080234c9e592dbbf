//! Takes the catalog of one peer from one of its gateways: the shell around `model::replication::Importer`.
//!
//! One stream a peer at a time: whoever holds the importer's lock reads, a second lane waits its turn. What
//! arrives is acknowledged after the store has applied it.

use std::{collections::VecDeque, sync::Arc};

use federation_proto::v1::{self, catalog_client::CatalogClient};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

use super::call::{self, CallError};
use crate::{
    clock::Clock,
    link::{Lane, stream::Kind},
    model::{
        ids::ClusterId,
        limits,
        replication::{Action, Importer, ImporterProgress, Violation},
        state::{CatalogChange, Event},
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
    /// Acknowledgements do not leave.
    #[error("the exporter does not read what it is told")]
    Stalled,
}

/// What taking a catalog needs.
pub(super) struct Importing {
    pub(super) peer: ClusterId,
    pub(super) lane: Arc<Lane>,
    pub(super) importer: Arc<Mutex<Importer>>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) progress: watch::Sender<Option<ImporterProgress>>,
}

impl Importing {
    /// Takes the catalog until the stream ends.
    pub(super) async fn run(&self) -> ImportingEnd {
        let mut importer = self.importer.lock().await;
        match self.follow(&mut importer).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(&self, importer: &mut Importer) -> Result<std::convert::Infallible, ImportingEnd> {
        let channel = call::open(&self.lane, Kind::Catalog).await?;
        let (sender, receiver) = mpsc::channel::<v1::Importer>(limits::CALL_QUEUE_MAX);
        let subscribe = wire::importer_proto(importer.subscribe());
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
