//! How the peers are, in a line.

use crate::federation::peer::{PeerId, Status};

/// For `systemctl status`.
pub(super) fn summary(peers: &[(PeerId, Status)]) -> String {
    let of = |wanted: Status| peers.iter().filter(|(_, status)| *status == wanted).count();
    let live = peers.iter().filter(|(_, status)| status.is_live()).count();
    format!(
        "{live} peers: {} active, {} degraded",
        of(Status::Active),
        of(Status::Degraded)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_line_counts_who_is_live() {
        let at = |status| (PeerId(Uuid::nil()), status);
        let peers = [
            Status::Active,
            Status::Degraded,
            Status::Enrolled,
            Status::Revoked,
        ]
        .map(at);
        assert_eq!(summary(&peers), "3 peers: 1 active, 1 degraded");
        assert_eq!(summary(&[]), "0 peers: 0 active, 0 degraded");
    }
}
