//! Which sessions there are with each peer: one a gateway, and whose turn it is to take the peer's catalog.
//!
//! A gateway that opens its control call anew ends the older session. What is said to a peer goes out on its
//! newest session. Only the session that takes the catalog speaks for the peer: it publishes the row that
//! people see, and when it ends the catalog is lost before the next one may begin to take it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use federation_proto::v1::{self, ctl::Message};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::Ledger,
    link::LaneKey,
    model::{
        ids::{ClusterId, GatewayId},
        replication::Importer,
        state::Event,
    },
    store::Store,
};

/// The right to take a peer's catalog, and what was taken before.
pub(super) type Turn = OwnedMutexGuard<Importer>;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<BTreeMap<ClusterId, Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    gateway: GatewayId,
    out: mpsc::Sender<v1::Ctl>,
    replaced: CancellationToken,
}

impl Sessions {
    /// A session begins; an older one with the same gateway is told to end. The token says when this one is.
    pub(super) fn enter(&self, key: &LaneKey, out: mpsc::Sender<v1::Ctl>) -> CancellationToken {
        let replaced = CancellationToken::new();
        let mut sessions = self.lock();
        let entries = sessions.entry(key.cluster.clone()).or_default();
        for older in entries.extract_if(.., |entry| entry.gateway == key.gateway) {
            older.replaced.cancel();
        }
        entries.push(Entry { gateway: key.gateway.clone(), out, replaced: replaced.clone() });
        replaced
    }

    /// A session is over; returns whether the peer has none left because of it.
    pub(super) fn leave(&self, cluster: &ClusterId, out: &mpsc::Sender<v1::Ctl>) -> bool {
        let mut sessions = self.lock();
        let Some(entries) = sessions.get_mut(cluster) else { return false };
        entries.retain(|entry| !entry.out.same_channel(out));
        let last = entries.is_empty();
        if last {
            sessions.remove(cluster);
        }
        last
    }

    /// The peers there is a session with.
    pub(super) fn clusters(&self) -> Vec<ClusterId> {
        self.lock().keys().cloned().collect()
    }

    /// Says something to a peer, if there is a session with it.
    pub(super) fn tell(&self, cluster: &ClusterId, message: Message) {
        if let Some(entry) = self.lock().get(cluster).and_then(|entries| entries.last()) {
            // A peer that reads nothing loses its session by the next heartbeat; records are told again then.
            let _ = entry.out.try_send(v1::Ctl { message: Some(message) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Vec<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a session's turn, if it had one. Whoever takes the catalog next waits until it is known to be lost, so
/// that no late word of an old session stands against a newer one.
pub(super) async fn end_turn(store: &Store, ledger: &Ledger, cluster: &ClusterId, turn: Option<Turn>) {
    let Some(turn) = turn else { return };
    ledger.set_session(cluster.clone(), None);
    // The store is gone only when the process ends.
    let _ = store.apply(Event::SessionLost(cluster.clone())).await;
    drop(turn);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Clock,
        files::Memory,
        identity::{Identity, NewIdentity},
        ledger::SessionRow,
        model::{
            ids::{Epoch, Locality, Timestamp},
            limits,
            replication::Quotas,
            session::SessionState,
            state::{Me, Peer, Settings, Standing, State},
            virtual_ip::VirtualIps,
        },
        supervise::{Shutdown, Tasks},
    };

    fn key(gateway: &str) -> LaneKey {
        let cluster = ClusterId::parse("east").expect("an id");
        LaneKey { cluster, gateway: GatewayId::parse(gateway).expect("an id") }
    }

    fn channel() -> (mpsc::Sender<v1::Ctl>, mpsc::Receiver<v1::Ctl>) {
        mpsc::channel(1)
    }

    #[test]
    fn a_newer_session_of_a_gateway_ends_the_older_one_and_outlives_its_leaving() {
        let (sessions, key) = (Sessions::default(), key("g1"));
        let ((old, _old), (new, mut heard)) = (channel(), channel());
        let replaced = sessions.enter(&key, old.clone());
        let newest = sessions.enter(&key, new.clone());
        assert!(replaced.is_cancelled() && !newest.is_cancelled());
        assert!(!sessions.leave(&key.cluster, &old), "the newer one is still there");
        sessions.tell(&key.cluster, Message::Drain(v1::Drain::default()));
        assert!(heard.try_recv().is_ok());
        assert!(sessions.leave(&key.cluster, &new));
        assert!(sessions.clusters().is_empty());
    }

    #[test]
    fn sessions_with_two_gateways_of_a_peer_stand_beside_each_other() {
        let sessions = Sessions::default();
        let ((one, mut first), (two, _second)) = (channel(), channel());
        let replaced = sessions.enter(&key("g1"), one.clone());
        sessions.enter(&key("g2"), two.clone());
        assert!(!replaced.is_cancelled());
        assert!(!sessions.leave(&key("g2").cluster, &two));
        sessions.tell(&key("g1").cluster, Message::Drain(v1::Drain::default()));
        assert!(first.try_recv().is_ok(), "what is said goes out on the one that is left");
        assert!(sessions.leave(&key("g1").cluster, &one));
    }

    /// A store that knows the peer `east`, and its ledger.
    async fn world(clock: &Clock) -> (Store, Ledger) {
        let identity = |cluster: &str| {
            let cluster = ClusterId::parse(cluster).expect("an id");
            let (root_life, export_secret) = (limits::ROOT_LIFE, [1; 32]);
            let new = NewIdentity { cluster: &cluster, trust_domain: None, root_life, export_secret };
            Identity::create(new, clock.wall()).expect("made").0
        };
        let (west, east) = (identity("west"), identity("east"));
        let me = Me {
            cluster: west.cluster().clone(),
            trust_domain: west.trust_domain().clone(),
            gateway: key("g1").gateway,
            locality: Locality::parse("eu/a").expect("a locality"),
        };
        let ips = VirtualIps::new("127.77.0.0/18".parse().expect("a network")).expect("large enough");
        let tasks = Tasks::inline(Shutdown::new());
        let state = State::new(me, Settings::default(), ips);
        let store =
            Store::start(state, Arc::new(Memory::new()), "gateways/g1".to_owned(), clock.clone(), &tasks);
        let peer = Peer {
            cluster: east.cluster().clone(),
            trust_domain: east.trust_domain().clone(),
            bundle: east.bundle().as_ref().clone(),
            endpoints: Vec::new(),
            generation: 1,
            standing: Standing::Approved,
            introduced_by: None,
            issuer: false,
            added: clock.wall(),
            ruling: Default::default(),
        };
        store.apply(Event::Peer(peer)).await.expect("stored");
        (store, Ledger::new(clock.clone()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_has_no_word_in_what_another_one_takes() {
        let clock = Clock::simulated(1, Timestamp(1_800_000_000_000));
        let ((store, ledger), east) = (world(&clock).await, key("g1").cluster);
        let synced = Event::CatalogSynced(east.clone(), (Epoch([1; 16]), 1));
        let is_lost = || store.state().catalogs.get(&east).is_some_and(|catalog| catalog.lost.is_some());
        let importer = Importer::new(1, Quotas::default(), None, [], clock.now());
        let importer = Arc::new(tokio::sync::Mutex::new(importer));
        let first = importer.clone().lock_owned().await;
        store.apply(synced.clone()).await.expect("stored");
        let next = async {
            let turn = importer.clone().lock_owned().await;
            assert!(is_lost(), "its own word comes after that of the one before");
            store.apply(synced).await.expect("stored");
            turn
        };
        let (_turn, ()) = tokio::join!(next, end_turn(&store, &ledger, &east, Some(first)));
        let row = SessionRow {
            gateway: key("g2").gateway,
            state: SessionState::Live,
            synced: None,
            imported: 0,
            refusals: Vec::new(),
            heartbeat: None,
            holding: None,
        };
        ledger.set_session(east.clone(), Some(row.clone()));
        end_turn(&store, &ledger, &east, None).await;
        assert!(!is_lost());
        assert_eq!(ledger.session(&east), Some(row));
    }
}
