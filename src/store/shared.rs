//! What the gateways of one cluster share: exports (a few files), declared rules, peers and tokens (a file each).
//!
//! One gateway at a time changes them, on what is newest: it takes the right to, reads what others changed,
//! decides, and writes (settled B6). Between its own changes each gateway looks often for those of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::de::DeserializeOwned;

use super::documents::{self, Exports};
use crate::{
    files::{Exclusive, Persist, PersistError, Stamp},
    model::{
        catalog::Export,
        ids::ClusterId,
        state::{Declared, Event, Peer, State},
        token::{TokenId, record::TokenRecord},
    },
};

/// A file that another gateway changed, as it is now.
#[derive(Debug)]
pub(super) enum Found {
    Peer(Box<Peer>),
    NoPeer(ClusterId),
    Token(Box<TokenRecord>),
    NoToken(TokenId),
    /// One of the files of exports.
    Exports(u8, Vec<Arc<Export>>),
    Declared(Declared),
}

/// The shared files as this process last saw them; clones see the same.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    persist: Arc<dyn Persist>,
    seen: Arc<Mutex<BTreeMap<String, Stamp>>>,
}

impl Shared {
    /// Nothing was seen yet: the first look reads everything.
    pub(super) fn new(persist: Arc<dyn Persist>) -> Self {
        Self { persist, seen: Arc::default() }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Stamp>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the right to change them, and what has changed so far. Blocks.
    pub(super) fn begin(&self) -> Result<(Exclusive, Vec<Found>), PersistError> {
        let exclusive = self.persist.exclusive()?;
        let found = self.look()?;
        Ok((exclusive, found))
    }

    /// What has changed since the last look. Blocks.
    pub(super) fn look(&self) -> Result<Vec<Found>, PersistError> {
        let mut paths = vec![documents::DECLARED.to_owned()];
        for folder in [documents::EXPORTS, documents::PEERS, documents::TOKENS] {
            paths.extend(self.persist.list(folder)?.iter().map(|name| format!("{folder}/{name}")));
        }
        let mut found = Vec::new();
        for path in &paths {
            let Some(stamp) = self.persist.stamp(path)? else { continue };
            if self.seen().insert(path.clone(), stamp) == Some(stamp) {
                continue;
            }
            found.extend(self.read(path));
        }
        let there: BTreeSet<&String> = paths.iter().collect();
        let gone: Vec<String> = self.seen().keys().filter(|path| !there.contains(path)).cloned().collect();
        for path in gone {
            self.seen().remove(&path);
            found.extend(removed(&path));
        }
        Ok(found)
    }

    /// A file as it is now; none when it cannot be read, which is told and changes nothing.
    fn read(&self, path: &str) -> Option<Found> {
        if path == documents::DECLARED {
            return self.document(path).map(Found::Declared);
        }
        let (folder, name) = named(path)?;
        if folder == documents::EXPORTS {
            let file = name.parse().ok()?;
            return self.document::<Exports>(path).map(|document| Found::Exports(file, document.exports));
        }
        if folder == documents::PEERS {
            return self.document(path).map(|peer| Found::Peer(Box::new(peer)));
        }
        self.document(path).map(|token| Found::Token(Box::new(token)))
    }

    fn document<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let loaded = self.persist.load(path);
        let bytes = match loaded {
            Ok(loaded) => loaded?.bytes,
            Err(error) => {
                tracing::warn!(file = path, %error, "what another gateway wrote cannot be read");
                return None;
            }
        };
        serde_json::from_slice(&bytes)
            .inspect_err(
                |error| tracing::warn!(file = path, %error, "what another gateway wrote is not understood"),
            )
            .ok()
    }

    /// This process has written, or removed, these. Blocks.
    pub(super) fn wrote(&self, paths: &[String]) {
        for path in paths {
            // What cannot be looked at now is looked at next time.
            match self.persist.stamp(path) {
                Ok(Some(stamp)) => self.seen().insert(path.clone(), stamp),
                Ok(None) | Err(_) => self.seen().remove(path),
            };
        }
    }
}

/// The folder of a file, and what its name says.
fn named(path: &str) -> Option<(&str, &str)> {
    let (folder, name) = path.rsplit_once('/')?;
    Some((folder, name.strip_suffix(".json")?))
}

fn removed(path: &str) -> Option<Found> {
    let (folder, name) = named(path)?;
    match folder {
        documents::EXPORTS => name.parse().ok().map(|file| Found::Exports(file, Vec::new())),
        documents::PEERS => ClusterId::parse(name).ok().map(Found::NoPeer),
        _ => TokenId::parse(name).ok().map(Found::NoToken),
    }
}

/// The events that make the state agree with what was found.
pub(super) fn events(state: &State, found: Vec<Found>) -> Vec<Event> {
    let mut events = Vec::new();
    for found in found {
        match found {
            Found::Peer(peer) => events.push(Event::Peer(*peer)),
            Found::NoPeer(cluster) => events.push(Event::PeerForgotten(cluster)),
            Found::Token(record) if state.tokens.get(&record.id).is_none_or(|known| **known != *record) => {
                events.push(Event::Token(*record));
            }
            Found::Token(_) => {}
            Found::NoToken(id) => events.push(Event::TokenForgotten(id)),
            Found::Declared(declared) => events.push(Event::Declared(declared)),
            Found::Exports(file, exports) => {
                let names: BTreeSet<_> = exports.iter().map(|export| &export.name).collect();
                let here = state.exports.keys().filter(|name| documents::export_file(name) == file);
                events.extend(here.filter(|name| !names.contains(name)).cloned().map(Event::Unexported));
                events
                    .extend(exports.into_iter().map(|export| Event::Exported(Arc::unwrap_or_clone(export))));
            }
        }
    }
    events
}
