//! Who runs, where, and until when: the only place that starts tasks and threads, always with a name.
//!
//! [`Tasks`] run on the control runtime, [`Shards`] on one runtime per core; both fail fast: a part that
//! panics, or ends before [`Shutdown`] asked for it, brings the daemon down with its name. Nothing here
//! knows what the tasks do. quinn, hyper and hickory start tasks of their own on the runtime they run on.

mod readiness;
mod roster;
mod shards;
mod shutdown;
mod tasks;

pub use readiness::{Readiness, ReadyGuard};
pub use roster::{Cause, Failure};
pub use shards::Shards;
pub use shutdown::Shutdown;
pub use tasks::Tasks;

#[cfg(test)]
mod tests;
