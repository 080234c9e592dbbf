//! What was cut never looks whole: cut anywhere, by either end or by the link between, whoever speaks.

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use tokio::io::AsyncWriteExt as _;

use super::{
    pair,
    world::{Cluster, accept, application, read, read_to_end, write},
};
use crate::{
    model::catalog::Export,
    net::{Stream, TcpListen},
};

/// How what somebody says ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Whole,
    /// His connection is reset.
    Reset,
    /// The link ends.
    Link,
}

/// Somebody says so many bytes, and then it ends.
#[derive(Debug, Clone, Copy)]
struct Case {
    client_speaks: bool,
    bytes: usize,
    ending: Ending,
}

fn cases() -> impl Strategy<Value = Case> {
    let bytes = prop_oneof![0..4_usize, 1_000..2_000_usize, 60_000..70_000_usize, 1_240_000..1_500_000_usize];
    let ending = prop_oneof![1 => Just(Ending::Whole), 2 => Just(Ending::Reset), 1 => Just(Ending::Link)];
    (any::<bool>(), bytes, ending).prop_map(|(client_speaks, bytes, ending)| Case {
        client_speaks,
        bytes,
        ending,
    })
}

async fn say(mut speaker: Box<dyn Stream>, west: &Cluster, case: Case) -> Option<Box<dyn Stream>> {
    let said = vec![7; case.bytes];
    // Whoever listens may be gone before all was said.
    let all = speaker.write_all(&said).await;
    match case.ending {
        Ending::Whole => {
            all.expect("written");
            speaker.shutdown().await.expect("ended");
            return Some(speaker);
        }
        Ending::Reset => speaker.reset_on_close().expect("set"),
        Ending::Link => {
            west.cut_links();
            return Some(speaker);
        }
    }
    None
}

async fn play(
    (east, west, export): (&Cluster, &Cluster, &Export),
    application: &mut Box<dyn TcpListen>,
    case: Case,
) {
    let mut client = east.call(export).await;
    write(&mut client, b"x").await;
    let mut served = accept(application).await;
    read(&mut served, 1).await;
    let (speaker, mut listener) = if case.client_speaks { (client, served) } else { (served, client) };
    let (_kept, heard) = tokio::join!(say(speaker, west, case), read_to_end(&mut listener));
    match (case.ending, heard) {
        (Ending::Whole, Ok(heard)) => assert!(heard.len() == case.bytes, "{case:?}: {}", heard.len()),
        (Ending::Whole, Err(error)) => panic!("{case:?}: {error}"),
        (_, Ok(heard)) => panic!("{case:?}: {} bytes look whole", heard.len()),
        (_, Err(error)) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{case:?}"),
    }
}

#[test]
fn what_was_cut_never_looks_whole() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut application, address) = runtime.block_on(async { application() });
    let mut linked = None;
    let mut runner = TestRunner::new(ProptestConfig { cases: 40, ..ProptestConfig::default() });
    let mut play_one = |case: Case| {
        runtime.block_on(async {
            if linked.is_none() {
                linked = Some(pair(&[address]).await);
            }
            let (east, west, export) = linked.as_ref().expect("made above");
            play((east, west, export), &mut application, case).await;
            if case.ending == Ending::Link
                && let Some((east, west, _)) = linked.take()
            {
                east.end().await;
                west.end().await;
            }
        });
    };
    for _ in 0..runner.config().cases {
        let case = cases().new_tree(&mut runner).expect("made").current();
        play_one(case);
    }
}
