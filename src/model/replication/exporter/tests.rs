//! The exporter's rules one by one: deltas or snapshot, window, coalescing, digests, progress.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{
    tests::{Pair, crowded_row, epoch, name, row},
    *,
};
use crate::model::{ids::Seq, limits};

fn subscribe(acked_seq: Seq, of: u8) -> ImporterMessage {
    ImporterMessage::Subscribe { epoch: Some(epoch(of)), acked_seq, generation: 0 }
}

/// An exporter over a log with `rows` rows that has just been subscribed to.
fn subscribed(rows: usize, message: ImporterMessage) -> Pair {
    let mut pair = Pair::new();
    for number in 0..rows {
        pair.put(number, 1);
    }
    pair.exporter.on_message(&pair.log, message, pair.now).expect("honest");
    pair
}

#[test]
fn who_holds_this_epoch_gets_deltas_and_everybody_else_a_snapshot() {
    let mut deltas = subscribed(5, subscribe(3, 1));
    let messages = deltas.exporter.poll(&deltas.log, deltas.now);
    let [ExporterMessage::Batch { seq: 5, rows, .. }] = messages.as_slice() else { panic!("{messages:?}") };
    assert!(rows.iter().map(RowChange::seq).eq([4, 5]));

    for stranger in [subscribe(3, 2), subscribe(6, 1)] {
        let mut pair = subscribed(5, stranger);
        let messages = pair.exporter.poll(&pair.log, pair.now);
        let [begin, ExporterMessage::Batch { rows, .. }, end] = messages.as_slice() else {
            panic!("{messages:?}")
        };
        assert_eq!(*begin, ExporterMessage::SnapshotBegin { epoch: epoch(1), rows: 5 });
        assert_eq!(rows.len(), 5);
        assert_eq!(*end, ExporterMessage::SnapshotEnd { seq: 5, digest: pair.log.digest() });
    }
}

#[test]
fn who_holds_everything_is_told_so_by_a_digest_at_once() {
    let mut pair = subscribed(2, subscribe(2, 1));
    let messages = pair.exporter.poll(&pair.log, pair.now);
    assert_eq!(messages, [ExporterMessage::Digest { seq: 2, digest: pair.log.digest() }]);
    assert_eq!(pair.exporter.next_wake(&pair.log), Some(pair.now + limits::DIGEST_INTERVAL));
}

#[test]
fn a_digest_is_sent_only_when_nothing_is_in_flight() {
    let mut pair = Pair::new();
    pair.settle();
    pair.put(1, 1);
    pair.send();
    pair.advance(10 * limits::DIGEST_INTERVAL);
    pair.send();
    assert!(!pair.to_importer.iter().any(|message| matches!(message, ExporterMessage::Digest { .. })));
    assert_eq!(pair.exporter.next_wake(&pair.log), None);
    pair.settle();
    assert!(pair.sent.iter().any(|message| matches!(message, ExporterMessage::Digest { .. })));
}

#[test]
fn a_row_that_changes_a_thousand_times_while_blocked_is_sent_once() {
    let mut pair = Pair::new();
    pair.settle();
    for number in 0..limits::BATCHES_IN_FLIGHT_MAX {
        pair.put(number, 1);
        pair.send();
    }
    assert_eq!(pair.exporter.progress(&pair.log).in_flight, limits::BATCHES_IN_FLIGHT_MAX);
    for content in 0..1_000 {
        pair.put(77, content);
        pair.send();
    }
    assert_eq!(pair.times_sent(77), 0);
    pair.settle();
    assert_eq!(pair.times_sent(77), 1);
    assert!(pair.converged());
}

#[test]
fn batches_keep_their_caps() {
    let mut pair = Pair::new();
    let long = "x".repeat(100);
    pair.log.replace_all((0..3_000).map(|number| {
        let mut row = row(number, 1);
        let labels = if number < 500 { 30 } else { 0 };
        row.labels = (0..labels).map(|label| (format!("label-{label}"), long.clone())).collect();
        row
    }));
    pair.settle();
    assert!(pair.converged());
    let mut by_bytes = 0;
    for message in &pair.sent {
        if let ExporterMessage::Batch { rows, .. } = message {
            let bytes: usize = rows.iter().map(RowChange::bytes).sum();
            assert!(rows.len() <= limits::BATCH_ROWS_MAX && bytes <= limits::BATCH_BYTES_MAX);
            by_bytes += usize::from(bytes > limits::BATCH_BYTES_MAX - limits::ROW_BYTES_MAX);
        }
    }
    assert!(by_bytes > 0, "no batch was filled by bytes");
}

#[test]
fn a_row_withdrawn_during_a_snapshot_is_not_told_any_more() {
    let mut pair = Pair::new();
    for number in 0..10_000 {
        pair.put(number, 1);
    }
    pair.answer();
    pair.send();
    assert_eq!(pair.times_sent(9_999), 0, "the window holds it back");
    pair.withdraw(9_999);
    pair.put(9_998, 5);
    pair.settle();
    assert!(pair.converged());
    let told = pair.sent.iter().any(|message| match message {
        ExporterMessage::Batch { rows, .. } => {
            rows.iter().any(|change| matches!(change, RowChange::Row(row) if row.name == name(9_999)))
        }
        _ => false,
    });
    assert!(!told);
}

#[test]
fn who_missed_forgotten_tombstones_gets_a_snapshot() {
    let mut pair = Pair::new();
    pair.put(0, 1);
    pair.settle();
    for _ in 0..limits::BATCHES_IN_FLIGHT_MAX {
        pair.put(1, pair.log.head() as u32);
        pair.send();
    }
    for number in 2..limits::TOMBSTONES_MAX + 4 {
        pair.put(number, 1);
        pair.withdraw(number);
    }
    assert!(pair.log.floor() > 0);
    pair.settle();
    assert!(pair.converged());
    assert_eq!(pair.exporter.progress(&pair.log).snapshots, 2);
}

#[test]
fn a_withdrawal_is_acknowledged_only_when_it_is_applied() {
    let mut pair = Pair::new();
    pair.put(1, 1);
    pair.settle();
    let gone = pair.withdraw(1).expect("it was there");
    pair.send();
    pair.deliver();
    pair.answer();
    assert!(pair.rows.is_empty() && !pair.exporter.has_acked(gone));
    pair.confirm();
    pair.answer();
    assert!(pair.exporter.has_acked(gone));

    let last = pair.put(2, 1).expect("new");
    pair.cut();
    assert!(!pair.exporter.has_acked(last), "sent is not applied");
}

#[test]
fn a_refusal_of_a_version_that_is_gone_does_not_hold_its_successor() {
    let mut pair = Pair::new();
    pair.settle();
    pair.log.replace(&name(1), Some(crowded_row(1))).expect("small");
    pair.send();
    pair.put(1, 4);
    pair.settle();
    assert!(pair.exporter.progress(&pair.log).refused.is_empty());
    assert!(pair.converged());
}

#[test]
fn an_importer_that_breaks_the_protocol_is_told_how() {
    let refusal = |number| RowRefusal::new(name(number), RefusalCode::Quota, "");
    let cases = [
        (vec![ImporterMessage::Ack { seq: 0 }], Violation::NotSubscribed),
        (vec![subscribe(0, 1), subscribe(0, 1)], Violation::SubscribedTwice),
        (vec![subscribe(0, 1), ImporterMessage::Ack { seq: 1 }], Violation::AckAhead { seq: 1 }),
        (
            vec![subscribe(0, 1), ImporterMessage::Nack { seq: 1, rows: vec![refusal(1)] }],
            Violation::NackUnknown { seq: 1 },
        ),
        (
            vec![subscribe(0, 1), ImporterMessage::Nack { seq: 1, rows: (0..513).map(refusal).collect() }],
            Violation::NackTooLarge { rows: 513 },
        ),
        (
            vec![ImporterMessage::Subscribe { epoch: None, acked_seq: 0, generation: 3 }],
            Violation::Generation { ours: 0, theirs: 3 },
        ),
    ];
    for (messages, violation) in cases {
        let mut pair = Pair::new();
        let outcome = messages
            .into_iter()
            .try_for_each(|message| pair.exporter.on_message(&pair.log, message, pair.now));
        assert_eq!(outcome, Err(violation));
    }
}

fn any_message() -> impl Strategy<Value = ImporterMessage> {
    let refusals = prop::collection::vec(0..5usize, 0..3).prop_map(|numbers| {
        numbers.into_iter().map(|number| RowRefusal::new(name(number), RefusalCode::Quota, "no")).collect()
    });
    prop_oneof![
        (0..3u8, 0..9u64).prop_map(|(of, acked_seq)| subscribe(acked_seq, of)),
        (0..9u64).prop_map(|seq| ImporterMessage::Ack { seq }),
        (0..9u64, refusals).prop_map(|(seq, rows)| ImporterMessage::Nack { seq, rows }),
        Just(ImporterMessage::WantSnapshot { reason: String::new() }),
    ]
}

proptest! {
    #[test]
    fn nothing_an_importer_can_say_is_more_than_a_violation(
        messages in prop::collection::vec((any_message(), 0..6usize, 0..100u64), 0..60),
    ) {
        let mut pair = Pair::new();
        for (message, number, seconds) in messages {
            pair.now += Duration::from_secs(seconds);
            if number == 5 { pair.withdraw(number % 3); } else { pair.put(number, seconds as u32); }
            if pair.exporter.on_message(&pair.log, message, pair.now).is_err() {
                pair.exporter.open(pair.now);
            }
            pair.exporter.poll(&pair.log, pair.now);
            let progress = pair.exporter.progress(&pair.log);
            prop_assert!(progress.in_flight <= limits::BATCHES_IN_FLIGHT_MAX);
            prop_assert!(progress.acked.is_none_or(|acked| acked <= progress.head));
        }
    }
}
