//! The log's laws, and those of digests and sizes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{
    tests::{epoch, name, row},
    *,
};
use crate::model::{catalog::Row, ids::Seq, limits};

#[test]
fn what_does_not_change_a_row_is_no_change() {
    let mut log = CatalogLog::new(epoch(1));
    assert_eq!(log.replace(&name(1), Some(row(1, 1))), Ok(Some(1)));
    assert_eq!(log.replace(&name(1), Some(Row { seq: 99, ..row(1, 1) })), Ok(None));
    assert_eq!(log.replace(&name(2), None), Ok(None));
    assert_eq!(log.replace(&name(1), None), Ok(Some(2)));
    assert_eq!(log.replace(&name(1), None), Ok(None));
    assert_eq!(log.head(), 2);
}

#[test]
fn a_row_over_the_cap_is_refused_and_its_earlier_version_stays() {
    let mut log = CatalogLog::new(epoch(1));
    log.replace(&name(1), Some(row(1, 1))).expect("small");
    let mut large = row(1, 2);
    large.labels.insert("note".into(), "x".repeat(limits::ROW_BYTES_MAX));
    let refused = log.replace(&name(1), Some(large)).expect_err("too large");
    assert_eq!(refused.name, name(1));
    assert!(refused.bytes > limits::ROW_BYTES_MAX);
    assert_eq!((log.head(), log.rows()[&name(1)].row.zones[0].ready), (1, 1));
}

#[test]
fn tombstones_are_bounded_and_the_floor_says_who_missed_them() {
    let mut log = CatalogLog::new(epoch(1));
    for number in 0..limits::TOMBSTONES_MAX + 10 {
        log.replace(&name(number), Some(row(number, 1))).expect("small");
        log.replace(&name(number), None).expect("small");
    }
    assert_eq!(log.floor(), 20, "the ten oldest are forgotten, each at an even seq");
    assert_eq!(log.changes_after(0).count(), limits::TOMBSTONES_MAX);
}

fn history() -> impl Strategy<Value = Vec<(usize, Option<u32>)>> {
    prop::collection::vec((0..8usize, prop::option::of(0..4u32)), 0..80)
}

proptest! {
    #[test]
    fn changes_after_any_seq_lead_from_the_state_then_to_the_state_now(
        history in history(),
        cut in 0..80usize,
    ) {
        let mut log = CatalogLog::new(epoch(1));
        let mut then: (Seq, BTreeMap<_, _>) = (0, BTreeMap::new());
        for (at, (number, content)) in history.into_iter().enumerate() {
            if at == cut {
                let rows = log.rows().iter().map(|(name, listed)| (name.clone(), listed.row.clone()));
                then = (log.head(), rows.collect());
            }
            log.replace(&name(number), content.map(|content| row(number, content))).expect("small");
        }
        let mut last = then.0;
        for change in log.changes_after(then.0) {
            prop_assert!(change.seq() > last, "out of order");
            last = change.seq();
            match change {
                RowChange::Row(row) => drop(then.1.insert(row.name.clone(), row)),
                RowChange::Tombstone { name, .. } => drop(then.1.remove(&name)),
                RowChange::Unreadable { .. } => prop_assert!(false),
            }
        }
        prop_assert!(then.1.values().eq(log.rows().values().map(|listed| &listed.row)));
    }

    #[test]
    fn a_digest_depends_on_the_rows_and_not_on_the_way_to_them(history in history(), seed in any::<u64>()) {
        let mut log = CatalogLog::new(epoch(1));
        for (number, content) in history {
            log.replace(&name(number), content.map(|content| row(number, content))).expect("small");
        }
        let mut rows: Vec<Digest> = log.rows().values().map(|listed| Digest::of(&listed.row)).collect();
        let turn = if rows.is_empty() { 0 } else { seed as usize % rows.len() };
        rows.rotate_left(turn);
        prop_assert_eq!(rows.iter().copied().sum::<Digest>(), log.digest());
        let without = rows.iter().fold(log.digest(), |digest, row| digest.minus(*row));
        prop_assert_eq!(without, Digest::EMPTY);
    }

    #[test]
    fn digests_survive_the_wire(bytes in any::<[u8; 32]>(), other in any::<[u8; 32]>()) {
        let (digest, other) = (Digest::from_bytes(bytes), Digest::from_bytes(other));
        prop_assert_eq!(digest.to_bytes(), bytes);
        prop_assert_eq!(digest.plus(other).minus(other), digest);
        prop_assert_eq!(digest.plus(other), other.plus(digest));
    }

    #[test]
    fn refusals_are_cut_at_a_character(message in "\\PC{0,400}", word in "[A-Z_]{0,12}") {
        let refusal = RowRefusal::new(name(1), RefusalCode::from_wire(&word), message.clone());
        prop_assert!(refusal.message.len() <= limits::REFUSAL_MESSAGE_BYTES_MAX);
        prop_assert!(message.starts_with(&refusal.message));
        prop_assert_eq!(RefusalCode::from_wire(refusal.code.as_str()), refusal.code);
    }

    #[test]
    fn every_field_of_a_row_is_in_its_digest(field in 0..12usize) {
        let plain = row(1, 1);
        let mut other = plain.clone();
        match field {
            0 => other.name = name(2),
            1 => other.seq = 7,
            2 => other.export_id.0[15] ^= 1,
            3 => other.ports[0].number += 1,
            4 => other.ports[0].app_protocol = "http2".into(),
            5 => other.zones[0].total += 1,
            6 => drop(other.labels.insert("tie".into(), "rweb".into())),
            7 => drop(other.annotations.insert("tier".into(), "web".into())),
            8 => other.created.0 += 1,
            9 => other.headless = true,
            10 => other.idempotent = false,
            _ => other.endpoints.push(crate::model::catalog::HeadlessEndpoint {
                hostname: crate::model::ids::ServiceLabel::parse("db-0").expect("valid"),
                locality: crate::model::ids::Locality::default(),
                ready: true,
            }),
        }
        prop_assert_ne!(Digest::of(&plain), Digest::of(&other));
    }
}
