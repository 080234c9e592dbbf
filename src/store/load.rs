//! Reads the state folder back: what was held to be true when the process last ran.

use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;

use super::documents::{self, Exports, Snapshot};
use crate::{
    files::{Persist, PersistError},
    model::{
        ids::{ClusterId, Timestamp},
        state::{Declared, Event, Me, Peer, Settings, State},
        token::record::TokenRecord,
        virtual_ip::VirtualIps,
    },
};

/// A loaded state, and what a person should know of how it was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Peers, tokens, exports of `tombolo export`, catalogs and virtual IPs.
    pub state: State,
    /// Files whose previous copy had to be used, or that are left aside.
    pub warnings: Vec<PersistError>,
}

/// Reads everything. `fresh` is the block of virtual IPs to use when none is on disk, or another one is.
///
/// # Errors
/// [`PersistError`] for a record that must last and cannot be read. A catalog that cannot be read is left aside
/// with a warning, because its peer sends it again; so is a damaged peer, which is then not trusted.
pub fn load(
    persist: &Arc<dyn Persist>,
    folder: &str,
    me: Me,
    settings: Settings,
    fresh: VirtualIps,
    now: Timestamp,
) -> Result<Loaded, PersistError> {
    let mut reader = Reader { persist: persist.as_ref(), warnings: Vec::new() };
    let virtual_ips = match reader.read::<VirtualIps>(&documents::virtual_ips(folder))? {
        Some(kept) if kept.range() == fresh.range() => kept,
        Some(kept) => kept.moved_to(fresh.range()).unwrap_or(fresh),
        None => fresh,
    };
    let mut state = State::new(me, settings, virtual_ips);
    state.entrances = reader.read(&documents::entrances(folder))?;
    let mut events: Vec<Event> = Vec::new();
    for name in persist.list(documents::PEERS)? {
        let path = format!("{}/{name}", documents::PEERS);
        match reader.read::<Peer>(&path) {
            Ok(peer) => events.extend(peer.map(Event::Peer)),
            // Without its record a peer is not trusted; the others must not go down with it. The file stays.
            Err(error @ PersistError::Corrupt { .. }) => reader.warnings.push(error),
            Err(error) => return Err(error),
        }
    }
    for name in persist.list(documents::TOKENS)? {
        events
            .extend(reader.read::<TokenRecord>(&format!("{}/{name}", documents::TOKENS))?.map(Event::Token));
    }
    events.extend(reader.read::<Declared>(documents::DECLARED)?.map(Event::Declared));
    for name in persist.list(documents::EXPORTS)? {
        let path = format!("{}/{name}", documents::EXPORTS);
        let exports = reader.read::<Exports>(&path)?.unwrap_or_default().exports;
        events.extend(exports.into_iter().map(|export| Event::Exported(Arc::unwrap_or_clone(export))));
    }
    events.extend(reader.catalogs(folder)?);
    for event in events {
        state.apply(event, now);
    }
    Ok(Loaded { state, warnings: reader.warnings })
}

/// The block of virtual IPs this gateway held when it last ran.
///
/// # Errors
/// [`PersistError`] when the file is there and cannot be read.
pub fn held_block(persist: &Arc<dyn Persist>, folder: &str) -> Result<Option<Ipv4Net>, PersistError> {
    let mut reader = Reader { persist: persist.as_ref(), warnings: Vec::new() };
    Ok(reader.read::<VirtualIps>(&documents::virtual_ips(folder))?.map(|held| held.range()))
}

struct Reader<'a> {
    persist: &'a dyn Persist,
    warnings: Vec<PersistError>,
}

impl Reader<'_> {
    fn read<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>, PersistError> {
        let Some(loaded) = self.persist.load(path)? else { return Ok(None) };
        self.warnings.extend(PersistError::warning(path, &loaded));
        if loaded.recovered_from_backup {
            // Else the one good copy is all there is until the next change. A disk that fails says so then.
            let _ = self.persist.commit(path, &loaded.bytes);
        }
        match serde_json::from_slice(&loaded.bytes) {
            Ok(document) => Ok(Some(document)),
            Err(error) => {
                tracing::error!(file = path, %error, "a state file holds something else than it should");
                Err(PersistError::Corrupt { path: path.into(), recovered: false })
            }
        }
    }

    fn catalogs(&mut self, folder: &str) -> Result<Vec<Event>, PersistError> {
        let mut events = Vec::new();
        for name in self.persist.list(&documents::catalogs(folder))? {
            let Some(peer) = name.strip_suffix(".snap").and_then(|id| ClusterId::parse(id).ok()) else {
                continue;
            };
            match self.read::<Snapshot>(&documents::catalog(folder, &peer)) {
                Ok(Some(Snapshot { position, current, rows })) => {
                    let rows = rows.into_iter().map(Arc::unwrap_or_clone).collect();
                    events.push(Event::CatalogLoaded { peer, position, rows, current });
                }
                Ok(None) => {}
                Err(error) => self.warnings.push(error),
            }
        }
        Ok(events)
    }
}
