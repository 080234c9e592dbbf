//! The rules that run for each change, each question and each connection, alone: no IO, one thread.
//!
//! `cargo bench --bench model -- [-o json]`. Each figure is the time of one call; calls too short for the
//! clock are timed by the hundred.
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(clippy::disallowed_methods, reason = "it times from outside what may not know the time")]

mod figures;

use std::{collections::BTreeMap, hint::black_box, net::Ipv4Addr, sync::Arc, time::Instant};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value};
use tombolo::{
    identity::{Identity, NewIdentity},
    model::{
        catalog::{Port, Protocol, Row, Traffic, ZoneReady},
        failover::{ClusterView, FailoverPolicy, HealthView, ImportView, NoLoads, Plan, Where, plan},
        ids::{
            ClusterId, Epoch, ExportId, GatewayId, Locality, Namespace, Seq, ServiceLabel, ServiceName,
            Timestamp, TrustDomain,
        },
        import::{Freshness, Import, merge},
        limits,
        liveness::LinkState,
        outlier::{OutlierKey, Standing as Health},
        replication::{CatalogLog, RowChange},
        state::{CatalogChange, Event, Me, Peer, Settings, Standing, State},
        trust::Bundle,
        virtual_ip::{VipKey, VirtualIps},
        zone::{QueryType, Question, ZoneName, ZoneSource, answer},
    },
};

use figures::{Samples, Unit, lines};

const MICROSECONDS: Unit = Unit { name: "us", in_a_second: 1e6 };

const NOW: Timestamp = Timestamp(1_800_000_000_000);
/// Calls of each figure.
const CALLS: usize = 2_000;
/// Calls timed together where one is too short.
const TOGETHER: u32 = 100;

#[derive(Parser)]
struct Wanted {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// What cargo says when it is `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> Result<()> {
    let wanted = Wanted::parse();
    if !wanted.bench {
        return Ok(()); // `cargo test --benches`: it is enough that it builds
    }
    let mut figures = Map::new();
    for (peers, rows) in [(1, 10_000), (250, 1_000)] {
        changes_of_state(&mut figures, peers, rows)?;
    }
    merges(&mut figures)?;
    picks(&mut figures)?;
    catalog_log(&mut figures)?;
    let figures = Value::Object(figures);
    match wanted.output {
        Output::Json => println!("{figures}"),
        Output::Table => lines("", &figures).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

/// Times `call` by itself, with its number.
fn each(mut call: impl FnMut(usize)) -> Value {
    let timed = |number| {
        let begun = Instant::now();
        call(number);
        begun.elapsed()
    };
    (0..CALLS).map(timed).collect::<Samples>().json(MICROSECONDS)
}

/// Times `call` by the hundred.
fn together(mut call: impl FnMut()) -> Value {
    let timed = |_| {
        let begun = Instant::now();
        (0..TOGETHER).for_each(|_| call());
        begun.elapsed() / TOGETHER
    };
    (0..CALLS / 10).map(timed).collect::<Samples>().json(MICROSECONDS)
}

fn cluster(number: usize) -> Result<ClusterId> {
    Ok(ClusterId::parse(&format!("cluster-{number}"))?)
}

fn name(peer: usize, number: usize) -> Result<ServiceName> {
    Ok(ServiceName::parse(&format!("team-{peer}/service-{number:05}"))?)
}

fn row(name: &ServiceName, seq: Seq, ready: u32) -> Row {
    Row {
        name: name.clone(),
        seq,
        export_id: ExportId([7; 16]),
        ports: vec![Port {
            name: "http".into(),
            number: 8_080,
            protocol: Protocol::Tcp,
            app_protocol: "".into(),
        }],
        zones: vec![ZoneReady { locality: Locality::default(), ready, total: 3 }],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: NOW,
        headless: false,
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: Vec::new(),
    }
}

fn peer(cluster: ClusterId, bundle: &Bundle) -> Result<Peer> {
    Ok(Peer {
        trust_domain: TrustDomain::parse(&format!("{cluster}.example"))?,
        cluster,
        bundle: bundle.clone(),
        endpoints: Vec::new(),
        generation: 1,
        standing: Standing::Approved,
        introduced_by: None,
        issuer: false,
        added: NOW,
        ruling: Default::default(),
    })
}

/// A state that holds `rows` names of each of `peers` peers.
fn filled(peers: usize, rows: usize) -> Result<State> {
    let own = ClusterId::parse("own")?;
    let new = NewIdentity {
        cluster: &own,
        trust_domain: None,
        root_life: limits::ROOT_LIFE,
        export_secret: [7; 32],
    };
    let identity = Identity::create(new, NOW)?.0;
    let me = Me {
        cluster: own.clone(),
        trust_domain: identity.trust_domain().clone(),
        gateway: GatewayId::parse("g1")?,
        locality: Locality::default(),
    };
    let mut state = State::new(me, Settings::default(), VirtualIps::new("127.64.0.0/13".parse()?)?);
    let bundle = identity.bundle().as_ref().clone();
    for number in 0..peers {
        state.apply(Event::Peer(peer(cluster(number)?, &bundle)?), NOW);
        let rows =
            (0..rows).map(|at| Ok(row(&name(number, at)?, at as Seq + 1, 3))).collect::<Result<_>>()?;
        let position = Some((Epoch([1; 16]), 1));
        state.apply(Event::CatalogLoaded { peer: cluster(number)?, position, rows, current: NOW }, NOW);
    }
    Ok(state)
}

fn change(peer: usize, at: usize, rows: usize, ready: Option<u32>) -> Result<Event> {
    let (name, seq) = (name(peer, at % rows)?, 1_000_000 + at as Seq);
    let row = match ready {
        Some(ready) => RowChange::Row(Arc::new(row(&name, seq, ready))),
        None => RowChange::Tombstone { name, seq },
    };
    let position = Some((Epoch([1; 16]), seq));
    Ok(Event::Catalog(CatalogChange { peer: cluster(peer)?, position, rows: vec![row], swept: Vec::new() }))
}

/// One event as the store applies it: onto a copy, while readers still hold the state before.
fn changes_of_state(figures: &mut Map<String, Value>, peers: usize, rows: usize) -> Result<()> {
    let mut state = filled(peers, rows)?;
    let held = peers * rows;
    let mut apply = |what: &str, event: &dyn Fn(usize) -> Result<Event>| -> Result<()> {
        let mut events = (0..CALLS).map(event).collect::<Result<Vec<_>>>()?.into_iter();
        let timed = each(|_| {
            let mut next = state.clone();
            next.apply(events.next().expect("one a call"), NOW);
            state = next;
        });
        figures.insert(format!("apply_{what}_at_{held}"), timed);
        Ok(())
    };
    apply("changed_row", &|at| change(at % peers, at / peers, rows, Some(2)))?;
    apply("withdrawn_row", &|at| change(at % peers, at / peers, rows, None))?;
    apply("new_row", &|at| change(at % peers, rows + at, usize::MAX, Some(3)))?;

    let mut later = state.clone();
    later.apply(change(0, 1, rows, Some(1))?, NOW);
    figures.insert(
        format!("changes_since_at_{held}"),
        together(|| {
            black_box(later.changes_since(&state));
        }),
    );
    questions(figures, &later, held)
}

/// The zone of a state, without listeners.
struct Zone<'a>(ZoneName, &'a State);

impl ZoneSource for Zone<'_> {
    fn zone(&self) -> &ZoneName {
        &self.0
    }
    fn ttl(&self) -> u32 {
        5
    }
    fn serial(&self) -> u32 {
        1
    }
    fn synced(&self, _: Instant) -> bool {
        self.1.synced()
    }
    fn import(&self, name: &ServiceName) -> Option<&Import> {
        self.1.imports.get(name).map(AsRef::as_ref)
    }
    fn holds(&self, namespace: &Namespace) -> bool {
        let Ok(least) = ServiceLabel::parse("0") else { return false };
        let first = ServiceName { namespace: namespace.clone(), name: least };
        self.1.imports.range(first..).next().is_some_and(|(name, _)| name.namespace == *namespace)
    }
    fn virtual_ip(&self, key: &VipKey) -> Option<Ipv4Addr> {
        self.1.virtual_ips.get(key)
    }
    fn bound_port(&self, _: Ipv4Addr, _: Protocol, port: u16) -> Option<u16> {
        Some(port)
    }
}

fn questions(figures: &mut Map<String, Value>, state: &State, held: usize) -> Result<()> {
    let zone = Zone(ZoneName::parse("clusterset.local")?, state);
    let now = Instant::now();
    for (what, service) in [("known", "service-00001"), ("unknown", "no-such")] {
        let text = format!("{service}.team-0.svc.clusterset.local");
        let labels: Vec<&[u8]> = text.split('.').map(str::as_bytes).collect();
        let question = Question { labels: &labels, kind: QueryType::A };
        let timed = together(|| {
            black_box(answer(black_box(&question), &zone, now));
        });
        figures.insert(format!("dns_answer_{what}_at_{held}"), timed);
    }
    Ok(())
}

fn merges(figures: &mut Map<String, Value>) -> Result<()> {
    for exporters in [1, 3, 250] {
        let row = row(&name(0, 0)?, 1, 3);
        let offers: Vec<_> = (0..exporters)
            .map(|number| Ok((cluster(number)?, &row, Freshness::Fresh)))
            .collect::<Result<_>>()?;
        let timed = together(|| {
            black_box(merge(black_box(&offers)));
        });
        figures.insert(format!("merge_of_{exporters}"), timed);
    }
    Ok(())
}

/// Everybody is well.
struct AllWell;

impl HealthView for AllWell {
    fn link(&self, _: &ClusterId) -> LinkState {
        LinkState::Up
    }
    fn standing(&self, _: &OutlierKey, _: Instant) -> Health {
        Health::Healthy
    }
    fn returned(&self, _: &OutlierKey) -> Option<Instant> {
        None
    }
}

fn picks(figures: &mut Map<String, Value>) -> Result<()> {
    let zones = vec![ZoneReady { locality: Locality::default(), ready: 3, total: 3 }];
    let me = Where { cluster: ClusterId::parse("own")?, locality: Locality::default() };
    let now = Instant::now();
    for exporters in [1, 3, 250] {
        let clusters = (0..exporters)
            .map(|number| {
                let (zones, freshness) = (zones.clone(), Freshness::Fresh);
                Ok(ClusterView { cluster: cluster(number)?, zones, freshness, exposes_port: true })
            })
            .collect::<Result<_>>()?;
        let import = ImportView { service: name(0, 0)?, port: 8_080, clusters };
        let policy = FailoverPolicy::default();
        let planned = || -> Plan { plan(black_box(&import), &me, &policy, &BTreeMap::new(), &AllWell, now) };
        figures.insert(
            format!("plan_of_{exporters}"),
            together(|| {
                black_box(planned());
            }),
        );
        let (plan, mut rng) = (planned(), StdRng::seed_from_u64(7));
        let timed = together(|| {
            black_box(plan.pick(&NoLoads, &mut rng).next());
        });
        figures.insert(format!("pick_of_{exporters}"), timed);
    }
    Ok(())
}

fn catalog_log(figures: &mut Map<String, Value>) -> Result<()> {
    let names = (0..10_000).map(|at| name(0, at)).collect::<Result<Vec<_>>>()?;
    let mut log = CatalogLog::new(Epoch([1; 16]));
    for name in &names {
        log.replace(name, Some(row(name, 0, 3)))?;
    }
    let timed = each(|at| {
        let name = &names[at * 5];
        black_box(log.replace(name, Some(row(name, 0, 1 + at as u32))).expect("a small row"));
    });
    figures.insert("catalog_log_change_at_10000".to_owned(), timed);
    let head = log.head();
    let timed = together(|| {
        black_box(log.changes_after(head - 1).next());
    });
    figures.insert("catalog_log_newest_change_at_10000".to_owned(), timed);
    Ok(())
}
