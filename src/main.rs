//! The `tombolo` program: hands its arguments on and returns the exit code. No logic lives here.

fn main() {}
