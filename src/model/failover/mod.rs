//! Where a new connection goes: so far, how its load spreads over priorities.

pub mod arithmetic;
