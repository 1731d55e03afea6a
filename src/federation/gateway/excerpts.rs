//! What of the audit a peer is told: what is about it, and of that what it may know.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Gateway;
use crate::federation::identity::Stranger;
use crate::federation::ledger::{AuditRecord, LedgerError, Place, Window};
use crate::federation::moment::Moment;
use crate::federation::peer::{PeerId, Status};

/// How far back is told where nothing is said.
const SPAN: Duration = Duration::from_secs(90 * 86_400);
/// How many records are told where nothing is said.
const DEFAULT: usize = 1_000;
/// How many are told at most.
const MOST: usize = 5_000;
/// How much the events of an answer may take, in bytes: with what is around them, it stays below `MAX_BODY`.
const PAGE: usize = 60 * 1024;
/// How much the payload of one may take, in bytes; a longer one is left out.
const PAYLOAD: usize = 8 * 1024;

/// What is asked for, as it stands in the query.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct ExcerptsAsked {
    /// RFC 3339; 90 days ago without it.
    #[param(format = DateTime, nullable = false)]
    pub since: Option<String>,
    /// RFC 3339; now without it.
    #[param(format = DateTime, nullable = false)]
    pub until: Option<String>,
    /// How many; 1,000 without it, 5,000 at most.
    #[param(pattern = "^[1-9][0-9]{0,8}$", nullable = false)]
    pub limit: Option<String>,
    /// `next` of the answer before.
    #[param(pattern = "^[0-9]{1,15}\\.[0-9]{1,15}$", nullable = false)]
    pub after: Option<String>,
}

/// One record, as the peer is told.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Excerpt {
    at: Moment,
    kind: String,
    severity: String,
    #[schema(value_type = Object)]
    payload: Map<String, Value>,
}

/// What `audit_excerpts` answers.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Excerpts {
    /// The caller.
    pub peer_id: PeerId,
    /// What was looked at.
    pub window: Window,
    /// Oldest first.
    pub events: Vec<Excerpt>,
    /// Nothing is shipped by this version.
    #[schema(value_type = Vec<String>, max_items = 0)]
    pub shipments: [(); 0],
    /// How many events there are in this answer.
    pub count: usize,
    /// Whether there are more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Where to go on with `?after=`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Nothing of the audit is told.
#[derive(Debug, thiserror::Error)]
pub enum ExcerptError {
    /// Nobody whom we know.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// The caller isn't active.
    #[error("excerpts of the audit are for active peers: you are {0} here")]
    Standing(Status),
    /// The operators haven't compared the words.
    #[error("this site's operator hasn't verified the peering yet")]
    Unverified,
    /// Its data resides elsewhere.
    #[error("your data resides elsewhere than this site's, and its operator refuses that")]
    Border,
    /// What is asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What is asked for, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ask {
    window: Window,
    limit: usize,
    after: Option<Place>,
}

impl ExcerptsAsked {
    fn understand(&self, now: Moment) -> Result<Ask, ExcerptError> {
        let moment = |name: &str, text: &Option<String>, without: Moment| match text {
            None => Ok(without),
            Some(text) => text
                .parse()
                .map_err(|error| ExcerptError::Asked(format!("{name}: {error}"))),
        };
        let window = Window {
            since: moment("since", &self.since, now.before(SPAN))?,
            until: moment("until", &self.until, now)?,
        };
        if window.until <= window.since {
            let Window { since, until } = window;
            return Err(ExcerptError::Asked(format!(
                "until ({until}) must be later than since ({since})"
            )));
        }
        let limit = self.limit.as_ref().map_or(Ok(DEFAULT), |text| text.parse());
        let limit = limit.ok().filter(|limit| *limit > 0);
        let limit = limit.ok_or_else(|| {
            ExcerptError::Asked(format!(
                "limit is a number from 1 to {MOST}; more is told as {MOST}"
            ))
        })?;
        let after = self.after.as_ref().map(|text| text.parse()).transpose();
        Ok(Ask {
            window,
            limit: limit.min(MOST),
            after: after.map_err(|error| ExcerptError::Asked(format!("after: {error}")))?,
        })
    }
}

/// What of a payload the peer may know, by the record's kind. What isn't listed isn't told: reasons are our operator's
/// words, and other fields may name others.
fn told(kind: &str) -> &'static [&'static str] {
    match kind {
        "federation.peer.accepted" | "federation.peer.enrolled" => &["contract_version"],
        "federation.peer.degraded" => &["degraded_reason"],
        "federation.peer.heartbeat_stale" | "federation.peer.rehandshaked" => &["last_heartbeat_at"],
        "federation.peer.notice" => &["notice", "declared_by"],
        "federation.peer.data_residency_changed" => &["previous", "new", "declared_by"],
        "federation.peer.anchor_changed" => &["previous", "anchors"],
        "federation.grant.created" => &["grant", "resource_kind", "permission_scopes", "expires_at"],
        "federation.grant.revoked" | "federation.grant.archived" => &["grant"],
        _ => &[],
    }
}

fn excerpt(record: AuditRecord) -> Excerpt {
    let mut payload = match record.payload {
        Value::Object(payload) => payload,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    let told = told(&record.kind);
    payload.retain(|field, _| told.contains(&field.as_str()));
    if length(&payload) > PAYLOAD {
        payload.clear();
    }
    Excerpt {
        at: record.at,
        kind: record.kind,
        severity: record.severity,
        payload,
    }
}

fn length(told: &impl Serialize) -> usize {
    serde_json::to_vec(told).map_or(usize::MAX, |text| text.len())
}

/// What fits into one answer of `limit` records, and behind which one the next goes on.
fn page(records: Vec<AuditRecord>, limit: usize) -> (Vec<Excerpt>, Option<Place>) {
    let (mut page, mut bytes, mut last) = (Vec::new(), 0_usize, None);
    for record in records {
        let place = Place::of(&record);
        let event = excerpt(record);
        bytes = bytes.saturating_add(length(&event)).saturating_add(1);
        if page.len() == limit || (bytes > PAGE && !page.is_empty()) {
            return (page, last);
        }
        page.push(event);
        last = Some(place);
    }
    (page, None)
}

impl Gateway {
    /// Tells an active peer what the audit has about it.
    ///
    /// # Errors
    /// It isn't known, may not be told, asks for nonsense, or the ledger can't be read.
    pub fn excerpts(
        &self,
        chain: &[CertificateDer<'_>],
        asked: &ExcerptsAsked,
        wall: Moment,
    ) -> Result<Excerpts, ExcerptError> {
        let peer = self.identify(chain, wall)?;
        if peer.status != Status::Active {
            return Err(ExcerptError::Standing(peer.status));
        }
        if !self.is_verified(&peer) {
            return Err(ExcerptError::Unverified);
        }
        if !self.border(&peer).is_open() {
            return Err(ExcerptError::Border);
        }
        let now = self.ledger.read(|book| book.now(wall));
        let Ask { window, limit, after } = asked.understand(now)?;
        // One more shows whether there is more.
        let records = self.ledger.audit_of(peer.id, window, after, limit + 1)?;
        let (events, next) = page(records, limit);
        Ok(Excerpts {
            peer_id: peer.id,
            window,
            count: events.len(),
            events,
            shipments: [],
            truncated: next.is_some(),
            next: next.map(|place| place.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(sequence: i64, kind: &str, payload: Value) -> AuditRecord {
        AuditRecord {
            sequence,
            at: Moment::from_millis(sequence / 3),
            kind: kind.to_owned(),
            severity: "low".to_owned(),
            peer: Some("x".to_owned()),
            payload,
        }
    }

    fn asked(since: &str, until: &str, limit: &str) -> ExcerptsAsked {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        ExcerptsAsked {
            since: given(since),
            until: given(until),
            limit: given(limit),
            after: None,
        }
    }

    #[test]
    fn a_window_is_90_days_unless_it_is_said() {
        let now = Moment::from_millis(1_779_025_512_345);
        let ask = asked("", "", "").understand(now).unwrap();
        assert_eq!(
            ask,
            Ask {
                window: Window {
                    since: now.before(Duration::from_secs(90 * 86_400)),
                    until: now
                },
                limit: 1_000,
                after: None,
            }
        );
        for (limit, is) in [("1", 1), ("5000", 5_000), ("5001", 5_000), ("99999999", 5_000)] {
            assert_eq!(asked("", "", limit).understand(now).unwrap().limit, is);
        }
        for limit in ["0", "-1", "many", "1.5", "99999999999999999999999"] {
            assert!(asked("", "", limit).understand(now).is_err(), "{limit}");
        }
        let (early, late) = ("2026-05-01T00:00:00Z", "2026-05-02T00:00:00+02:00");
        assert!(asked(early, late, "").understand(now).is_ok());
        for (since, until) in [(late, early), (early, early), ("yesterday", ""), ("", "now")] {
            let refused = asked(since, until, "").understand(now);
            assert!(matches!(refused, Err(ExcerptError::Asked(_))), "{since} {until}");
        }
        let after = ExcerptsAsked {
            after: Some("2026".to_owned()),
            ..ExcerptsAsked::default()
        };
        assert!(after.understand(now).is_err());
    }

    #[test]
    fn only_what_is_listed_is_told() {
        let all = json!({
            "reason": "they owe us", "by": "alice", "url": "https://c.example", "verified": true, "previous": "JP",
            "new": "DE", "declared_by": "operator", "site": "site-c~fd00:0:3::/48", "prefixes": ["fd00::/48"],
            "degraded_reason": "heartbeat_stale", "grant": "1", "remote_subject": "*", "resource_id": "web",
        });
        let payload = |kind: &str| Value::Object(excerpt(record(1, kind, all.clone())).payload);
        assert_eq!(
            payload("federation.peer.data_residency_changed"),
            json!({ "previous": "JP", "new": "DE", "declared_by": "operator" })
        );
        assert_eq!(
            payload("federation.peer.degraded"),
            json!({ "degraded_reason": "heartbeat_stale" })
        );
        assert_eq!(payload("federation.grant.created"), json!({ "grant": "1" }));
        for kind in ["federation.peer.suspended", "federation.bridge.widened", "x"] {
            assert_eq!(payload(kind), json!({}), "{kind}");
        }
        for other in [Value::Null, json!("reason"), json!(["reason"])] {
            assert!(
                excerpt(record(1, "federation.peer.degraded", other))
                    .payload
                    .is_empty()
            );
        }
        let long = json!({ "previous": "x".repeat(100_000) });
        let event = excerpt(record(1, "federation.peer.data_residency_changed", long));
        assert!(event.payload.is_empty());
    }

    #[test]
    fn pages_stay_small_and_lose_and_repeat_nothing() {
        let payload = json!({ "grant": "x".repeat(300) });
        let all: Vec<_> = (1..=3_000)
            .map(|n| record(n, "federation.grant.revoked", payload.clone()))
            .collect();
        for limit in [7, 1_000, 5_000] {
            let (mut seen, mut after) = (0, None);
            loop {
                let left = all
                    .iter()
                    .filter(|record| after.is_none_or(|after| Place::of(record) > after));
                let (events, next) = page(left.cloned().collect(), limit);
                assert!(length(&events) <= PAGE + 2 && events.len() <= limit && !events.is_empty());
                seen += events.len();
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, 3_000);
        }
    }
}
