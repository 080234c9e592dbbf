//! Two gateways of one cluster on one state folder: one dies, or both are restarted in turn, and traffic goes on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    gateway::{Cluster, Gateway, until},
    names::{application, place, said_by},
};

const WEB: &str = "web.shop.svc.clusterset.local.";
/// Pause between two connections of the client.
const PAUSE: Duration = Duration::from_millis(20);

/// How many gateways of `peer` this cluster has a link to that takes new connections.
fn links(cluster: &Cluster, peer: &str) -> usize {
    let row = cluster.json(&format!("peers {peer}"))["peers"][0].clone();
    let rows = row["links"].as_array().cloned().unwrap_or_default();
    rows.iter().filter(|link| link["state"] == "up" && link["draining"] != true).count()
}

/// What a client saw that connects anew all the time.
#[derive(Debug, Default)]
struct Seen {
    answered: usize,
    failed: usize,
    longest: Duration,
}

/// Connects to `at` again and again until told to stop; counts its answers meanwhile.
fn client(at: SocketAddr) -> (Arc<AtomicBool>, Arc<AtomicUsize>, JoinHandle<Seen>) {
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (told, counted) = (stop.clone(), answers.clone());
    let run = std::thread::spawn(move || {
        let mut seen = Seen::default();
        while !told.load(Ordering::Relaxed) {
            let begun = Instant::now();
            match said_by(at) {
                Some(_) => {
                    seen.answered += 1;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                None => seen.failed += 1,
            }
            seen.longest = seen.longest.max(begun.elapsed());
            std::thread::sleep(PAUSE);
        }
        seen
    });
    (stop, answers, run)
}

/// Two gateways of east that share an export, and west, which is linked to both.
fn pair(numbers: [u8; 3]) -> (Cluster, Cluster, [Gateway; 2], Gateway, SocketAddr) {
    let (east, west) = (Cluster::new("east", numbers[0]), Cluster::new("west", numbers[1]));
    let (first, second) = (east.start(), west.start());
    let app = application("east");
    east.tombolo(&format!("export web.shop={app} --port 8080")).well();
    west.join(&east.token()).well();
    // It knows the peer and the export by the folder alone.
    let sibling = east.start_another(numbers[2]);
    until("both gateways are linked", || (links(&west, "east") == 2).then_some(()));
    let at = until("the name is served", || place(second.dns(), WEB, 8080));
    until("traffic", || said_by(at));
    (east, west, [first, sibling], second, at)
}

#[test]
fn when_one_of_two_gateways_dies_traffic_and_news_go_on() {
    let (east, west, [first, sibling], second, at) = pair([160, 161, 162]);
    // What one gateway is told, the other knows.
    let app = application("more");
    east.ask(&sibling, &format!("export more.shop={app} --port 8080")).well();
    until("the sibling knows", || east.ask(&first, "services more.shop").out.contains("more").then_some(()));
    let (stop, answers, run) = client(at);
    let answered = |more: usize| {
        let wanted = answers.load(Ordering::Relaxed) + more;
        until("answers", || (answers.load(Ordering::Relaxed) >= wanted).then_some(()));
    };
    answered(10);
    first.kill();
    until("the death is noticed", || (links(&west, "east") == 1).then_some(()));
    answered(50);
    stop.store(true, Ordering::Relaxed);
    let seen = run.join().expect("no panic");
    println!("one of two gateways killed: {seen:?}");
    assert_eq!(seen.failed, 0, "{seen:?}");
    // The catalog comes from the one that is left.
    let late = application("late");
    east.tombolo(&format!("export late.shop={late} --port 8080")).well();
    let name = "late.shop.svc.clusterset.local.";
    let at = until("news arrive", || place(second.dns(), name, 8080));
    assert_eq!(until("late", || said_by(at)), "late");
    let more = until("more", || place(second.dns(), "more.shop.svc.clusterset.local.", 8080));
    assert_eq!(until("more", || said_by(more)), "more");
}

#[test]
fn a_rolling_restart_of_two_gateways_fails_no_new_connection() {
    const ROUNDS: usize = 2;
    let (east, west, [mut first, mut sibling], _second, at) = pair([163, 164, 165]);
    let (stop, _, run) = client(at);
    for round in 0..ROUNDS {
        let listens = if round == 0 {
            // The command does what the signal does.
            let listens = first.listens.clone();
            assert!(east.ask(&first, "drain").well().contains("draining"));
            assert!(first.ended().success(), "{}", first.log());
            listens
        } else {
            first.stop()
        };
        first = east.start_at(&listens, &[]);
        until("both again", || (links(&west, "east") == 2).then_some(()));
        let listens = sibling.stop();
        sibling = east.start_another_at(165, &listens);
        until("both again", || (links(&west, "east") == 2).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    let seen = run.join().expect("no panic");
    println!("{ROUNDS} rounds of restarts of two gateways: {seen:?}");
    assert!(seen.failed == 0 && seen.answered > 20, "{seen:?}");
}
