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

mod standing;

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use standing::{Event, Status, TransitionError};

use super::moment::Moment;
use super::number;
use super::site::SiteId;
use super::token::{Fingerprint, TokenDigest};
use super::witness::Shown;
use crate::model::Name;
use crate::model::host::Cluster;

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
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
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
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
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

impl SpawnMode {
    /// The word that stands in requests and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OutOfBand => "out_of_band",
            Self::ManagedChild => "managed_child",
            Self::AutonomousPeer => "autonomous_peer",
            Self::ClusterMember => "cluster_member",
        }
    }
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

impl Anchor {
    /// Whether it is good at this time.
    #[must_use]
    pub fn is_good(&self, now: Moment) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// It is good no longer than until then.
    pub fn end_at(&mut self, until: Moment) {
        self.until = Some(self.until.map_or(until, |end| end.min(until)));
    }
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
    /// The CAs of ours that sign for it, where one does: its calls may lead to them, too. Its listener may not. The last one
    /// signs; what was before it is good for a while, since an answer may be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_here: Vec<Anchor>,
}

impl Trust {
    /// What the peer's calls may lead to at this time.
    pub fn callers_at(&self, now: Moment) -> impl Iterator<Item = &Anchor> {
        let ours = self.signed_here.iter().filter(move |anchor| anchor.is_good(now));
        self.anchors_at(now).chain(ours)
    }

    /// The peer's own anchors that are good at this time.
    pub fn anchors_at(&self, now: Moment) -> impl Iterator<Item = &Anchor> {
        self.anchors.iter().filter(move |anchor| anchor.is_good(now))
    }

    /// Whether a CA of ours signs for it.
    #[must_use]
    pub fn is_signed_here(&self, now: Moment) -> bool {
        self.signed_here.iter().any(|anchor| anchor.is_good(now))
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

/// A node of a managed child that may still ask for its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The digest of its bootstrap token.
    pub digest: TokenDigest,
    /// When that is void.
    pub expires_at: Moment,
}

/// A place where a site is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Endpoint {
    /// `https://…`
    #[schema(max_length = 2048)]
    pub url: String,
    /// Who can reach it: `wan`, `lan`, …
    #[serde(default = "wan")]
    #[schema(max_length = 64)]
    pub scope: String,
    /// Lower first.
    #[serde(default = "default_priority", deserialize_with = "number::integer")]
    #[schema(minimum = 0, maximum = 4_294_967_295_u32)]
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
    /// Whether it can be dialled; where it doesn't say so, it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialable: Option<bool>,
}

impl Declared {
    /// Whether there is any sense in calling it.
    #[must_use]
    pub fn is_dialable(&self) -> bool {
        self.dialable.unwrap_or(true)
    }
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
    /// The node that may still ask for its certificate, where we spawned the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Enrolment>,
    /// The digest of the token that we took to it, if we did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<TokenDigest>,
    /// The digest of the token that a payload has for it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errand: Option<TokenDigest>,
    /// What it has shown of its ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Shown>,
    /// Since when its ledger has gone back without a word: no beat heals that, an operator resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regressed: Option<Moment>,
    /// The cluster that it lets us join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

impl Peer {
    /// One that is proposed, and of which nothing is known yet but where it is.
    #[must_use]
    pub fn new(id: PeerId, alias: Name, url: String, now: Moment) -> Self {
        Self {
            id,
            alias,
            url,
            role: SpawnRole::default(),
            mode: SpawnMode::default(),
            status: Status::Proposed,
            since: now,
            reason: None,
            offer: None,
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
            enrolment: None,
            taken: None,
            errand: None,
            shown: None,
            regressed: None,
            cluster: None,
        }
    }

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
            Event::Suspend | Event::Revoke => self.enrolment = None,
            Event::Degrade | Event::Resume => {}
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
pub(crate) mod tests;
