//! The `sdwand` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sdwand::cli::main()
}
