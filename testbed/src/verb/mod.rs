//! The verbs of the command line, one file each; they share the folder that says what stands.

pub(crate) mod ask;
pub(crate) mod counts;
pub(crate) mod down;
pub(crate) mod failover;
pub(crate) mod fault;
pub(crate) mod inner;
pub(crate) mod load;
pub(crate) mod status;
pub(crate) mod up;
