//! What the audit says, said as events.

use serde_json::Value;

use crate::federation::ledger::Happening;
use crate::federation::peer::Peer;
use crate::log::Happened;

/// Says what was written to the audit, if it is an event.
pub(super) fn tell(happening: &Happening, peer: Option<&Peer>) {
    if let Some(event) = event(happening, peer) {
        event.emit();
    }
}

/// The audit's word for it, and of what it says besides the few things that events say; never the rest.
fn event(happening: &Happening, peer: Option<&Peer>) -> Option<Happened> {
    let said = |name: &str| {
        happening
            .payload
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    Some(Happened {
        peer: happening.peer.map(|id| id.to_string()),
        alias: peer.map(|peer| peer.alias.to_string()),
        grant: said("grant"),
        bridge: said("bridge"),
        approval: said("approval"),
        reason: said("reason")
            .or_else(|| said("degraded_reason"))
            .or_else(|| said("notice")),
        by: said("by"),
        ..Happened::new(&happening.kind)?
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::federation::peer::tests::proposed;

    #[test]
    fn an_event_says_no_more_of_a_record_than_events_say() {
        let peer = proposed();
        let happening = |kind: &str| Happening {
            kind: kind.to_owned(),
            severity: "high",
            peer: Some(peer.id),
            payload: json!({ "degraded_reason": "silent", "by": "uid:0", "token": "secret", "url": "https://b.example" }),
        };
        let told = event(&happening("federation.peer.degraded"), Some(&peer)).unwrap();
        assert_eq!(told.reason.as_deref(), Some("silent"));
        assert_eq!(told.by.as_deref(), Some("uid:0"));
        assert_eq!(told.alias, Some(peer.alias.to_string()));
        let shown = format!("{told:?}");
        assert!(!shown.contains("secret") && !shown.contains("example"), "{shown}");
        assert_eq!(event(&happening("federation.stranger.refused"), None), None);
    }
}
