//! A subscription: a peer says that it uses a service that we offer it. Pure.
//!
//! It is for the operator to know who depends on what, and opens nothing: that the fleet's rules alone do.

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::peer::PeerId;
use crate::model::Name;

/// How many one peer may have.
pub const MOST_OF_ONE: usize = 256;

/// What a peer uses of what is offered to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Who.
    pub peer: PeerId,
    /// What: the name of our offer.
    pub service: Name,
    /// Since when.
    pub since: Moment,
}
