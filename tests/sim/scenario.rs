//! What happens in a run, drawn from its seed: three clusters meet, then exports, failures and repairs in any
//! order, then healing, then the checkers.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tombolo::model::{
    ids::ServiceName,
    state::{Event, Peer, Standing},
};

use super::{
    checkers,
    trace::Entry,
    world::{MEMBERS, STRANGER, World},
};

/// Services that more than one cluster may export.
const SHARED: [&str; 3] = ["web", "api", "data"];
/// Things that happen between meeting and healing.
const STEPS: std::ops::RangeInclusive<usize> = 5..=10;
const PAUSE_MS: std::ops::RangeInclusive<u64> = 50..=4_000;
/// Long enough for sessions to be lost and for dials to become rare.
const LONG_PAUSE_MS: std::ops::RangeInclusive<u64> = 8_000..=25_000;
/// How long the network is cut while somebody joins.
const HICCUP_MS: std::ops::RangeInclusive<u64> = 50..=1_500;
/// Members meet and first catalogs are whole within this time.
const MEETING: Duration = Duration::from_secs(30);
/// The longest pause between dials is part of it.
const HEALING: Duration = Duration::from_secs(120);
/// How long an unexport may take to be confirmed while nothing is broken.
const CONFIRMING: Duration = Duration::from_secs(5);

/// One run.
pub(crate) struct Outcome {
    pub(crate) trace: Vec<Entry>,
    /// What is wrong, if anything is.
    pub(crate) verdict: Result<(), String>,
    /// How much time was simulated.
    pub(crate) simulated: Duration,
}

/// Runs `seed` from beginning to end.
pub(crate) fn run(seed: u64) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed, &mut rng);
    let verdict = story(&mut world, &mut rng);
    let outcome = Outcome { trace: world.trace.entries(), verdict, simulated: world.now() };
    world.sites.iter().for_each(|site| site.forget());
    outcome
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse_spoken(&format!("{name}.shop"), "clusterset.local").expect("a service name")
}

fn story(world: &mut World, rng: &mut StdRng) -> Result<(), String> {
    world.until("started", MEETING, |world| {
        let late = world.sites.iter().find(|site| site.live().is_none());
        late.map_or(Ok(()), |site| Err(format!("{} has not started", site.name)))
    })?;
    for (who, own) in MEMBERS.into_iter().enumerate() {
        world.export(who, &service(&format!("only-{own}")))?;
        if rng.random_bool(0.5) {
            world.export(who, &service(SHARED[rng.random_range(0..SHARED.len())]))?;
        }
    }
    meet(world, rng)?;
    let took = world.until("converged", MEETING, checkers::converged)?;
    world.trace.note(
        world.now(),
        MEMBERS[0],
        format!("all have met, {} ms after the last join", took.as_millis()),
    );
    let mut addresses = checkers::Addresses::new();
    for _ in 0..rng.random_range(STEPS) {
        checkers::addresses_stay(world, &mut addresses)?;
        happen(world, rng)?;
        let pause = if rng.random_bool(0.1) { LONG_PAUSE_MS } else { PAUSE_MS };
        world.wait(Duration::from_millis(rng.random_range(pause)))?;
        checkers::stranger_sees_nothing(world)?;
    }
    heal(world)?;
    let took = world.until("converged", HEALING, checkers::converged)?;
    world.trace.note(world.now(), MEMBERS[0], format!("all agree {} ms after healing", took.as_millis()));
    checkers::names_lead_somewhere(world)?;
    checkers::addresses_stay(world, &mut addresses)?;
    checkers::others_take_over(world)?;
    checkers::stranger_sees_nothing(world)
}

/// Two join the third by token and are introduced to each other; a stranger tries to be one of them.
fn meet(world: &mut World, rng: &mut StdRng) -> Result<(), String> {
    let mut order: Vec<usize> = (0..MEMBERS.len()).collect();
    order.shuffle(rng);
    let issuer = order[0];
    let mut spent = None;
    for who in order.into_iter().skip(1) {
        let token = world
            .ask(issuer, "issue a token", |gateway| async move { gateway.issue().await })?
            .map_err(|problem| problem.to_string())?;
        spent = Some(token.clone());
        if rng.random_bool(0.3) {
            // QUIC sends again what was lost; the exchange only takes longer.
            world.cut(who, issuer, rng.random_bool(0.5));
            world.mend_after(Duration::from_millis(rng.random_range(HICCUP_MS)));
        }
        world
            .ask(who, "join", move |gateway| async move { gateway.join(token).await })?
            .map_err(|why| format!("{} cannot join: {why}", MEMBERS[who]))?;
        world.trace.tell(world.now(), MEMBERS[who], MEMBERS[issuer], "joined");
    }
    let token = spent.ok_or("nobody joined")?;
    let again = world.ask(STRANGER, "join", move |gateway| async move { gateway.join(token).await })?;
    if again.is_ok() {
        return Err("the stranger joined with a token that was spent".to_owned());
    }
    intrude(world)
}

/// An address translation forgets while a client asks: how long until it has its answer.
pub(crate) fn forgotten_paths(seed: u64) -> Result<Duration, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed, &mut rng);
    world.until("started", MEETING, |world| {
        let late = world.sites.iter().find(|site| site.live().is_none());
        late.map_or(Ok(()), |site| Err(format!("{} has not started", site.name)))
    })?;
    for (who, own) in MEMBERS.into_iter().enumerate() {
        world.export(who, &service(&format!("only-{own}")))?;
    }
    meet(&mut world, &mut rng)?;
    world.until("converged", MEETING, checkers::converged)?;
    for who in 0..MEMBERS.len() {
        world.forget_ports(who)?;
    }
    let asked = world.now();
    let name = service(&format!("only-{}", MEMBERS[1]));
    let answer = world.ask(0, "request", move |gateway| async move { gateway.request(&name).await })?;
    let took = world.now() - asked;
    world.sites.iter().for_each(|site| site.forget());
    answer.map(|_| took)
}

/// Makes the stranger believe that the members are its peers: it dials them all from now on.
fn intrude(world: &mut World) -> Result<(), String> {
    let victims: Vec<_> = world.sites[..STRANGER].iter().filter_map(|site| site.live()).collect();
    for victim in victims {
        let peer = Peer {
            cluster: victim.site.cluster(),
            trust_domain: victim.site.trust_domain(),
            bundle: victim.core.ours.bundle().as_ref().clone(),
            endpoints: victim.core.ours.endpoints.clone(),
            generation: 1,
            standing: Standing::Approved,
            introduced_by: None,
            issuer: true,
            added: super::gateway::START,
            ruling: Default::default(),
        };
        world
            .ask(STRANGER, "invent a peer", move |gateway| async move {
                gateway.core.store.apply(Event::Peer(peer)).await
            })?
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One thing happens.
fn happen(world: &mut World, rng: &mut StdRng) -> Result<(), String> {
    let who = rng.random_range(0..MEMBERS.len());
    let other = (who + rng.random_range(1..MEMBERS.len())) % MEMBERS.len();
    let runs = !world.down().contains(&who);
    match rng.random_range(0..11) {
        0 | 1 if runs => {
            let name = service(SHARED[rng.random_range(0..SHARED.len())]);
            if !world.truth.exports_of(MEMBERS[who]).contains(&name) {
                world.export(who, &name)?;
            }
        }
        2 | 3 if runs => {
            let exports = world.truth.exports_of(MEMBERS[who]);
            if let Some(name) = exports.iter().nth(rng.random_range(0..exports.len().max(1))) {
                withdraw(world, who, name)?;
            }
        }
        4 => world.cut(who, other, true),
        5 => world.cut(who, other, false),
        6 => world.mend(),
        7 if runs && world.down().len() + 1 < MEMBERS.len() => world.crash(who),
        8 => {
            if let Some(who) = world.down().first().copied() {
                world.restart(who);
            }
        }
        9 => world.serve(who, !world.serves(who)),
        10 if runs => world.forget_ports(who)?,
        _ => {}
    }
    Ok(())
}

fn withdraw(world: &mut World, who: usize, name: &ServiceName) -> Result<(), String> {
    let settled = world.is_whole() && checkers::converged(world).is_ok();
    let patience = if settled { CONFIRMING } else { Duration::ZERO };
    let missing = world.unexport(who, name, patience)?;
    if settled && !missing.is_empty() {
        return Err(format!("{missing:?} did not confirm within {CONFIRMING:?} that {name} is gone"));
    }
    Ok(())
}

/// Everything works again.
fn heal(world: &mut World) -> Result<(), String> {
    world.mend();
    while let Some(who) = world.down().first().copied() {
        world.restart(who);
    }
    for who in 0..MEMBERS.len() {
        if !world.serves(who) {
            world.serve(who, true);
        }
    }
    world.wait(Duration::from_millis(100))
}
