//! What a scan can find, how bad it is, and how much of it the peer itself is told.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::federation::peer::PeerId;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FindingKind)]
#[expect(missing_docs, reason = "the table of the room says what each means")]
pub enum Kind {
    PrefixOverlapWithInstall,
    PrefixOverlapWithOtherPeer,
    ExpiredTrustJwt,
    PeerCertExpired,
    PeerCertExpiring,
    PeerCertUnreadable,
    StaleAcceptedWithoutHandshake,
    PeerHeartbeatStale,
    PeerLedgerRegressed,
    ManagedAuthorityEnded,
    PeerCapabilityDrift,
    PeerSchemaVersionDrift,
    PeerSchemaVersionMissing,
    PeerResidencyCrossing,
    PeerResidencyMissing,
    OwnCaExpiring,
    OwnCertExpiring,
    OwnClockBehind,
}

impl Kind {
    /// The word that stands in answers and in the audit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PrefixOverlapWithInstall => "prefix_overlap_with_install",
            Self::PrefixOverlapWithOtherPeer => "prefix_overlap_with_other_peer",
            Self::ExpiredTrustJwt => "expired_trust_jwt",
            Self::PeerCertExpired => "peer_cert_expired",
            Self::PeerCertExpiring => "peer_cert_expiring",
            Self::PeerCertUnreadable => "peer_cert_unreadable",
            Self::StaleAcceptedWithoutHandshake => "stale_accepted_without_handshake",
            Self::PeerHeartbeatStale => "peer_heartbeat_stale",
            Self::PeerLedgerRegressed => "peer_ledger_regressed",
            Self::ManagedAuthorityEnded => "managed_authority_ended",
            Self::PeerCapabilityDrift => "peer_capability_drift",
            Self::PeerSchemaVersionDrift => "peer_schema_version_drift",
            Self::PeerSchemaVersionMissing => "peer_schema_version_missing",
            Self::PeerResidencyCrossing => "peer_residency_crossing",
            Self::PeerResidencyMissing => "peer_residency_missing",
            Self::OwnCaExpiring => "own_ca_expiring",
            Self::OwnCertExpiring => "own_cert_expiring",
            Self::OwnClockBehind => "own_clock_behind",
        }
    }

    /// Whether certificates are at issue: no probe and no beat helps then, only an operator.
    #[must_use]
    pub const fn is_about_certificates(self) -> bool {
        match self {
            Self::PeerCertExpired
            | Self::PeerCertExpiring
            | Self::PeerCertUnreadable
            | Self::OwnCaExpiring
            | Self::OwnCertExpiring
            | Self::OwnClockBehind => true,
            Self::PrefixOverlapWithInstall
            | Self::PrefixOverlapWithOtherPeer
            | Self::ExpiredTrustJwt
            | Self::StaleAcceptedWithoutHandshake
            | Self::PeerHeartbeatStale
            | Self::PeerLedgerRegressed
            | Self::ManagedAuthorityEnded
            | Self::PeerCapabilityDrift
            | Self::PeerSchemaVersionDrift
            | Self::PeerSchemaVersionMissing
            | Self::PeerResidencyCrossing
            | Self::PeerResidencyMissing => false,
        }
    }

    /// What the peer itself is told of a finding about it; none where that would tell it of other peers or of us. That
    /// its prefix is another peer's is such a thing: all prefixes are /48s, so that would say which one the other has.
    const fn told(self) -> Option<&'static str> {
        match self {
            Self::PrefixOverlapWithInstall => {
                Some("your prefix overlaps one of this site: no bridge can carry it")
            }
            Self::ExpiredTrustJwt => Some("no trust anchor of yours is in force here: peer anew"),
            Self::PeerCertExpired => Some("your CA's certificate has expired: peer anew with another"),
            Self::PeerCertExpiring => Some("your CA's certificate expires soon: rotate it"),
            Self::PeerCertUnreadable => Some("your CA's certificate can't be read here: peer anew"),
            Self::StaleAcceptedWithoutHandshake => {
                Some("no trust was exchanged: you sent no peer_ca_bundle_pem; peer anew")
            }
            Self::PeerLedgerRegressed => {
                Some("your ledger has gone back without a word: restore it by `sdwand ledger restore`")
            }
            Self::ManagedAuthorityEnded => Some(
                "the operator grant between parent and managed child has ended: grant anew, or spawn anew",
            ),
            Self::PeerHeartbeatStale => Some("no heartbeat of yours comes through"),
            Self::PeerCapabilityDrift => Some("you name extension_slugs, but no capabilities"),
            Self::PeerSchemaVersionDrift => Some("your platform_version doesn't get along with this site's"),
            Self::PeerSchemaVersionMissing => Some("you don't say your platform_version"),
            Self::PeerResidencyCrossing => Some("your data resides elsewhere than this site's"),
            Self::PeerResidencyMissing => Some("you don't say where your data resides: data_residency"),
            Self::PrefixOverlapWithOtherPeer
            | Self::OwnCaExpiring
            | Self::OwnCertExpiring
            | Self::OwnClockBehind => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is about to break, or is unsafe.
    Critical,
    /// Someone must act.
    High,
    /// Someone should look.
    Medium,
    /// Good to know.
    Low,
}

impl Severity {
    /// The word that stands in answers and in the audit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// How bad.
    pub severity: Severity,
    /// Of which peer; none where it is about this site itself.
    pub federation_peer_id: Option<PeerId>,
    /// In words, with what to do.
    pub message: String,
    /// For programs.
    pub payload: Value,
}

impl Finding {
    /// Whether someone must act: such findings are warnings of an acceptance, too.
    #[must_use]
    pub const fn is_pressing(&self) -> bool {
        match self.severity {
            Severity::Critical | Severity::High => true,
            Severity::Medium | Severity::Low => false,
        }
    }

    /// What the peer itself is told: of itself, nothing of other peers, and nothing of how this site is made.
    #[must_use]
    pub fn for_peer(&self) -> Option<Self> {
        Some(Self {
            message: self.kind.told()?.to_owned(),
            payload: json!({}),
            ..self.clone()
        })
    }

    /// The finding as a warning.
    #[must_use]
    pub fn warning(&self) -> String {
        format!("{}: {}", self.kind, self.message)
    }
}
