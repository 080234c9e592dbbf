//! What a changed config file may change while the gateway runs.

use super::{core::Core, exports, settings};
use crate::{
    config::Config,
    model::{
        code::{Code, Problem},
        state::Event,
    },
};

/// Applies exports, rules and the locality of `config`. Returns the keys that wait for a restart.
pub(super) async fn apply(core: &Core, config: Config) -> Result<Vec<String>, Problem> {
    let refused = |problem: Problem| {
        Problem::new(Code::RELOAD_REFUSED, problem.message.clone()).with_fix(problem.fix.clone())
    };
    let rules = settings::settings(&config, core.ours.identity.trust_domain()).map_err(refused)?;
    let mut events = exports::events(&config, &core.store.state(), &core.clock).map_err(refused)?;
    events.push(Event::Settings(rules));
    events.push(Event::Locality(config.locality.clone()));
    core.store.transact(move |_, _| Ok((events, ()))).await?;
    Ok(core.config.changes_needing_restart(&config))
}
