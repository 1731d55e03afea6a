//! The `sdwand` command.

fn main() {}
