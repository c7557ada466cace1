//! The program: see [`bascule::app`].

use std::process::ExitCode;

fn main() -> ExitCode {
    bascule::app::main()
}
