//! `tombolo export` and `tombolo unexport`: what is exported by command, and kept in the state folder.

use super::{
    Parts,
    api::{Done, ExportWish},
    peers::millis,
    refusal::{Refused, service},
};
use crate::{
    config::{ExportFlags, ExportSpec},
    model::{
        catalog::{Export, ExportSource},
        code::{Code, Problem},
        ids::{ExportId, Incarnation, ServiceName, Timestamp},
        limits::{ADMIN_WAIT_MAX, SERVICES_PER_PEER_MAX},
        policy::may_export,
        state::{Event, State, export_row},
        zone::{NameError, ZoneName},
    },
};

/// How people call the state folder's exports.
const OURS: &str = "`tombolo export`";

/// `POST /v1/exports`.
pub(super) async fn export(parts: &Parts, wish: ExportWish) -> Result<Done, Refused> {
    let view = (parts.zone)();
    let zone = view.zone().clone();
    let spec = spec(&wish, zone.as_str())?;
    let incarnation = Incarnation(parts.clock.random_bytes());
    let dns_name = zone.service(&wish.name);
    let decide = move |state: &State, now: Timestamp| {
        let export = judge(&spec, state, &zone, incarnation, now)?;
        let known = state.exports.contains_key(&export.name);
        Ok((vec![Event::Exported(export)], known))
    };
    let known = parts.store.transact(decide).await?;
    let name = &wish.name;
    let text = if known {
        format!("export of {name} changed; its name stays {dns_name}")
    } else {
        format!("{name} is exported; clients of every cluster find it as {dns_name}")
    };
    Ok(Done::new(text))
}

/// The declaration that a wish stands for, checked as one of the config file is.
fn spec(wish: &ExportWish, zone: &str) -> Result<ExportSpec, Problem> {
    let flags = ExportFlags {
        port: wish.port,
        port_name: wish.port_name.clone(),
        udp: wish.udp,
        idempotent: wish.idempotent,
        session_affinity: wish.session_affinity,
    };
    let addresses: Vec<String> = wish.to.iter().map(ToString::to_string).collect();
    let text = format!("{}.{}={}", wish.name.name, wish.name.namespace, addresses.join(","));
    ExportSpec::from_flag(&text, &flags, zone)
}

/// The export that is to be, or why it must not be.
fn judge(
    spec: &ExportSpec,
    state: &State,
    zone: &ZoneName,
    incarnation: Incarnation,
    now: Timestamp,
) -> Result<Export, Problem> {
    let name = spec.service_name();
    let decision = may_export(&name);
    if !decision.allowed {
        return Err(Problem::new(Code::NAME_RESERVED, format!("{name}: {}", decision.reason)));
    }
    spec.check_carried()?;
    let known = state.exports.get(&name);
    if let Some(known) = known.filter(|known| known.source != ExportSource::State) {
        let there = place(known.source);
        let fix = format!("change it where it stands, {there}, or remove it there first");
        return Err(ExportSpec::declared_twice(&name, there, OURS).with_fix(fix));
    }
    if known.is_none() && state.exports.len() >= SERVICES_PER_PEER_MAX {
        let message =
            format!("this cluster exports {SERVICES_PER_PEER_MAX} services, as many as a peer takes");
        return Err(Problem::new(Code::CATALOG_QUOTA, message).with_fix("unexport one that is not needed"));
    }
    // The same name with other endpoints is the same export: its age and its ids stay.
    let (created, incarnation) = known.map_or((now, incarnation), |known| (known.created, known.incarnation));
    let export = spec.to_export(created, incarnation, ExportSource::State);
    let row = export_row(&export, &state.me.locality, ExportId([0; 16]));
    zone.check(&state.me.cluster, &row).map_err(|error| too_long(&error))?;
    Ok(export)
}

fn too_long(error: &NameError) -> Problem {
    Problem::new(Code::NAME_TOO_LONG, error.to_string())
}

fn place(source: ExportSource) -> &'static str {
    match source {
        ExportSource::File => "an [[export]] table of the config file",
        ExportSource::Flag => "`tombolo run --export`",
        ExportSource::State => OURS,
        ExportSource::Kubernetes => "a ServiceExport of this Kubernetes cluster",
    }
}

/// `DELETE /v1/exports/NAME`; with `wait`, answered when every peer has confirmed or the time is over.
pub(super) async fn unexport(
    parts: &Parts,
    typed: &str,
    wait: Option<std::time::Duration>,
) -> Result<Done, Refused> {
    let zone = (parts.zone)().zone().clone();
    let name = service(typed, zone.as_str())?;
    let asked = name.clone();
    let decide = move |state: &State, _| {
        let Some(known) = state.exports.get(&asked) else {
            return Err(Problem::new(Code::NO_SUCH_EXPORT, format!("this cluster does not export {asked}")));
        };
        if known.source != ExportSource::State {
            return Err(declared_elsewhere(&asked, known.source));
        }
        Ok((vec![Event::Unexported(asked)], ()))
    };
    parts.store.transact(decide).await?;
    let mut text = format!("{name} is not exported any more");
    let (mut unconfirmed, mut elsewhere) = (Vec::new(), Vec::new());
    if let Some(wait) = wait {
        let wait = wait.min(ADMIN_WAIT_MAX);
        unconfirmed = (parts.unconfirmed)(name, wait).await;
        text += &match unconfirmed.len() {
            0 => ", and every peer has confirmed it".to_owned(),
            count => format!("; not confirmed by {count} of the peers within {} ms", millis(wait)),
        };
        elsewhere = unconfirmed.clone();
        elsewhere.retain(|cluster| parts.peers.lag(cluster).is_none());
    }
    Ok(Done { unconfirmed, elsewhere, ..Done::new(text) })
}

fn declared_elsewhere(name: &ServiceName, source: ExportSource) -> Problem {
    let fix = match source {
        ExportSource::Flag => "start the gateway without that `--export`",
        ExportSource::Kubernetes => "delete the ServiceExport: `kubectl delete serviceexport`",
        ExportSource::File | ExportSource::State => "delete the table there and send the gateway SIGHUP",
    };
    let message = format!("{name} was not exported by {OURS} but by {}", place(source));
    Problem::new(Code::NO_SUCH_EXPORT, message).with_fix(fix)
}
