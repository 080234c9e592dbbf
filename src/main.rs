//! The `tombolo` program: hands its arguments on and returns the exit code. No logic lives here.

use std::process::ExitCode;

fn main() -> ExitCode {
    tombolo::cli::main(std::env::args_os())
}
