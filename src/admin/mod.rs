//! The admin API: what a running gateway tells and does through its Unix socket.

pub mod api;
