//! What must hold: at every message, and when everything has come to rest.

use std::{collections::BTreeMap, sync::Arc};

use tombolo::model::{
    catalog::Row,
    ids::ServiceName,
    limits, policy,
    replication::{ExporterMessage, RowChange},
};

use crate::world::World;

/// A message that leaves `from` tells `to` nothing it may not see, and keeps the window.
pub(crate) fn outgoing(
    world: &World,
    from: usize,
    to: usize,
    message: &ExporterMessage,
) -> Result<(), String> {
    let (cluster, peer, side) = (&world.clusters[from], &world.clusters[to], world.side(from, to));
    let in_flight = side.exporter.in_flight();
    if in_flight > limits::BATCHES_IN_FLIGHT_MAX {
        return Err(format!("{from} has {in_flight} batches in flight to {to}"));
    }
    let ExporterMessage::Batch { rows, .. } = message else { return Ok(()) };
    for change in rows {
        if let RowChange::Row(row) = change
            && cluster.row_for(&row.name, peer, side.approved).is_none()
        {
            return Err(format!("{from} tells {to} of {}, which it may not see", row.name));
        }
    }
    Ok(())
}

/// Whether an importer takes the row.
fn taken(row: &Row) -> bool {
    !policy::is_reserved(&row.name) && row.ports.len() <= limits::PORTS_PER_SERVICE_MAX
}

/// Everybody holds of everybody else exactly what that one lets it see, and both sides know it.
pub(crate) fn converged(world: &World) -> Result<(), String> {
    for (from, exporter) in world.clusters.iter().enumerate() {
        for (to, importer) in world.clusters.iter().enumerate().filter(|(to, _)| *to != from) {
            let (theirs, ours) = (world.side(from, to), world.side(to, from));
            let mut wanted = BTreeMap::new();
            let mut refused = Vec::new();
            for name in exporter.exports.keys() {
                match exporter.row_for(name, importer, theirs.approved) {
                    Some(row) if taken(&row) => drop(wanted.insert(name.clone(), row)),
                    Some(_) => refused.push(name.clone()),
                    None => {}
                }
            }
            // Of a refused row an earlier version may be held, unless its name is reserved.
            let held: BTreeMap<ServiceName, Row> = ours
                .rows
                .iter()
                .filter(|(name, _)| policy::is_reserved(name) || !refused.contains(name))
                .map(|(name, row)| (name.clone(), Row { seq: 0, ..Arc::unwrap_or_clone(Arc::clone(row)) }))
                .collect();
            if held != wanted {
                return Err(format!("{to} holds of {from} {held:?}\nand should hold {wanted:?}"));
            }
            let progress = ours.importer.progress();
            if !progress.synced || progress.applied != theirs.log.head() {
                return Err(format!("{to} does not know that it has all of {from}: {progress:?}"));
            }
            let told = theirs.exporter.progress(&theirs.log);
            if !theirs.exporter.has_acked(theirs.log.head()) || told.in_flight > 0 {
                return Err(format!("{from} does not know that {to} has all: {told:?}"));
            }
            if told.refused.iter().map(|each| &each.name).ne(refused.iter()) {
                return Err(format!("{to} refuses {refused:?} of {from}, which knows of {:?}", told.refused));
            }
        }
    }
    Ok(())
}

/// Some exporter and importer with rows between them.
pub(crate) fn somebody_with_rows(world: &World) -> Option<(usize, usize)> {
    let all = 0..world.clusters.len();
    let mut pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
    pairs.find(|(from, to)| from != to && !world.side(*to, *from).rows.is_empty())
}
