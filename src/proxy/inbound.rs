//! Streams of peers: header, grants, an endpoint, the answer, then bytes.
//!
//! The destination decides who may call and chooses the endpoint; it connects first and writes the client's
//! bytes only after it has answered `connected`. An export that does not exist and one that is not granted get
//! the same answer.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use federation_proto::v1;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    allowed::{Allowed, Foothold, Ground},
    cut::Cut,
    endpoints::{Connected, Endpoints, Refusal, Wanted},
    index::ExportIndex,
    pump::{self, Left, Side},
    young::{self, Caller, Grown},
};
use crate::{
    clock::Clock,
    identity::Identity,
    ledger::{Ledger, Proxied},
    link::{
        Lane, ServeTcp,
        codes::Reset,
        stream::{PRIORITY_DATA, Reader, Writer},
    },
    model::{
        catalog::Export,
        code::Code,
        ids::{ExportId, SpiffeId},
        limits::{CONNECTIONS_MAX, HEADER_TIMEOUT, STREAM_HEADER_BYTES_MAX},
        open::Origin,
        state::{Admitted, State},
    },
    net::Net,
    supervise::Tasks,
};

/// What serving peers' streams needs.
pub struct InboundParts {
    /// Everything that is true.
    pub state: watch::Receiver<Arc<State>>,
    /// Live figures.
    pub ledger: Ledger,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Time.
    pub clock: Clock,
    /// The control runtime.
    pub tasks: Tasks,
    /// Knows the export ids.
    pub identity: Arc<Identity>,
    /// What the proxy may take.
    pub limits: ProxyLimits,
}

/// What the proxy may take, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Connections carried at once, clients' and peers'.
    pub connections: usize,
    /// Time for a stream's header.
    pub header_timeout: Duration,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self { connections: CONNECTIONS_MAX, header_timeout: HEADER_TIMEOUT }
    }
}

/// The half of the proxy that serves peers. It is made before the links, which hand it their streams, and is
/// then part of the [`Proxy`](super::Proxy). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbound(pub(super) Arc<Site>);

/// What both halves of the proxy share.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) state: ArcSwap<State>,
    pub(super) ledger: Ledger,
    pub(super) net: Arc<dyn Net>,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    pub(super) identity: Arc<Identity>,
    pub(super) endpoints: Endpoints,
    pub(super) limits: ProxyLimits,
    /// One permit a proxied connection.
    pub(super) connections: Arc<Semaphore>,
    /// Ends what still runs when draining took too long.
    pub(super) cut: Cut,
    pub(super) draining: AtomicBool,
    index: ExportIndex,
    /// What is open, and what allows it.
    pub(super) allowed: Allowed,
}

impl Inbound {
    /// Begins to follow the exports.
    #[must_use]
    pub fn new(parts: InboundParts) -> Self {
        let InboundParts { mut state, ledger, net, clock, tasks, identity, limits } = parts;
        let first = state.borrow_and_update().clone();
        let site = Arc::new(Site {
            state: ArcSwap::new(first.clone()),
            endpoints: Endpoints::new(net.clone(), clock.clone(), ledger.clone()),
            limits,
            connections: Arc::new(Semaphore::new(limits.connections)),
            cut: Cut::default(),
            draining: AtomicBool::new(false),
            index: ExportIndex::default(),
            allowed: Allowed::default(),
            ledger,
            net,
            clock,
            tasks: tasks.clone(),
            identity: identity.clone(),
        });
        site.index.follow(&identity, None, &first);
        tasks.spawn("export index", follow(site.clone(), identity, state));
        Self(site)
    }

    /// What links hand proxied streams to.
    #[must_use]
    pub fn serve_tcp(&self) -> ServeTcp {
        let site = self.0.clone();
        Arc::new(move |lane, writer, reader| {
            let site = site.clone();
            Box::pin(async move {
                let cut = site.cut.clone();
                // Dropped on the way, both the stream and the connection are reset.
                let served = pin!(serve(&site, &lane, writer, reader));
                let _ = cut.unless(served).await;
            })
        })
    }
}

async fn follow(site: Arc<Site>, identity: Arc<Identity>, mut state: watch::Receiver<Arc<State>>) {
    let hard = site.tasks.shutdown().hard();
    tokio::pin!(hard);
    loop {
        tokio::select! {
            biased;
            () = &mut hard => return site.cut.cut(),
            changed = state.changed() => if changed.is_err() {
                hard.await;
                return site.cut.cut();
            }
        }
        let (old, new) = (site.state.load_full(), state.borrow_and_update().clone());
        site.index.follow(&identity, Some(&old), &new);
        site.state.store(new.clone());
        site.allowed.follow(&new.changes_since(&old), &new);
    }
}

async fn serve(site: &Site, lane: &Arc<Lane>, mut writer: Writer, mut reader: Reader) {
    let _counted = lane.count_stream();
    writer.set_priority(PRIORITY_DATA);
    let read = reader.read_message::<v1::StreamHeader>(STREAM_HEADER_BYTES_MAX);
    let Ok(Ok(header)) = timeout(site.limits.header_timeout, read).await else {
        tracing::debug!(peer = %lane.key().cluster, code = %Code::HEADER_TIMED_OUT, "stream without a header");
        writer.reset(Reset::Header);
        return reader.stop(Reset::Header);
    };
    let Ok(_permit) = site.connections.clone().try_acquire_owned() else {
        return refuse(&mut writer, refusal(Origin::Limit, Code::CONNECTIONS_LIMIT)).await;
    };
    if site.draining.load(Ordering::Relaxed) {
        return refuse(&mut writer, refusal(Origin::Gateway, Code::GATEWAY_DRAINING)).await;
    }
    let state = site.state.load_full();
    let (export, foothold) = match granted(site, &state, lane, &header) {
        Ok(granted) => granted,
        Err(refused) => return refuse(&mut writer, refused).await,
    };
    if !header.replay {
        site.ledger.request(&export.name);
    }
    let wanted = Wanted {
        port: u16::try_from(header.port).unwrap_or(0),
        hostname: header.hostname,
        affinity: header.affinity,
        deadline: Duration::from_millis(header.deadline_ms.into()),
        unready: state.unready.get(&export.name).cloned(),
        except: Vec::new(),
    };
    let stopped = writer.stopped();
    let connected = tokio::select! {
        biased;
        // The other gateway went elsewhere with this connection.
        _ = stopped => return,
        () = foothold.cut.wait() => return writer.reset(Reset::Policy),
        connected = site.endpoints.connect(&export, &wanted) => connected,
    };
    let count = |result| {
        let (service, cluster) = (export.name.clone(), Some(lane.key().cluster.clone()));
        site.ledger.count(Proxied { service, cluster, result });
    };
    let backend = match connected {
        Ok(backend) => backend,
        Err(refused) => {
            count("refused");
            return refuse(&mut writer, refused).await;
        }
    };
    let locality = Some(v1::connected::Locality {
        region: state.me.locality.region.to_string(),
        zone: state.me.locality.zone.to_string(),
    });
    let reply =
        v1::OpenReply { outcome: Some(v1::open_reply::Outcome::Connected(v1::Connected { locality })) };
    if writer.write_message(&reply).await.is_err() {
        return;
    }
    count("served");
    carry(site, &export, &foothold, (wanted, backend), (writer, reader)).await;
}

/// Carries bytes; of an idempotent export, after it was found out which endpoint answers.
async fn carry(
    site: &Site,
    export: &Export,
    foothold: &Foothold,
    (wanted, backend): (Wanted, Connected),
    (mut writer, reader): (Writer, Reader),
) {
    if !export.idempotent {
        let Connected { tcp, mut trial, .. } = backend;
        let carried = pump::tcp_and_stream_until(tcp, (writer, reader), Left::default(), &foothold.cut).await;
        trial.ended(&carried, Side::First);
        return tracing::trace!(export = %export.name, ?carried, "served");
    }
    let mut caller = Caller::new(reader, &writer);
    let grown = {
        let grow = pin!(young::grow(&site.endpoints, export, wanted, backend, &mut caller));
        foothold.cut.unless(grow).await
    };
    let (backend, mut trial, left) = match grown {
        Some(Grown::Carry { tcp, trial, answer, untold }) => {
            (tcp, trial, Left { forth: answer, back: untold })
        }
        Some(Grown::Gone) => return,
        Some(Grown::Nobody) => {
            writer.reset(Reset::ConnectionReset);
            return caller.reader.stop(Reset::ConnectionReset);
        }
        None => {
            writer.reset(Reset::Policy);
            return caller.reader.stop(Reset::Policy);
        }
    };
    let stream = (writer, caller.reader);
    let carried = pump::tcp_and_stream_until(backend, stream, left, &foothold.cut).await;
    trial.ended(&carried, Side::First);
    tracing::trace!(export = %export.name, ?carried, "served");
}

/// The export a header means, if its caller may have it, and the right to it for as long as it lasts.
fn granted(
    site: &Site,
    state: &State,
    lane: &Lane,
    header: &v1::StreamHeader,
) -> Result<(Arc<Export>, Foothold), Refusal> {
    let cluster = &lane.key().cluster;
    // One answer for all of it: nobody learns what exists.
    let unknown = |why: &dyn std::fmt::Display| {
        tracing::debug!(peer = %cluster, caller = header.caller, reason = %why, "stream refused");
        Refusal {
            origin: Origin::Policy,
            code: Code::EXPORT_UNKNOWN,
            reason: Code::EXPORT_UNKNOWN.info().title.to_owned(),
        }
    };
    let caller = SpiffeId::parse(&header.caller).map_err(|error| unknown(&error))?;
    let id = ExportId::from_slice(&header.export_id).map_err(|error| unknown(&error))?;
    let name = site.index.name(cluster, id).ok_or_else(|| unknown(&"no such export"))?;
    let export = state.exports.get(&name).ok_or_else(|| unknown(&"no such export any more"))?;
    let trust_domain = lane.identity().trust_domain();
    let decision = state.may_reach(cluster, trust_domain, &name, &caller);
    if decision.audit.is_some_and(|would| would != decision.allowed) {
        tracing::info!(peer = %cluster, %caller, export = %name, "a grant in audit mode would decide otherwise");
        let (service, cluster) = (name.clone(), Some(cluster.clone()));
        site.ledger.count(Proxied { service, cluster, result: "audit" });
    }
    if !decision.allowed {
        return Err(unknown(&decision.reason));
    }
    let ground = Ground::In(Admitted {
        cluster: cluster.clone(),
        trust_domain: trust_domain.clone(),
        service: name,
        incarnation: export.incarnation,
        caller,
    });
    let foothold = site.allowed.enter(ground.clone());
    // Whatever changed before it stood there did not cut it.
    if ground.holds(&site.state.load()) { Ok((export.clone(), foothold)) } else { Err(unknown(&"just now")) }
}

fn refusal(origin: Origin, code: Code) -> Refusal {
    Refusal { origin, code, reason: code.info().title.to_owned() }
}

async fn refuse(writer: &mut Writer, refusal: Refusal) {
    let origin = match refusal.origin {
        Origin::Gateway => v1::Origin::Gateway,
        Origin::Refused => v1::Origin::Refused,
        Origin::Timeout => v1::Origin::Timeout,
        Origin::Policy => v1::Origin::Policy,
        Origin::Limit => v1::Origin::Limit,
        Origin::App => v1::Origin::App,
    };
    let refused =
        v1::Refused { origin: origin.into(), code: refusal.code.to_string(), reason: refusal.reason };
    let reply = v1::OpenReply { outcome: Some(v1::open_reply::Outcome::Refused(refused)) };
    if writer.write_message(&reply).await.is_ok() {
        writer.finish();
    }
}
