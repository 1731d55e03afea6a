//! Links, VRFs, addresses, rules, routes and kernel parameters.

mod apply;
mod change;
mod compile;
mod diff;
mod display;
mod encode;
#[cfg(test)]
pub(crate) mod kernel;
mod observe;
mod state;
#[cfg(test)]
mod tests;

pub use apply::{Applier, L3Error, NoUserspaceLinks, UserspaceError, UserspaceLinks};
pub use change::{Change, Op};
pub use compile::{Facts, compile};
pub use diff::{Around, diff, render};
pub use observe::{Raw, decode, observe, observe_facts};
pub use state::{
    Actual, Backend, Family, Fib, FibRoute, HostAddress, Interface, LINK_GROUP, Lan, Link, LinkType,
    MAIN_TABLE, NextHop, Route, RouteKey, RouteTo, Rule, Selector, State, route_key,
};
