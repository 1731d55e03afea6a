//! A peer: another sovereign site, as this one sees it, and what may become of it.
//!
//! ```text
//!              accept            enroll            beat
//!   proposed ─────────▶ accepted ──────▶ enrolled ──────▶ active ◀──────┐ beat
//!                          ▲                 │               │ degrade  │
//!                   resume │                 │               ▼          │
//!                       suspended ◀──────────┴─────────── degraded ─────┘
//!                                       suspend
//!   revoke: from everywhere, and back from nowhere.
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::moment::Moment;
use super::site::SiteId;
use super::token::{Fingerprint, TokenDigest};
use crate::model::Name;

/// The id of a peer at this site: a UUID of version 7 (RFC 9562).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(pub Uuid);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PeerId {
    /// The name that a certificate of this peer carries when it calls us.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("fed:{self}")
    }

    /// The peer that a certificate's name is about.
    #[must_use]
    pub fn of_subject(subject: &str) -> Option<Self> {
        // Only the one spelling that we hand out.
        let id = Self(Uuid::try_parse(subject.strip_prefix("fed:")?).ok()?);
        (id.subject() == subject).then_some(id)
    }
}

/// What one site is to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpawnRole {
    /// Two equals.
    #[default]
    Symmetric,
    /// We spawned the other.
    Parent,
    /// The other spawned us.
    Child,
}

/// How the peering came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpawnMode {
    /// Two operators and a token.
    #[default]
    OutOfBand,
    /// The child's autonomy is bounded by grants.
    ManagedChild,
    /// The child is sovereign.
    AutonomousPeer,
    /// The child joins a cluster of the parent's.
    ClusterMember,
}

/// Where a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// One operator has proposed; nobody has answered.
    Proposed,
    /// The token was presented; no trust has been exchanged.
    Accepted,
    /// Trust has been exchanged; no beat has come through.
    Enrolled,
    /// Beats come through, both ways.
    Active,
    /// They came through once, and don't now.
    Degraded,
    /// An operator has stopped it for the time being.
    Suspended,
    /// An operator has ended it.
    Revoked,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Proposed,
        Self::Accepted,
        Self::Enrolled,
        Self::Active,
        Self::Degraded,
        Self::Suspended,
        Self::Revoked,
    ];

    /// What it may become.
    #[must_use]
    pub const fn allowed(self) -> &'static [Self] {
        match self {
            Self::Proposed | Self::Suspended => &[Self::Accepted, Self::Revoked],
            Self::Accepted => &[Self::Enrolled, Self::Suspended, Self::Revoked],
            Self::Enrolled | Self::Degraded => &[Self::Active, Self::Suspended, Self::Revoked],
            Self::Active => &[Self::Degraded, Self::Suspended, Self::Revoked],
            Self::Revoked => &[],
        }
    }

    /// What it becomes by `event`; none if that can't happen to it.
    #[must_use]
    pub const fn after(self, event: Event) -> Option<Self> {
        match (event, self) {
            (Event::Accept, Self::Proposed) | (Event::Resume, Self::Suspended) => Some(Self::Accepted),
            (Event::Enroll, Self::Accepted) => Some(Self::Enrolled),
            (Event::Beat, Self::Enrolled | Self::Active | Self::Degraded) => Some(Self::Active),
            (Event::Degrade, Self::Active | Self::Degraded) => Some(Self::Degraded),
            (Event::Suspend, Self::Accepted | Self::Enrolled | Self::Active | Self::Degraded) => {
                Some(Self::Suspended)
            }
            (
                Event::Revoke,
                Self::Proposed
                | Self::Accepted
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Suspended,
            ) => Some(Self::Revoked),
            (
                Event::Accept,
                Self::Accepted
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Suspended
                | Self::Revoked,
            )
            | (
                Event::Resume,
                Self::Proposed
                | Self::Accepted
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Revoked,
            )
            | (
                Event::Enroll,
                Self::Proposed
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Suspended
                | Self::Revoked,
            )
            | (Event::Beat, Self::Proposed | Self::Accepted | Self::Suspended | Self::Revoked)
            | (
                Event::Degrade,
                Self::Proposed | Self::Accepted | Self::Enrolled | Self::Suspended | Self::Revoked,
            )
            | (Event::Suspend, Self::Proposed | Self::Suspended | Self::Revoked)
            | (Event::Revoke, Self::Revoked) => None,
        }
    }

    /// Whether its certificates are good for anything here.
    #[must_use]
    pub const fn may_call(self) -> bool {
        match self {
            Self::Enrolled | Self::Active | Self::Degraded => true,
            Self::Proposed | Self::Accepted | Self::Suspended | Self::Revoked => false,
        }
    }

    /// Whether it holds its URL, site and anchors against another peer.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::Proposed
            | Self::Accepted
            | Self::Enrolled
            | Self::Active
            | Self::Degraded
            | Self::Suspended => true,
            Self::Revoked => false,
        }
    }

    /// The word that stands in answers and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Accepted => "accepted",
            Self::Enrolled => "enrolled",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can happen to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The token was presented, or taken.
    Accept,
    /// Trust was exchanged.
    Enroll,
    /// A verified exchange, whoever began it.
    Beat,
    /// Silence for too long, or a refusal.
    Degrade,
    /// An operator stops it.
    Suspend,
    /// An operator lets it go on.
    Resume,
    /// An operator ends it.
    Revoke,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Accept,
        Self::Enroll,
        Self::Beat,
        Self::Degrade,
        Self::Suspend,
        Self::Resume,
        Self::Revoke,
    ];

    /// The word for messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accepted",
            Self::Enroll => "enrolled",
            Self::Beat => "beaten for",
            Self::Degrade => "degraded",
            Self::Suspend => "suspended",
            Self::Resume => "resumed",
            Self::Revoke => "revoked",
        }
    }
}

/// Something can't happen to a peer as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer that is {from} can't be {}", event.as_str())]
pub struct TransitionError {
    /// Where it stands.
    pub from: Status,
    /// What should have happened.
    pub event: Event,
}

/// What a site vouches with: one root certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The certificate, PEM (RFC 7468).
    pub pem: String,
    /// SHA-256 of its public key.
    pub fingerprint: Fingerprint,
    /// Since when it is good.
    pub since: Moment,
    /// From when on it no longer is, once another has taken its place.
    pub until: Option<Moment>,
    /// Whether the peer has shown that its key is its own. Only such an anchor is held against other peers: anyone can name a
    /// root as its next one.
    #[serde(default = "yes")]
    pub proven: bool,
}

/// What was exchanged, so that each knows the other's calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Whom the peer's certificates name.
    pub site: SiteId,
    /// What they must lead to.
    pub anchors: Vec<Anchor>,
    /// How often its anchors have changed, as it counts.
    pub sequence: u64,
    /// The name that our certificate must carry when we call it.
    pub outbound_subject: String,
}

impl Trust {
    /// The anchors that are good at this time.
    pub fn anchors_at(&self, now: Moment) -> impl Iterator<Item = &Anchor> {
        let good = move |anchor: &&Anchor| anchor.until.is_none_or(|until| now < until);
        self.anchors.iter().filter(good)
    }
}

/// An offer that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The token's digest.
    pub digest: TokenDigest,
    /// When it is void.
    pub expires_at: Moment,
    /// Whose CA alone may answer, if the operator knows it.
    pub expect_ca: Option<Fingerprint>,
}

/// A place where a site is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// `https://…`
    pub url: String,
    /// Who can reach it: `wan`, `lan`, …
    #[serde(default = "wan")]
    pub scope: String,
    /// Lower first.
    #[serde(default = "default_priority")]
    pub priority: u32,
    /// The network it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr_hint: Option<String>,
}

const fn yes() -> bool {
    true
}

fn wan() -> String {
    "wan".to_owned()
}

const fn default_priority() -> u32 {
    100
}

/// What a peer last said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// What it can do.
    pub capabilities: serde_json::Map<String, serde_json::Value>,
    /// What it is extended with.
    pub extension_slugs: Vec<String>,
    /// Where else it is reached.
    pub endpoints: Vec<Endpoint>,
    /// Its version.
    pub platform_version: Option<String>,
    /// Where its data resides.
    pub data_residency: Option<String>,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its id here.
    pub id: PeerId,
    /// What the operator calls it; `[[bridges]]` name it so.
    pub alias: Name,
    /// Where its API is.
    pub url: String,
    /// What it is to us.
    pub role: SpawnRole,
    /// How it came about.
    pub mode: SpawnMode,
    /// Where it stands.
    pub status: Status,
    /// Since when.
    pub since: Moment,
    /// Why, where an operator asks: what degraded, suspended or revoked it, or what `accepted` waits for.
    pub reason: Option<String>,
    /// The open offer; only while proposed.
    pub offer: Option<Offer>,
    /// What was exchanged; stays when it is suspended.
    pub trust: Option<Trust>,
    /// Whether the operators have compared the six words.
    pub verified: bool,
    /// The six words.
    pub words: Option<String>,
    /// The version of the contract that both keep.
    pub contract_version: Option<u32>,
    /// What it last said of itself.
    pub declared: Declared,
    /// When it was proposed.
    pub proposed_at: Moment,
    /// When it was accepted.
    pub signed_at: Option<Moment>,
    /// When certificates were last exchanged with it.
    pub last_handshake_at: Option<Moment>,
    /// When it last answered, or called.
    pub last_heartbeat_at: Option<Moment>,
    /// How often the same site was peered with before.
    pub generation: u32,
}

impl Peer {
    /// Lets `event` happen.
    ///
    /// # Errors
    /// It can't, as the peer stands: nothing has changed.
    pub fn happen(&mut self, event: Event, reason: Option<&str>, now: Moment) -> Result<(), TransitionError> {
        let from = self.status;
        let to = from.after(event).ok_or(TransitionError { from, event })?;
        if to != from {
            self.since = now;
        }
        self.status = to;
        self.reason = reason.map(str::to_owned);
        if to != Status::Proposed {
            // A row's own token dies when the row leaves `proposed`.
            self.offer = None;
        }
        match event {
            Event::Accept => self.signed_at = Some(now),
            Event::Enroll => self.last_handshake_at = Some(now),
            Event::Beat => self.last_heartbeat_at = Some(now),
            Event::Degrade | Event::Suspend | Event::Resume | Event::Revoke => {}
        }
        Ok(())
    }

    /// Whether it holds, against other peers, everything that `other` would.
    #[must_use]
    pub fn claims_as_much_as(&self, other: &Self) -> bool {
        let trust = |peer: &Self| {
            let trust = peer.trust.as_ref()?;
            let anchors: Vec<_> = trust.anchors.iter().map(|anchor| anchor.fingerprint).collect();
            Some((trust.site.clone(), anchors))
        };
        let unchanged = self.url == other.url && self.alias == other.alias && trust(self) == trust(other);
        self.status.is_live() && unchanged
    }

    /// How bad a change to this status is, for whoever watches.
    #[must_use]
    pub const fn severity(status: Status) -> &'static str {
        match status {
            Status::Revoked => "high",
            Status::Degraded | Status::Suspended => "medium",
            Status::Proposed | Status::Accepted | Status::Enrolled | Status::Active => "low",
        }
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for TokenDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Fingerprint(self.0))
    }
}

impl<'de> Deserialize<'de> for TokenDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fingerprint::deserialize(deserializer).map(|digest| Self(digest.0))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn proposed() -> Peer {
        let now = Moment::from_millis(1_000_000);
        Peer {
            id: PeerId(Uuid::from_u128(1)),
            alias: Name::new("site-b").unwrap(),
            url: "https://site-b.example.com:8443".to_owned(),
            role: SpawnRole::Symmetric,
            mode: SpawnMode::OutOfBand,
            status: Status::Proposed,
            since: now,
            reason: None,
            offer: Some(Offer {
                digest: TokenDigest([1; 32]),
                expires_at: now.after(std::time::Duration::from_secs(3_600)),
                expect_ca: None,
            }),
            trust: None,
            verified: false,
            words: None,
            contract_version: None,
            declared: Declared::default(),
            proposed_at: now,
            signed_at: None,
            last_handshake_at: None,
            last_heartbeat_at: None,
            generation: 1,
        }
    }

    /// Rows: from; columns: `Event::ALL`. `.` is "can't".
    const TABLE: [(Status, [&str; 7]); 7] = [
        (Status::Proposed, ["accepted", ".", ".", ".", ".", ".", "revoked"]),
        (
            Status::Accepted,
            [".", "enrolled", ".", ".", "suspended", ".", "revoked"],
        ),
        (
            Status::Enrolled,
            [".", ".", "active", ".", "suspended", ".", "revoked"],
        ),
        (
            Status::Active,
            [".", ".", "active", "degraded", "suspended", ".", "revoked"],
        ),
        (
            Status::Degraded,
            [".", ".", "active", "degraded", "suspended", ".", "revoked"],
        ),
        (
            Status::Suspended,
            [".", ".", ".", ".", ".", "accepted", "revoked"],
        ),
        (Status::Revoked, [".", ".", ".", ".", ".", ".", "."]),
    ];

    #[test]
    fn the_whole_transition_table() {
        for (from, row) in TABLE {
            for (event, expected) in Event::ALL.into_iter().zip(row) {
                let to = from.after(event).map_or(".", Status::as_str);
                assert_eq!(to, expected, "{from} {event:?}");
                let mut peer = Peer {
                    status: from,
                    ..proposed()
                };
                let before = peer.clone();
                let happened = peer.happen(event, Some("why"), Moment::from_millis(2_000_000));
                assert_eq!(happened.is_ok(), expected != ".");
                if happened.is_err() {
                    assert_eq!(peer, before, "a refused event changes nothing");
                } else {
                    assert_eq!(peer.status.as_str(), expected);
                    assert_eq!(peer.offer, None, "its token is dead");
                }
            }
        }
    }

    #[test]
    fn events_lead_just_where_the_contract_allows() {
        for from in Status::ALL {
            let mut reached: Vec<Status> = Event::ALL.iter().filter_map(|event| from.after(*event)).collect();
            reached.retain(|to| *to != from);
            reached.sort();
            let mut allowed = from.allowed().to_vec();
            allowed.sort();
            assert_eq!(reached, allowed, "{from}");
        }
    }

    #[test]
    fn only_who_exchanged_trust_and_was_not_stopped_may_call() {
        let may: Vec<Status> = Status::ALL
            .into_iter()
            .filter(|status| status.may_call())
            .collect();
        assert_eq!(may, [Status::Enrolled, Status::Active, Status::Degraded]);
    }

    #[test]
    fn subjects_lead_back_in_one_spelling_only() {
        let id = PeerId(Uuid::from_u128(0xabcd));
        assert_eq!(PeerId::of_subject(&id.subject()), Some(id));
        for other in ["", "fed:", "fed:x", "FED:00000000-0000-0000-0000-00000000abcd"] {
            assert_eq!(PeerId::of_subject(other), None);
        }
        assert_eq!(
            PeerId::of_subject(&id.subject().to_uppercase().replace("FED", "fed")),
            None
        );
        assert_eq!(PeerId::of_subject(&format!("fed:{}", id.0.simple())), None);
    }

    #[test]
    fn a_peer_survives_being_written() {
        let peer = proposed();
        let text = serde_json::to_string(&peer).unwrap();
        assert_eq!(serde_json::from_str::<Peer>(&text).unwrap(), peer);
    }
}
