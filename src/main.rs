//! The `sdwand` command.

use std::process::ExitCode;

/// Buffers of connections come and go among rows that stay: glibc's allocator takes longer over that, in more memory.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sdwand::cli::main()
}
