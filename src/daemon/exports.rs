//! Exports of the config file and of flags, brought into the state beside those of `tombolo export`.

use std::collections::BTreeSet;

use crate::{
    clock::Clock,
    config::{Config, ExportSpec},
    model::{
        catalog::{Export, ExportSource},
        code::{Code, Problem},
        ids::{Incarnation, ServiceName},
        policy,
        state::{Event, State},
    },
};

/// What `config` declares.
pub(super) fn declared(config: &Config) -> BTreeSet<ServiceName> {
    config.exports.iter().map(ExportSpec::service_name).collect()
}

/// What to call the state folder in an error that names two places.
const STATE_FOLDER: &str = "the state folder (`tombolo export`)";

/// The events that make the state's declared exports those of `config`, and leave alone what living siblings of
/// this gateway declare.
///
/// # Errors
/// A name declared in two places, or one that may not be exported.
pub(super) fn events(
    config: &Config,
    state: &State,
    elsewhere: &BTreeSet<ServiceName>,
    clock: &Clock,
) -> Result<Vec<Event>, Problem> {
    let mut events = Vec::new();
    let mut declared = BTreeSet::new();
    for spec in &config.exports {
        let name = spec.service_name();
        check_free(spec, &name, state, config)?;
        spec.check_carried()?;
        let decision = policy::may_export(&name);
        if !decision.allowed {
            return Err(Problem::new(
                Code::NAME_RESERVED,
                format!("{name} cannot be exported: {}", decision.reason),
            ));
        }
        events.push(Event::Exported(export(spec, state.exports.get(&name).map(AsRef::as_ref), clock)));
        declared.insert(name);
    }
    let stands = |name: &ServiceName, export: &Export| match export.source {
        ExportSource::State => true,
        // Until Kubernetes says otherwise, also while its API server is away.
        ExportSource::Kubernetes => config.kubernetes.enabled,
        ExportSource::File | ExportSource::Flag => declared.contains(name) || elsewhere.contains(name),
    };
    let withdrawn = state.exports.iter().filter(|(name, export)| !stands(name, export));
    events.extend(withdrawn.map(|(name, _)| Event::Unexported(name.clone())));
    Ok(events)
}

fn check_free(spec: &ExportSpec, name: &ServiceName, state: &State, config: &Config) -> Result<(), Problem> {
    let in_state = state.exports.get(name).is_some_and(|export| export.source == ExportSource::State);
    if in_state {
        let place = config.place_of_export(name).unwrap_or(&spec.place);
        // Without a gateway that runs, the command that takes it out of the state folder is of no use.
        let fix = format!(
            "leave it out of {place}; to keep that one, run `tombolo unexport {}.{}` first",
            name.name, name.namespace
        );
        return Err(ExportSpec::declared_twice(name, place, STATE_FOLDER).with_fix(fix));
    }
    Ok(())
}

/// The export of a declaration; one that exists already keeps its age and its life.
fn export(spec: &ExportSpec, known: Option<&Export>, clock: &Clock) -> Export {
    let source = if spec.is_flag() { ExportSource::Flag } else { ExportSource::File };
    match known {
        Some(known) => spec.to_export(known.created, known.incarnation, source),
        None => spec.to_export(clock.wall(), Incarnation(clock.random_bytes()), source),
    }
}
