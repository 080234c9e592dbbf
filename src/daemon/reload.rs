//! What a changed config file may change while the gateway runs.

use super::{core::Core, exports, settings};
use crate::{
    config::Config,
    model::{
        code::{Code, Problem},
        state::{Event, State},
    },
};

/// Applies exports, rules and the locality of `config`. Returns the keys that wait for a restart.
pub(super) async fn apply(core: &Core, config: Config) -> Result<Vec<String>, Problem> {
    let refused = |problem: Problem| {
        Problem::new(Code::RELOAD_REFUSED, problem.message.clone()).with_fix(problem.fix.clone())
    };
    let rules = settings::settings(&config, core.ours.identity.trust_domain()).map_err(refused)?;
    let (waiting, declared) = (core.config.changes_needing_restart(&config), exports::declared(&config));
    let (replicas, clock) = (core.replicas.clone(), core.clock.clone());
    let decide = move |state: &State, _| {
        let mut events = exports::events(&config, state, &replicas.declared(), &clock).map_err(refused)?;
        events.push(Event::Settings(rules));
        events.push(Event::Locality(config.locality.clone()));
        Ok((events, ()))
    };
    core.store.transact(decide).await?;
    core.declared.send_replace(declared);
    Ok(waiting)
}
