//! Two gateways on one state folder: each knows what the other was told, and neither undoes it.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    files::{Folder, Memory},
    model::{
        catalog::{Export, ExportSource, Traffic},
        ids::{ClusterId, GatewayId, Incarnation, Locality, ServiceName, TrustDomain},
        policy::{Guardrail, NamePattern, PeerPattern},
        state::{Declared, Me, Settings},
        virtual_ip::VirtualIps,
    },
    supervise::Shutdown,
};

fn store(gateway: &str, persist: Arc<dyn Persist>, clock: &Clock, tasks: &Tasks) -> Store {
    let me = Me {
        cluster: ClusterId::parse("east").expect("an id"),
        trust_domain: TrustDomain::parse("east.tombolo").expect("a domain"),
        gateway: GatewayId::parse(gateway).expect("an id"),
        locality: Locality::default(),
    };
    let ips = VirtualIps::new("127.77.0.0/18".parse().expect("a network")).expect("large enough");
    let state = State::new(me, Settings::default(), ips);
    Store::start(state, persist, format!("gateways/{gateway}"), clock.clone(), tasks)
}

fn export(number: usize) -> Export {
    Export {
        name: ServiceName::parse(&format!("default/web-{number}")).expect("a name"),
        ports: Vec::new(),
        endpoints: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        headless: false,
        created: Timestamp(1),
        incarnation: Incarnation([1; 16]),
        source: ExportSource::State,
    }
}

async fn until(store: &Store, exports: usize) {
    let mut states = store.watch();
    let wait = states.wait_for(|state| state.exports.len() == exports);
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").expect("it runs");
}

#[tokio::test(start_paused = true)]
async fn what_one_gateway_is_told_the_other_knows_at_once() {
    let (clock, tasks) = (Clock::simulated(1, Timestamp(1)), Tasks::inline(Shutdown::new()));
    let memory = Memory::new();
    let [one, two] = ["g1", "g2"].map(|id| store(id, Arc::new(memory.clone()), &clock, &tasks));
    one.apply(Event::Exported(export(1))).await.expect("stored");
    assert!(two.state().exports.is_empty());
    let begun = clock.now();
    until(&two, 1).await;
    assert!(clock.now() - begun <= limits::SHARED_LOOK_INTERVAL);
    // It decides on what the other has written a moment ago, not on what it saw last.
    two.apply(Event::Exported(export(2))).await.expect("stored");
    let seen = one.transact(|state, _| Ok((Vec::new(), state.exports.len()))).await.expect("decided");
    assert_eq!(seen, 2);
    one.apply(Event::Unexported(export(1).name)).await.expect("stored");
    until(&two, 1).await;
    assert!(two.state().exports.contains_key(&export(2).name));
}

#[tokio::test(start_paused = true)]
async fn rules_declared_beside_the_config_file_outlive_the_process_and_reach_the_others() {
    let (clock, tasks) = (Clock::simulated(1, Timestamp(1)), Tasks::inline(Shutdown::new()));
    let memory: Arc<dyn Persist> = Arc::new(Memory::new());
    let [one, two] = ["g1", "g2"].map(|id| store(id, memory.clone(), &clock, &tasks));
    let pattern = |text| NamePattern::parse(text).expect("a pattern");
    let peer = PeerPattern::parse("west").expect("a pattern");
    let guardrail = Guardrail { exports: vec![pattern("bank/*")], peers: vec![peer] };
    let declared = Declared { guardrails: vec![guardrail], ..Declared::default() };
    one.apply(Event::Declared(declared.clone())).await.expect("stored");
    assert_eq!(one.state().settings.grants.guardrails, declared.guardrails);
    // The config file says something else; what was declared beside it stays.
    one.apply(Event::Settings(Settings::default())).await.expect("stored");
    assert_eq!(one.state().settings.grants.guardrails, declared.guardrails);
    let mut states = two.watch();
    let wait = states.wait_for(|state| *state.declared == declared);
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").expect("it runs");
    let state = one.state();
    let (me, ips) = ((*state.me).clone(), (*state.virtual_ips).clone());
    let loaded = load(&memory, "gateways/g3", me, Settings::default(), ips, Timestamp(2)).expect("loaded");
    assert_eq!(loaded.state.settings.grants.guardrails, declared.guardrails);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_gateways_are_told_at_once_is_all_kept() {
    const EACH: usize = 25;
    let folder = tempfile::tempdir().expect("a folder");
    let (clock, tasks) = (Clock::system(), Tasks::new(Shutdown::new()));
    let open = || Arc::new(Folder::open(folder.path()).expect("opened"));
    let [one, two] = ["g1", "g2"].map(|id| store(id, open(), &clock, &tasks));
    let tell = |store: Store, from: usize| async move {
        for number in from..from + EACH {
            store.apply(Event::Exported(export(number))).await.expect("stored");
        }
    };
    tokio::join!(tell(one.clone(), 0), tell(two.clone(), EACH));
    until(&one, 2 * EACH).await;
    until(&two, 2 * EACH).await;
    tasks.shutdown().stop("the test is over");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_export_rewrites_only_the_file_it_stands_in() {
    let (clock, tasks) = (Clock::simulated(1, Timestamp(1)), Tasks::inline(Shutdown::new()));
    let memory = Memory::new();
    let store = store("g1", Arc::new(memory.clone()), &clock, &tasks);
    for number in 0..200 {
        store.apply(Event::Exported(export(number))).await.expect("stored");
    }
    let files = memory.list(documents::EXPORTS).expect("listed");
    let stamps = || files.iter().map(|file| memory.stamp(&format!("{}/{file}", documents::EXPORTS)));
    let before = stamps().collect::<Result<Vec<_>, _>>().expect("looked at");
    store.apply(Event::Exported(Export { idempotent: true, ..export(7) })).await.expect("stored");
    let after = stamps().collect::<Result<Vec<_>, _>>().expect("looked at");
    let changed = files.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| before != after);
    let changed: Vec<_> = changed.map(|(file, _)| format!("{}/{file}", documents::EXPORTS)).collect();
    assert_eq!(changed, [documents::exports(documents::export_file(&export(7).name))]);
    // The last one of a file takes the file with it.
    for number in 0..200 {
        store.apply(Event::Unexported(export(number).name)).await.expect("stored");
    }
    assert!(memory.list(documents::EXPORTS).expect("listed").is_empty());
}
