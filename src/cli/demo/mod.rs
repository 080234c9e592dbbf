//! `tombolo demo`: the main job on one host. Three gateways as processes of this program, an application
//! behind each, two tokens, one name, two faults, and steady requests that show what a client notices.
//!
//! Nothing is pretended: the processes, links, tokens, DNS packets and connections are those of any
//! clusterset. Whatever it starts, it ends, also on Ctrl-C.

mod app;
mod cast;
mod event;
mod folder;
mod gateway;
mod load;
mod lookup;
mod story;
mod view;

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use self::{cast::Cast, folder::Folder, story::Story, view::View};
use super::{args::DemoArgs, output::Printer};
use crate::{
    clock::Clock,
    model::code::{Code, Problem},
    net::{Net, Os},
    supervise::{Shutdown, Tasks},
};

/// What the demo uses of the world outside.
#[derive(Clone)]
struct World {
    clock: Clock,
    net: Arc<dyn Net>,
    tasks: Tasks,
}

/// `tombolo demo`.
pub(super) async fn run(args: &DemoArgs, printer: Printer) -> Result<(), Problem> {
    let world =
        World { clock: Clock::system(), net: Arc::new(Os::default()), tasks: Tasks::new(Shutdown::new()) };
    let mut view = View::new(printer, world.clock.clone());
    let program = std::env::current_exe()
        .map_err(|error| failed(format!("this program's own file cannot be found: {error}")))?;
    let mut interrupted = Interrupt::new()?;
    let folder = Folder::create()?;
    let mut cast = Cast::new(world.clone(), program, folder.path().to_owned());
    let played = tokio::select! {
        biased;
        () = interrupted.wait() => None,
        played = play(&mut cast, &world, &mut view) => Some(played),
    };
    match &played {
        Some(Ok(())) if !args.once => {
            view.note(&cast.places_to_look());
            interrupted.wait().await;
        }
        Some(Err(_)) => view.note(&cast.last_words()),
        Some(Ok(())) | None => {}
    }
    cast.end().await;
    world.tasks.shutdown().stop("the demo is over");
    let stopped =
        || failed("it was interrupted before its end".to_owned()).with_fix("run `tombolo demo` again");
    played.unwrap_or_else(|| Err(stopped()))
}

async fn play(cast: &mut Cast, world: &World, view: &mut View) -> Result<(), Problem> {
    view.note("Starting three gateways and their applications: eu-1, eu-2 (region eu), us-1 (region us)");
    cast.start().await?;
    let target = cast.join(view).await?;
    Story::new(cast, world, view, target).play().await
}

fn failed(message: String) -> Problem {
    Problem::new(Code::DEMO_FAILED, message)
}

/// Ctrl-C, and the other polite way to end a process.
struct Interrupt {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

impl Interrupt {
    fn new() -> Result<Self, Problem> {
        let listen =
            |kind| signal(kind).map_err(|error| failed(format!("signals cannot be received: {error}")));
        Ok(Self { int: listen(SignalKind::interrupt())?, term: listen(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
