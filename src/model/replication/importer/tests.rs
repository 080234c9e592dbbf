//! The importer's rules one by one: refusals, quotas, pace, digests, violations.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::super::{
    tests::{Pair, crowded_row, epoch, name, row, start},
    *,
};
use crate::model::{
    ids::{Seq, ServiceName},
    limits,
};

/// An importer in the middle of a stream that began with an empty snapshot.
fn live(quotas: Quotas) -> (Importer, std::time::Instant) {
    let now = start();
    let mut importer = Importer::new(0, quotas, None, [], now);
    importer.subscribe();
    for message in [
        ExporterMessage::SnapshotBegin { epoch: epoch(1), rows: 0 },
        ExporterMessage::SnapshotEnd { seq: 0, digest: Digest::EMPTY },
    ] {
        importer.on_message(message, now).expect("in order");
    }
    (importer, now)
}

fn batch(seq: Seq, rows: Vec<RowChange>) -> ExporterMessage {
    ExporterMessage::Batch { epoch: epoch(1), seq, rows }
}

fn change(number: usize, seq: Seq) -> RowChange {
    RowChange::Row(Arc::new(crate::model::catalog::Row { seq, ..row(number, 1) }))
}

fn nacks(actions: &[Action]) -> Vec<(ServiceName, RefusalCode)> {
    let refusals = actions.iter().filter_map(|action| match action {
        Action::Send(ImporterMessage::Nack { rows, .. }) => Some(rows),
        _ => None,
    });
    refusals.flatten().map(|refusal| (refusal.name.clone(), refusal.code)).collect()
}

#[test]
fn it_goes_on_only_with_a_caller_that_holds_what_it_believes() {
    let (mut importer, now) = live(Quotas::default());
    assert!(importer.continues(0, 0));
    assert!(!importer.continues(1, 0), "the cluster joined anew");
    let actions = importer.on_message(batch(1, vec![change(1, 1)]), now).expect("in order");
    assert!(!importer.continues(0, 1), "nobody said that the row was applied");
    let tickets = actions.iter().filter_map(|action| match action {
        Action::Apply { ticket, .. } => Some(*ticket),
        _ => None,
    });
    for ticket in tickets {
        importer.applied(ticket, now);
    }
    assert!(importer.continues(0, 1));
    assert!(!importer.continues(0, 0), "the rows were forgotten meanwhile");
}

#[test]
fn a_refused_row_does_not_stop_its_neighbours_and_is_not_sent_again_until_it_changes() {
    let mut pair = Pair::new();
    pair.put(1, 1);
    pair.log.replace(&name(2), Some(crowded_row(2))).expect("small");
    pair.put(3, 1);
    pair.settle_for_long();
    assert_eq!(pair.rows.len(), 2);
    let refused = pair.exporter.progress(&pair.log).refused;
    assert_eq!((refused.len(), refused[0].code), (1, RefusalCode::Quota));
    assert_eq!(pair.importer.progress().refusals, refused);
    assert!(pair.exporter.has_acked(pair.log.head()), "a refused row is answered too");

    let times = pair.times_sent(2);
    pair.cut();
    pair.settle_for_long();
    assert_eq!(pair.times_sent(2), times);
    pair.put(2, 1);
    pair.settle();
    assert_eq!((pair.times_sent(2), pair.rows.len()), (times + 1, 3));
    assert!(pair.exporter.progress(&pair.log).refused.is_empty());
    assert!(pair.importer.progress().refusals.is_empty());
}

#[test]
fn an_earlier_version_keeps_working_when_its_successor_is_refused() {
    let mut pair = Pair::new();
    pair.put(1, 1);
    pair.settle();
    pair.log.replace(&name(1), Some(crowded_row(1))).expect("small");
    pair.settle_for_long();
    assert_eq!(pair.rows[&name(1)].zones[0].ready, 1);
    assert_eq!(pair.importer.progress().digest_mismatches, 0);
    pair.withdraw(1);
    pair.settle();
    assert!(pair.rows.is_empty());
}

#[test]
fn services_above_the_quota_are_refused_and_come_when_there_is_room() {
    let mut pair = Pair::with(Quotas { services: 3, ..Quotas::default() });
    for number in 0..5 {
        pair.put(number, 1);
    }
    pair.settle();
    assert!(pair.rows.keys().eq([name(0), name(1), name(2)].iter()));
    pair.put(1, 9);
    pair.settle();
    assert_eq!(pair.rows[&name(1)].zones[0].ready, 9, "a row that is held may change");
    pair.withdraw(0);
    pair.settle_for_long();
    assert_eq!(pair.rows.len(), 3);
    assert!(pair.rows.contains_key(&name(3)));
}

#[test]
fn bytes_above_the_quota_are_refused() {
    let bytes = message::row_bytes(&row(1, 1));
    let mut pair = Pair::with(Quotas { catalog_bytes: 2 * bytes, ..Quotas::default() });
    for number in 0..5 {
        pair.put(number, 1);
    }
    pair.settle();
    assert_eq!((pair.rows.len(), pair.importer.progress().bytes), (2, 2 * bytes));
}

#[test]
fn reserved_names_are_refused_wherever_they_come_from() {
    let (mut importer, now) = live(Quotas::default());
    for (seq, reserved) in ["kube-system/dns", "kube-public/a", "kube-node-lease/a", "default/kubernetes"]
        .into_iter()
        .enumerate()
    {
        let name = ServiceName::parse(reserved).expect("valid");
        let row = crate::model::catalog::Row { name: name.clone(), seq: seq as Seq + 1, ..row(1, 1) };
        let message = batch(seq as Seq + 1, vec![RowChange::Row(Arc::new(row))]);
        let actions = importer.on_message(message, now).expect("no violation");
        assert_eq!(nacks(&actions), [(name, RefusalCode::Reserved)]);
    }
    assert_eq!(importer.progress().rows, 0);
}

#[test]
fn a_row_of_a_later_release_is_refused_and_the_snapshot_still_counts() {
    let now = start();
    let mut importer = Importer::new(0, Quotas::default(), None, [], now);
    importer.subscribe();
    let unreadable = RowChange::Unreadable {
        name: name(1),
        seq: 1,
        code: RefusalCode::Unsupported,
        message: "kind 7".into(),
    };
    let begin = ExporterMessage::SnapshotBegin { epoch: epoch(1), rows: 1 };
    importer.on_message(begin, now).expect("in order");
    let actions = importer.on_message(batch(0, vec![unreadable]), now).expect("in order");
    assert_eq!(nacks(&actions), [(name(1), RefusalCode::Unsupported)]);
    let end = ExporterMessage::SnapshotEnd { seq: 1, digest: Digest::of(&row(1, 1)) };
    assert!(importer.on_message(end, now).expect("in order").contains(&Action::Synced));
}

#[test]
fn changes_beyond_the_pace_delay_the_ack_and_lose_nothing() {
    let (mut importer, now) = live(Quotas { rows_per_second: 10, ..Quotas::default() });
    let rows = (1..=30).map(|seq| change(seq as usize, seq)).collect();
    let actions = importer.on_message(batch(30, rows), now).expect("in order");
    let [Action::Apply { ticket, changes }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(changes.len(), 30);
    assert!(importer.applied(*ticket, now).is_empty(), "30 rows take 3 s, one of them is free");
    assert_eq!(importer.position(), Some((epoch(1), 30)), "applied all the same");
    let open = importer.next_wake().expect("the ack waits for time");
    assert_eq!(open, now + Duration::from_secs(2));
    assert_eq!(importer.poll(open), [Action::Send(ImporterMessage::Ack { seq: 30 })]);
}

#[test]
fn a_differing_digest_asks_for_a_snapshot_once_a_minute_and_it_heals() {
    let mut pair = Pair::new();
    pair.put(1, 1);
    pair.settle();
    pair.advance(limits::DIGEST_INTERVAL);
    let wrong = ExporterMessage::Digest { seq: pair.log.head(), digest: Digest::EMPTY };
    for _ in 0..5 {
        let actions = pair.importer.on_message(wrong.clone(), pair.now).expect("in order");
        for action in actions {
            if let Action::Send(message) = action {
                pair.to_exporter.push_back(message);
            }
        }
    }
    assert_eq!(pair.to_exporter.len(), 1, "after the question, everything up to its answer is not for us");
    assert_eq!(pair.importer.progress().digest_mismatches, 1);
    assert!(!pair.importer.progress().synced && pair.importer.position().is_none());
    pair.settle();
    assert!(pair.importer.progress().synced && pair.converged());
    assert_eq!(pair.exporter.progress(&pair.log).snapshots, 2);

    pair.importer.on_message(wrong, pair.now).expect("in order");
    assert_eq!(pair.importer.next_wake(), Some(pair.now + limits::DIGEST_INTERVAL), "not at once again");
}

#[test]
fn a_snapshot_whose_digest_differs_deletes_nothing() {
    let mut pair = Pair::new();
    pair.put(1, 1);
    pair.settle();
    pair.importer.subscribe();
    let begin = ExporterMessage::SnapshotBegin { epoch: epoch(2), rows: 0 };
    pair.importer.on_message(begin, pair.now).expect("in order");
    let end = ExporterMessage::SnapshotEnd { seq: 0, digest: Digest::of(&row(9, 9)) };
    let actions = pair.importer.on_message(end, pair.now).expect("in order");
    assert!(!actions.iter().any(|action| matches!(action, Action::Sweep { .. } | Action::Synced)));
    assert_eq!((pair.importer.progress().rows, pair.importer.position()), (1, None));
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_how() {
    let begin = |rows| ExporterMessage::SnapshotBegin { epoch: epoch(1), rows };
    let end = ExporterMessage::SnapshotEnd { seq: 0, digest: Digest::EMPTY };
    let tombstone = |seq| RowChange::Tombstone { name: name(1), seq };
    let other = ExporterMessage::Batch { epoch: epoch(9), seq: 1, rows: vec![change(1, 1)] };
    let many = (1..=513).map(|seq| change(seq as usize, seq)).collect();
    let after_empty: Vec<(Vec<ExporterMessage>, Violation)> = vec![
        (vec![other], Violation::EpochMixed),
        (vec![batch(513, many)], Violation::BatchRows { rows: 513 }),
        (vec![batch(0, vec![])], Violation::SeqDisorder { seq: 0, after: 0 }),
        (vec![batch(2, vec![change(1, 2), change(2, 1)])], Violation::SeqDisorder { seq: 1, after: 2 }),
        (vec![batch(1, vec![change(1, 2)])], Violation::SeqDisorder { seq: 1, after: 2 }),
        (vec![end.clone()], Violation::OutOfTurn { what: "SnapshotEnd" }),
        (vec![begin(1), begin(1)], Violation::SnapshotNested),
        (vec![begin(1), batch(0, vec![tombstone(1)])], Violation::SnapshotTombstone),
        (
            vec![begin(1), batch(0, vec![change(1, 1), change(2, 2)])],
            Violation::SnapshotRows { announced: 1 },
        ),
        (vec![begin(1), batch(1, vec![change(1, 1)])], Violation::SeqDisorder { seq: 1, after: 0 }),
        (
            vec![begin(1), ExporterMessage::Digest { seq: 0, digest: Digest::EMPTY }],
            Violation::OutOfTurn { what: "Digest" },
        ),
        ((1..=9).map(|seq| batch(seq, vec![change(seq as usize, seq)])).collect(), Violation::InFlight),
    ];
    for (messages, violation) in after_empty {
        let (mut importer, now) = live(Quotas::default());
        let outcome =
            messages.into_iter().try_for_each(|message| importer.on_message(message, now).map(drop));
        assert_eq!(outcome, Err(violation));
    }
    let mut fresh = Importer::new(0, Quotas::default(), None, [], start());
    assert_eq!(fresh.on_message(end, start()), Err(Violation::NotSubscribed));
    fresh.subscribe();
    assert_eq!(fresh.on_message(batch(1, vec![change(1, 1)]), start()), Err(Violation::SnapshotMissing));
}

fn any_change() -> impl Strategy<Value = RowChange> {
    (0..5usize, 0..8u64, 0..4u8).prop_map(|(number, seq, kind)| match kind {
        0 => RowChange::Tombstone { name: name(number), seq },
        1 => RowChange::Unreadable {
            name: name(number),
            seq,
            code: RefusalCode::Invalid,
            message: "x".repeat(999),
        },
        _ => change(number, seq),
    })
}

fn any_message() -> impl Strategy<Value = ExporterMessage> {
    prop_oneof![
        (0..2u8, 0..9u64).prop_map(|(at, rows)| ExporterMessage::SnapshotBegin { epoch: epoch(at), rows }),
        (0..2u8, 0..9u64, prop::collection::vec(any_change(), 0..4))
            .prop_map(|(at, seq, rows)| ExporterMessage::Batch { epoch: epoch(at), seq, rows }),
        (0..9u64, any::<[u8; 32]>()).prop_map(|(seq, digest)| ExporterMessage::SnapshotEnd {
            seq,
            digest: Digest::from_bytes(digest)
        }),
        (0..9u64).prop_map(|seq| ExporterMessage::SnapshotEnd { seq, digest: Digest::EMPTY }),
        (0..9u64).prop_map(|seq| ExporterMessage::Digest { seq, digest: Digest::EMPTY }),
    ]
}

proptest! {
    #[test]
    fn nothing_a_peer_can_say_is_more_than_a_violation(
        messages in prop::collection::vec(any_message(), 0..40),
        quota in 0..6usize,
    ) {
        let now = start();
        let mut importer = Importer::new(0, Quotas { services: quota, ..Quotas::default() }, None, [], now);
        importer.subscribe();
        for message in messages {
            match importer.on_message(message, now) {
                Ok(actions) => for action in actions {
                    if let Action::Apply { ticket, .. } | Action::Sweep { ticket, .. } = action {
                        importer.applied(ticket, now);
                    }
                },
                Err(_) => drop(importer.subscribe()),
            }
            let progress = importer.progress();
            prop_assert!(progress.rows <= 2 * quota, "piled up {} rows", progress.rows);
            prop_assert!(progress.refusals.iter().all(|each| each.message.len() <= 256));
        }
    }
}
