//! What an operator orders: when, and whose order it is.

use crate::federation::moment::Moment;
use crate::federation::operators::Principal;

/// An operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// When, by the wall clock.
    pub wall: Moment,
    /// Whose, for the audit; peers aren't told.
    pub by: String,
}

impl Order {
    /// Of whoever this is. All who are on the gateway itself are its operator.
    #[must_use]
    pub fn of(by: &Principal, wall: Moment) -> Self {
        match by {
            Principal::Uid(_) => wall.into(),
            Principal::Subject(_) => Self {
                wall,
                by: by.to_string(),
            },
        }
    }
}

impl From<Moment> for Order {
    /// Of the gateway's operator.
    fn from(wall: Moment) -> Self {
        Self {
            wall,
            by: "operator".to_owned(),
        }
    }
}
