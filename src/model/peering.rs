//! What the verbs of a peer do to its record: pure, so that a peer that is dead is treated as one that lives.
//!
//! Closing connections, taking names away and telling the other side follow from the record; they are for
//! those who read it.

use std::fmt;

use super::{
    code::{Code, Problem},
    ids::Timestamp,
    state::{BlockedKey, Peer, Ruling, Standing},
};

/// What a person may ask about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Trust stays; no names, no streams.
    Pause,
    /// The end of a pause.
    Resume,
    /// End the peering: drop trust and keep a tombstone.
    Remove,
    /// End it without a word to the other side, and block its trust domain and keys.
    Revoke,
    /// Drop the tombstone.
    Forget,
    /// Let an introduced peer, or one whose token asked for it, be a member.
    Approve,
}

impl Verb {
    /// By its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pause, Self::Resume, Self::Remove, Self::Revoke, Self::Forget, Self::Approve]
            .into_iter()
            .find(|verb| verb.as_str() == word)
    }

    /// The word on the command line and in paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Remove => "remove",
            Self::Revoke => "revoke",
            Self::Forget => "forget",
            Self::Approve => "approve",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of the record.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is so already.
    Nothing,
    /// The record is this from now on.
    Changed(Box<Peer>),
    /// Nothing of it is remembered.
    Forgotten,
}

/// Decides on a verb. `keys` are those the peer's gateways prove with now; they matter to a revocation.
///
/// # Errors
/// [`Code::PEER_NOT_FIT`] when the peer is in a state in which the verb means nothing.
pub fn decide(verb: Verb, peer: &Peer, keys: Vec<BlockedKey>, now: Timestamp) -> Result<Outcome, Problem> {
    let changed =
        |standing, ruling| Ok(Outcome::Changed(Box::new(Peer { standing, ruling, ..peer.clone() })));
    let since = Some(now);
    let kept = || peer.ruling.clone();
    let cluster = &peer.cluster;
    let unfit = |why: &str, fix: String| {
        Err(Problem::new(Code::PEER_NOT_FIT, format!("{cluster} {why}")).with_fix(fix))
    };
    match (verb, peer.standing) {
        (Verb::Pause, Standing::Approved) if peer.ruling.paused.is_some() => Ok(Outcome::Nothing),
        (Verb::Pause, Standing::Approved) => changed(peer.standing, Ruling { paused: since, ..kept() }),
        (Verb::Pause, Standing::Pending) => {
            unfit("is not approved, so there is nothing to pause", format!("see `tombolo peers {cluster}`"))
        }
        (Verb::Resume, Standing::Approved | Standing::Pending) if peer.ruling.paused.is_none() => {
            Ok(Outcome::Nothing)
        }
        (Verb::Resume, Standing::Approved | Standing::Pending) => {
            changed(peer.standing, Ruling { paused: None, ..kept() })
        }
        (Verb::Remove, Standing::Terminated) | (Verb::Revoke, Standing::Revoked) => Ok(Outcome::Nothing),
        (Verb::Remove, Standing::Revoked) => unfit(
            "is revoked, which is more than removed",
            format!("drop the block: `tombolo peer forget {cluster}`"),
        ),
        (Verb::Remove, _) => {
            let reason = "removed here".to_owned();
            changed(Standing::Terminated, Ruling { paused: None, since, reason, ..kept() })
        }
        (Verb::Revoke, _) => {
            let reason = "revoked here".to_owned();
            let blocked = [kept().blocked, keys].concat();
            changed(Standing::Revoked, Ruling { paused: None, since, reason, blocked, ..kept() })
        }
        (Verb::Forget, Standing::Terminated | Standing::Revoked) => Ok(Outcome::Forgotten),
        (Verb::Forget, _) => {
            unfit("is still a peer", format!("remove it first: `tombolo peer remove {cluster}`"))
        }
        (Verb::Approve, Standing::Approved) => Ok(Outcome::Nothing),
        (Verb::Approve, Standing::Pending) => {
            changed(Standing::Approved, Ruling { since, approved: true, ..kept() })
        }
        (Verb::Pause | Verb::Resume | Verb::Approve, _) => unfit(
            "is not trusted any more",
            format!("join it anew: `tombolo token create --for {cluster}` here, `tombolo join -` there"),
        ),
    }
}

/// The other side ended the peering (P24). `None` when its word is of an older peering, or nothing changes.
#[must_use]
pub fn terminated_by_peer(peer: &Peer, generation: u64, reason: &str, now: Timestamp) -> Option<Peer> {
    const REASON_CHARS_MAX: usize = 200;
    if generation < peer.generation || peer.is_tombstone() {
        return None;
    }
    let shown: String = reason.chars().filter(|letter| !letter.is_control()).take(REASON_CHARS_MAX).collect();
    let reason = format!("{} says: {shown}", peer.cluster);
    let ruling = Ruling { paused: None, since: Some(now), reason, ..peer.ruling.clone() };
    Some(Peer { standing: Standing::Terminated, ruling, ..peer.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ids::ClusterId, trust::tests as roots};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn peer(standing: Standing) -> Peer {
        Peer {
            cluster: ClusterId::parse("west").expect("an id"),
            trust_domain: crate::model::ids::TrustDomain::parse("west.test").expect("a domain"),
            bundle: roots::bundle_of(1, &[&roots::root_of("west.test").0]),
            endpoints: Vec::new(),
            generation: 3,
            standing,
            introduced_by: None,
            issuer: false,
            added: Timestamp(1),
            ruling: Ruling::default(),
        }
    }

    fn after(verb: Verb, peer: &Peer) -> Peer {
        match decide(verb, peer, Vec::new(), NOW) {
            Ok(Outcome::Changed(peer)) => *peer,
            other => panic!("{verb}: {other:?}"),
        }
    }

    #[test]
    fn a_paused_peer_keeps_its_trust_and_serves_nothing() {
        let paused = after(Verb::Pause, &peer(Standing::Approved));
        assert!(paused.is_trusted() && !paused.serves());
        assert_eq!(decide(Verb::Pause, &paused, Vec::new(), NOW).expect("fine"), Outcome::Nothing);
        assert!(after(Verb::Resume, &paused).serves());
    }

    #[test]
    fn what_ends_a_peering_leaves_a_tombstone_that_only_forget_drops() {
        for (verb, standing) in [(Verb::Remove, Standing::Terminated), (Verb::Revoke, Standing::Revoked)] {
            for before in [Standing::Approved, Standing::Pending, Standing::Distrusted] {
                let ended = after(verb, &peer(before));
                assert_eq!((ended.standing, ended.generation), (standing, 3));
                assert!(!ended.is_trusted() && !ended.serves() && ended.is_tombstone());
                assert_eq!(decide(verb, &ended, Vec::new(), NOW).expect("fine"), Outcome::Nothing);
                for verb in [Verb::Pause, Verb::Resume, Verb::Approve] {
                    let problem = decide(verb, &ended, Vec::new(), NOW).expect_err("refused");
                    assert_eq!(problem.code, Code::PEER_NOT_FIT);
                }
                assert_eq!(decide(Verb::Forget, &ended, Vec::new(), NOW).expect("fine"), Outcome::Forgotten);
            }
        }
        assert!(decide(Verb::Forget, &peer(Standing::Approved), Vec::new(), NOW).is_err());
        assert!(decide(Verb::Remove, &peer(Standing::Revoked), Vec::new(), NOW).is_err());
    }

    #[test]
    fn a_revocation_keeps_the_keys_it_blocks() {
        let key = BlockedKey { spki_sha256: "ab".to_owned(), serial: "01".to_owned() };
        let outcome = decide(Verb::Revoke, &peer(Standing::Approved), vec![key.clone()], NOW).expect("fine");
        let Outcome::Changed(revoked) = outcome else { panic!("unchanged") };
        assert_eq!(revoked.ruling.blocked, [key]);
    }

    #[test]
    fn an_approved_peer_may_introduce_as_if_it_had_joined() {
        let approved = after(Verb::Approve, &peer(Standing::Pending));
        assert!(approved.serves() && approved.ruling.approved);
    }

    #[test]
    fn the_end_of_an_older_peering_is_no_end() {
        let known = peer(Standing::Approved);
        assert_eq!(terminated_by_peer(&known, 2, "bye", NOW), None);
        let ended = terminated_by_peer(&known, 3, "bye\u{1b}", NOW).expect("ended");
        assert_eq!((ended.standing, ended.ruling.reason.as_str()), (Standing::Terminated, "west says: bye"));
        assert_eq!(terminated_by_peer(&ended, 3, "bye", NOW), None);
    }
}
