//! What was written and is not yet seen: until the API server's watches bring it back, nobody writes it a second
//! time, and nobody else gets its ports. Pure.

use std::{collections::BTreeMap, time::Instant};

use super::{
    importing::Kind,
    seen::{Key, Written},
};
use crate::model::{entrance::Entrance, ids::ServiceName, virtual_ip::VipKey};

/// An object as the API server answered it.
#[derive(Debug, Clone)]
struct Note {
    written: Written,
    /// After that, what is seen holds, whatever it is.
    until: Instant,
}

/// The notes of one name.
#[derive(Debug, Clone, Default)]
struct OfName {
    entrances: BTreeMap<VipKey, Entrance>,
    objects: BTreeMap<(Kind, Key), Note>,
}

/// The notes of all names.
#[derive(Debug, Default)]
pub(super) struct Notes {
    names: BTreeMap<ServiceName, OfName>,
    /// Ports of noted entrances, and how many have them.
    ports: BTreeMap<u16, usize>,
}

impl Notes {
    /// Notes the addresses and ports of a derived Service, which are taken from now on.
    pub(super) fn entrance(&mut self, key: VipKey, entrance: Entrance) {
        for port in &entrance.ports {
            *self.ports.entry(port.listening).or_default() += 1;
        }
        let before = self.names.entry(key.service().clone()).or_default().entrances.insert(key, entrance);
        self.release(before);
    }

    /// Notes an object as it was answered.
    pub(super) fn object(&mut self, name: &ServiceName, at: (Kind, Key), written: Written, until: Instant) {
        let note = Note { written, until };
        self.names.entry(name.clone()).or_default().objects.insert(at, note);
    }

    /// The addresses and ports of a derived Service.
    pub(super) fn entrance_of(&self, key: &VipKey) -> Option<&Entrance> {
        self.names.get(key.service())?.entrances.get(key)
    }

    /// An object as it was answered.
    pub(super) fn object_at(&self, name: &ServiceName, at: &(Kind, Key)) -> Option<&Written> {
        Some(&self.names.get(name)?.objects.get(at)?.written)
    }

    /// Whether a noted entrance has that port.
    pub(super) fn is_entrance(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    /// Drops what was seen since, or is too old, and tells when the rest will be.
    pub(super) fn forget(
        &mut self,
        name: &ServiceName,
        now: Instant,
        entrance_seen: impl Fn(&VipKey, &Entrance) -> bool,
        object_seen: impl Fn(&(Kind, Key), &Written) -> bool,
    ) -> Option<Instant> {
        let notes = self.names.get_mut(name)?;
        let seen: Vec<VipKey> = notes
            .entrances
            .iter()
            .filter(|(key, entrance)| entrance_seen(key, entrance))
            .map(|(key, _)| key.clone())
            .collect();
        let gone: Vec<Option<Entrance>> = seen.iter().map(|key| notes.entrances.remove(key)).collect();
        notes.objects.retain(|at, note| note.until > now && !object_seen(at, &note.written));
        let next = notes.objects.values().map(|note| note.until).min();
        if notes.entrances.is_empty() && notes.objects.is_empty() {
            self.names.remove(name);
        }
        gone.into_iter().for_each(|entrance| self.release(entrance));
        next
    }

    /// Forgets an object that was deleted.
    pub(super) fn deleted(&mut self, name: &ServiceName, at: &(Kind, Key), entrance: Option<&VipKey>) {
        let Some(notes) = self.names.get_mut(name) else { return };
        notes.objects.remove(at);
        let gone = entrance.and_then(|key| notes.entrances.remove(key));
        self.release(gone);
    }

    fn release(&mut self, entrance: Option<Entrance>) {
        for port in entrance.iter().flat_map(|entrance| &entrance.ports) {
            let count = self.ports.get(&port.listening).copied().unwrap_or(0);
            if count > 1 {
                self.ports.insert(port.listening, count - 1);
            } else {
                self.ports.remove(&port.listening);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Clock,
        model::{catalog::Protocol, entrance::EntrancePort},
    };

    fn entrance(listening: u16) -> Entrance {
        let port = EntrancePort { protocol: Protocol::Tcp, number: 80, listening };
        Entrance { addresses: Vec::new(), ports: vec![port] }
    }

    #[test]
    fn a_port_is_taken_until_its_entrance_is_seen() {
        let (mut notes, now) = (Notes::default(), Clock::system().now());
        let key: VipKey = "shop/web".parse().expect("a key");
        notes.entrance(key.clone(), entrance(12_000));
        // The answer says the same once more.
        notes.entrance(key.clone(), entrance(12_000));
        assert!(notes.is_entrance(12_000) && notes.entrance_of(&key).is_some());
        notes.forget(key.service(), now, |_, _| false, |_, _| false);
        assert!(notes.is_entrance(12_000));
        notes.forget(key.service(), now, |_, _| true, |_, _| false);
        assert!(!notes.is_entrance(12_000) && notes.entrance_of(&key).is_none());
        assert!(notes.names.is_empty() && notes.ports.is_empty());
    }

    #[test]
    fn an_object_is_believed_until_it_is_seen_or_too_old() {
        let (mut notes, now) = (Notes::default(), Clock::system().now());
        let name = ServiceName::parse("shop/web").expect("a name");
        let at = (Kind::Import, Key::new("shop", "web"));
        let written = Written { labels: BTreeMap::new(), annotations: BTreeMap::new(), data: true.into() };
        let later = now + Duration::from_secs(5);
        notes.object(&name, at.clone(), written.clone(), later);
        assert_eq!(notes.forget(&name, now, |_, _| false, |_, _| false), Some(later));
        assert_eq!(notes.object_at(&name, &at), Some(&written));
        assert_eq!(notes.forget(&name, later, |_, _| false, |_, _| false), None);
        assert!(notes.object_at(&name, &at).is_none());
        notes.object(&name, at.clone(), written.clone(), later);
        assert_eq!(notes.forget(&name, now, |_, _| false, |_, seen| *seen == written), None);
        assert!(notes.names.is_empty());
    }
}
