//! Introductions: what we say of ourselves, whose records we pass on, and what follows from those we get.
//!
//! A record is genuine and leads to something by the rules of `model::introduction`. Here they meet the store
//! and the book of what each peer last said of itself. Records are passed on as they came, byte for byte.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use federation_proto::v1;
use prost::Message as _;

use super::join::Ourselves;
use crate::{
    identity::IdentityError,
    model::{
        code::{Code, Problem},
        ids::{ClusterId, Timestamp},
        introduction::{
            Approver, ClusterRecord, Decision, Introducer, IntroductionRefusal, IntroductionRules,
            Introductions as Setting, KnownPeer, check_record, decide,
        },
        limits,
        state::{Event, Peer, Standing, State},
        trust::BundleRefusal,
    },
    store::Store,
    wire,
};

/// Number of the peering that every introduction begins with.
const FIRST_GENERATION: u64 = 1;

/// What followed from a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Taken {
    /// Nothing: it is of ourselves, of a cluster that is known, or no newer than what was heard.
    Nothing,
    /// The sender's own record: these peers are to be told it, as far as sessions with them are.
    PassOn(Vec<(ClusterId, v1::Introduce)>),
    /// A new peer, stored.
    Met {
        /// Its id.
        cluster: ClusterId,
        /// Whether it waits for a person.
        pending: bool,
    },
}

/// What we say, and what was said to us.
#[derive(Debug)]
pub(super) struct Introductions {
    ours: Arc<Ourselves>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    own: Option<Entry>,
    /// What each peer with a session last said of itself.
    heard: BTreeMap<ClusterId, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    introduce: v1::Introduce,
    /// Of the bundle in it.
    sequence: u64,
    issued: Timestamp,
    expires: Timestamp,
}

impl Introductions {
    /// An empty book.
    #[must_use]
    pub(super) fn new(ours: Arc<Ourselves>) -> Self {
        Self { ours, book: Mutex::default() }
    }

    /// Our own record, made anew at half its life.
    ///
    /// # Errors
    /// When it cannot be signed and no earlier one is good.
    pub(super) fn own(&self) -> Result<v1::Introduce, IdentityError> {
        let now = self.ours.clock.wall();
        let mut book = self.book();
        let bundle = self.ours.bundle();
        let of_now =
            |own: &&Entry| own.issued <= now && now < own.expires && own.sequence == bundle.sequence();
        let kept = book.own.as_ref().filter(of_now);
        if let Some(kept) = kept.filter(|own| now.since(own.issued) < limits::INTRODUCTION_LIFE / 2) {
            return Ok(kept.introduce.clone());
        }
        let expires = now.after(limits::INTRODUCTION_LIFE);
        let record = wire::cluster_record_proto(&ClusterRecord {
            cluster: self.ours.identity.cluster().clone(),
            trust_domain: self.ours.identity.trust_domain().clone(),
            bundle: bundle.as_ref().clone(),
            generation: FIRST_GENERATION,
            endpoints: self.ours.endpoints.clone(),
            issued: now,
            expires,
        })
        .encode_to_vec();
        match (self.ours.identity.sign_introduction(&record), kept) {
            (Ok(signature), _) => {
                let introduce = v1::Introduce { record, signature };
                book.own = Some(Entry {
                    introduce: introduce.clone(),
                    sequence: bundle.sequence(),
                    issued: now,
                    expires,
                });
                Ok(introduce)
            }
            (Err(_), Some(kept)) => Ok(kept.introduce.clone()),
            (Err(error), None) => Err(error),
        }
    }

    /// When [`Self::own`] will be another one, and every peer is to be told it.
    #[must_use]
    pub(super) fn renew_at(&self) -> Timestamp {
        let issued = self.book().own.as_ref().map(|own| own.issued);
        issued.map_or(Timestamp(0), |issued| issued.after(limits::INTRODUCTION_LIFE / 2))
    }

    /// What to tell a peer whose session is complete: ourselves, and those with whom we have a session too.
    #[must_use]
    pub(super) fn greet(&self, peer: &ClusterId, state: &State) -> Vec<v1::Introduce> {
        let own = self.own().inspect_err(|error| tracing::error!(%error, "cannot introduce ourselves"));
        let mut told: Vec<_> = own.ok().into_iter().collect();
        if !is_approved(state, peer) {
            return told;
        }
        let now = self.ours.clock.wall();
        let book = self.book();
        let others = book.heard.iter().filter(|(subject, entry)| {
            *subject != peer && is_approved(state, subject) && now < entry.expires
        });
        told.extend(
            others.take(limits::INTRODUCTIONS_PER_PEER_MAX).map(|(_, entry)| entry.introduce.clone()),
        );
        told
    }

    /// The last session with a peer is over: it is no longer passed on.
    pub(super) fn left(&self, peer: &ClusterId) {
        self.book().heard.remove(peer);
    }

    /// Takes a record that came over `from`'s session.
    ///
    /// # Errors
    /// Why it led to nothing; neither state nor book changed.
    pub(super) async fn take(
        &self,
        from: &ClusterId,
        introduce: v1::Introduce,
        store: &Store,
    ) -> Result<Taken, Problem> {
        let record = self.read(&introduce)?;
        let own = &self.ours.identity;
        if record.trust_domain == *own.trust_domain() && record.cluster == *own.cluster() {
            return Ok(Taken::Nothing);
        }
        let state = store.state();
        let Some(sender) = state.peers.get(from) else {
            return Err(Problem::new(Code::NO_SUCH_PEER, format!("{from} is no peer")));
        };
        check_record(&record, &introduce.record, &introduce.signature, self.ours.clock.wall())?;
        if record.trust_domain == sender.trust_domain {
            return self.hear(sender, &record, introduce, &state);
        }
        let (ours, from) = (self.ours.clone(), from.clone());
        store.transact(move |state, now| meet(&ours, state, now, &from, record)).await
    }

    fn read(&self, introduce: &v1::Introduce) -> Result<ClusterRecord, Problem> {
        let unreadable = |why: String| {
            Problem::new(Code::INTRODUCTION_REFUSED, format!("the record cannot be read: {why}"))
        };
        if introduce.record.len() > limits::INTRODUCTION_BYTES_MAX {
            return Err(unreadable(format!("it has {} bytes", introduce.record.len())));
        }
        let record = v1::ClusterRecord::decode(introduce.record.as_slice());
        let record = record.map_err(|error| unreadable(error.to_string()))?;
        wire::cluster_record(record).map_err(|error| unreadable(error.to_string()))
    }

    /// A peer speaks of itself.
    fn hear(
        &self,
        sender: &Peer,
        record: &ClusterRecord,
        introduce: v1::Introduce,
        state: &State,
    ) -> Result<Taken, Problem> {
        if record.cluster != sender.cluster || !sender.bundle.has_key(record.bundle.newest().spki_sha256()) {
            return Err(BundleRefusal::TrustConflict(record.trust_domain.clone()).into());
        }
        let mut book = self.book();
        let is_newer = book.heard.get(&sender.cluster).is_none_or(|known| known.issued < record.issued);
        if !is_newer {
            return Ok(Taken::Nothing);
        }
        let entry = Entry {
            introduce: introduce.clone(),
            sequence: record.bundle.sequence(),
            issued: record.issued,
            expires: record.expires,
        };
        book.heard.insert(sender.cluster.clone(), entry);
        if !sender.serves() {
            return Ok(Taken::PassOn(Vec::new()));
        }
        let others = state.peers.keys().filter(|it| **it != sender.cluster && is_approved(state, it));
        Ok(Taken::PassOn(others.map(|it| (it.clone(), introduce.clone())).collect()))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_approved(state: &State, peer: &ClusterId) -> bool {
    state.peers.get(peer).is_some_and(|peer| peer.serves())
}

/// A peer speaks of another cluster.
fn meet(
    ours: &Ourselves,
    state: &State,
    now: Timestamp,
    from: &ClusterId,
    record: ClusterRecord,
) -> Result<(Vec<Event>, Taken), Problem> {
    let Some(sender) = state.peers.get(from) else {
        return Err(Problem::new(Code::NO_SUCH_PEER, format!("{from} is no peer")));
    };
    let introducer = Introducer {
        cluster: from,
        admitted_directly: sender.serves() && (sender.introduced_by.is_none() || sender.ruling.approved),
        is_issuer: sender.issuer,
        introduced: state.peers.values().filter(|peer| peer.introduced_by.as_ref() == Some(from)).count(),
    };
    let auto_approve: Vec<Approver> =
        state.settings.auto_approve.iter().filter_map(|text| Approver::try_from(text.clone()).ok()).collect();
    let (cluster, trust_domain) = (ours.identity.cluster(), ours.identity.trust_domain());
    let bundle = ours.bundle();
    let rules = IntroductionRules {
        introductions: if state.settings.introductions { Setting::Ask } else { Setting::Refuse },
        auto_approve: &auto_approve,
        own: KnownPeer { cluster, trust_domain, bundle: &bundle },
    };
    let peers: Vec<&Peer> = state.peers.values().map(AsRef::as_ref).collect();
    let known = peers.iter().map(|peer| KnownPeer {
        cluster: &peer.cluster,
        trust_domain: &peer.trust_domain,
        bundle: &peer.bundle,
    });
    let standing = match decide(&record, introducer, &rules, known) {
        Decision::AlreadyKnown => return Ok((Vec::new(), Taken::Nothing)),
        // A setting is no fault of the peer's.
        Decision::Refuse(IntroductionRefusal::Disabled) => return Ok((Vec::new(), Taken::Nothing)),
        Decision::Refuse(refusal) => return Err(refusal.into()),
        Decision::Approve => Standing::Approved,
        Decision::AskPerson => Standing::Pending,
    };
    ours.limits.check_peers(state.peers.len())?;
    let taken = Taken::Met { cluster: record.cluster.clone(), pending: standing == Standing::Pending };
    let peer = Peer {
        cluster: record.cluster,
        trust_domain: record.trust_domain,
        bundle: record.bundle,
        endpoints: record.endpoints,
        generation: record.generation,
        standing,
        introduced_by: Some(from.clone()),
        issuer: false,
        added: now,
        ruling: Default::default(),
    };
    Ok((vec![Event::Peer(peer)], taken))
}

#[cfg(test)]
mod tests;
