//! What an operator should know about the peers: a scan that never stops at the first finding. Pure.
//!
//! | kind | severity | when |
//! |---|---|---|
//! | `prefix_overlap_with_install` | critical | the peer's /48 overlaps a prefix of ours |
//! | `prefix_overlap_with_other_peer` | high | it overlaps that of a peer who was there first; that one isn't flagged |
//! | `expired_trust_jwt` | high | what was to lead to trust, or was trust, ran out: an open token, or the last anchor's `until` |
//! | `peer_cert_expired`, `peer_cert_expiring` | high, medium | the CA that it vouches with is past its end, or within 30 days of it |
//! | `peer_cert_unreadable` | high | that CA can't be read: nothing is known of its end |
//! | `stale_accepted_without_handshake` | medium | accepted, and no certificates were exchanged |
//! | `peer_heartbeat_stale` | medium | enrolled or active, and silent |
//! | `peer_ledger_regressed` | high | its ledger has gone back, and it doesn't say that it was restored |
//! | `managed_authority_ended` | medium | a managed child, or its parent, and the parent's operator grant has ended or isn't there |
//! | `peer_capability_drift` | medium | it names extensions and no capabilities |
//! | `peer_schema_version_drift`, `peer_schema_version_missing` | medium, low | its version doesn't get along with ours, or is unknown |
//! | `peer_residency_crossing` | high, medium | its data resides elsewhere; high where the operator refuses that |
//! | `peer_residency_missing` | low | it doesn't say where its data resides |
//! | `own_ca_expiring` | high, critical | our CA is within 180, or 30, days of its end: every peering ends with it |
//! | `own_cert_expiring` | high, critical | our listener's certificate is within 20, or 5, days of its end: it isn't renewed as it should be |
//! | `own_clock_behind` | critical | the ledger's time is more than an hour ahead of the wall clock: one of the two is wrong |
//!
//! Revoked peers are ignored. Of a proposed peer nothing is known but its token.

mod finding;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

pub use finding::{Finding, Kind, Severity};

use super::moment::Moment;
use super::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status, Trust};
use super::pki::verify::not_after;
use super::pki::{PkiError, certificates_of};
use super::policy::Policy;
use super::residency::{Border, border};
use super::site::SiteId;
use super::version::{Verdict, compatibility};

const DAY: Duration = Duration::from_secs(86_400);
/// How long before its end a peer's CA is told of.
const PEER_NOTICE: Duration = Duration::from_secs(30 * 86_400);
/// How long before its end our CA is told of, and when it is urgent. A rotation takes a week in which peers must call.
const CA_NOTICE: (Duration, Duration) = (DAY.saturating_mul(180), DAY.saturating_mul(30));
/// The same of our listener's certificate, which is renewed 30 days before its end.
const LEAF_NOTICE: (Duration, Duration) = (DAY.saturating_mul(20), DAY.saturating_mul(5));

/// A peer, and when it was last heard of.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The peer.
    pub peer: &'a Peer,
    /// When it last answered, or called, as far as is known in memory or in the ledger.
    pub heard: Option<Moment>,
    /// When the authority of a parent over its managed child ends, or ended; none where there never was one.
    pub authority: Option<Moment>,
}

/// Everything that a scan looks at.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Who we are.
    pub site: &'a SiteId,
    /// Our version.
    pub version: &'static str,
    /// Where our data resides.
    pub jurisdiction: Option<&'a str>,
    /// What the operator has decided.
    pub policy: &'a Policy,
    /// When a peer is silent.
    pub stale_after: Duration,
    /// Our CA.
    pub ca: &'a CertificateDer<'static>,
    /// When our listener's certificate ends; none where nothing listens.
    pub leaf_until: Option<Moment>,
    /// When what parents have signed for us ends.
    pub issued_until: Vec<(PeerId, Moment)>,
    /// All peers.
    pub peers: Vec<Seen<'a>>,
    /// The time.
    pub now: Moment,
    /// The wall clock's, where the ledger's is so far ahead of it that someone must act.
    pub behind: Option<Moment>,
}

/// All findings, the worst first.
#[must_use]
pub fn scan(scene: &Scene<'_>) -> Vec<Finding> {
    let (mut findings, first) = (own(scene), claims(scene));
    for seen in &scene.peers {
        findings.extend(of(scene, &first, seen));
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// The findings of one peer, the worst first.
#[must_use]
pub fn scan_peer(scene: &Scene<'_>, id: PeerId) -> Vec<Finding> {
    let (mut findings, first) = (Vec::new(), claims(scene));
    for seen in scene.peers.iter().filter(|seen| seen.peer.id == id) {
        findings.extend(of(scene, &first, seen));
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Our own clock and certificates. These are judged by the wall clock, where it is behind: nothing is to be renewed for a
/// time that may be wrong.
fn own(scene: &Scene<'_>) -> Vec<Finding> {
    let now = scene.behind.unwrap_or(scene.now);
    let ending = |kind, until: Moment, (notice, urgent), what: String| {
        let severity = if ends_within(now, until, urgent) {
            Severity::Critical
        } else if ends_within(now, until, notice) {
            Severity::High
        } else {
            return None;
        };
        Some(Finding {
            kind,
            severity,
            federation_peer_id: None,
            message: what,
            payload: json!({ "not_after": until }),
        })
    };
    let mut findings = Vec::new();
    findings.extend(scene.behind.map(|wall| Finding {
        kind: Kind::OwnClockBehind,
        severity: Severity::Critical,
        federation_peer_id: None,
        message: format!(
            "the ledger's time is {}, this host's clock says {wall}: what was given before is over, and peers' certificates look so; where the clock is right, stop the gateway and put the ledger's time back, `sdwand ledger reset-clock`; else set the clock",
            scene.now
        ),
        payload: json!({ "ledger": scene.now, "wall": wall }),
    }));
    match not_after(scene.ca) {
        Ok(until) => findings.extend(ending(
            Kind::OwnCaExpiring,
            until,
            CA_NOTICE,
            format!("this site's CA ends at {until}, and every peering with it: rotate it while the peers can be told, `sdwand pki rotate-ca`"),
        )),
        Err(error) => findings.push(Finding {
            kind: Kind::OwnCaExpiring,
            severity: Severity::High,
            federation_peer_id: None,
            message: format!("the end of this site's CA is unknown, its certificate can't be read: {error}"),
            payload: Value::Null,
        }),
    }
    findings.extend(scene.leaf_until.and_then(|until| {
        let what = format!("our listener's certificate ends at {until}, and isn't renewed as it should be: the log of `sdwand serve` says why");
        ending(Kind::OwnCertExpiring, until, LEAF_NOTICE, what)
    }));
    findings.extend(scene.issued_until.iter().filter_map(|(id, until)| {
        let what = format!("what this parent signed for us ends at {until}, and isn't renewed as it should be: the log of `sdwand serve` says why");
        let finding = ending(Kind::OwnCertExpiring, *until, LEAF_NOTICE, what)?;
        Some(Finding { federation_peer_id: Some(*id), ..finding })
    }));
    findings
}

/// Whether `until` is past, or will be within `notice`.
fn ends_within(now: Moment, until: Moment, notice: Duration) -> bool {
    until <= now.after(notice)
}

/// Everything about one peer.
fn of(scene: &Scene<'_>, first: &Claims<'_>, seen: &Seen<'_>) -> Vec<Finding> {
    let peer = seen.peer;
    let mut found = Found {
        peer,
        findings: Vec::new(),
    };
    match peer.status {
        Status::Revoked => {}
        Status::Proposed => open_token(scene, &mut found),
        Status::Accepted | Status::Enrolled | Status::Active | Status::Degraded | Status::Suspended => {
            prefix(scene, first, &mut found);
            if let Some(trust) = &peer.trust {
                anchors(scene, trust, &mut found);
            }
            exchanges(scene, seen, &mut found);
            authority(scene, seen, &mut found);
            declared(scene, &mut found);
        }
    }
    found.findings
}

/// What is found about one peer.
struct Found<'a> {
    peer: &'a Peer,
    findings: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, kind: Kind, severity: Severity, message: &str, payload: Value) {
        self.findings.push(Finding {
            kind,
            severity,
            federation_peer_id: Some(self.peer.id),
            message: format!("{}: {message}", self.peer.alias),
            payload,
        });
    }
}

fn open_token(scene: &Scene<'_>, found: &mut Found<'_>) {
    let peer = found.peer;
    let ended = peer.offer.as_ref().map(|offer| offer.expires_at);
    if let Some(ended) = ended.filter(|ended| *ended <= scene.now) {
        let message = format!(
            "its token expired at {ended} and nobody had taken it: draw another, `sdwand peer rotate-token {0}`, or give up, `sdwand peer revoke {0}`",
            peer.alias
        );
        found.add(
            Kind::ExpiredTrustJwt,
            Severity::High,
            &message,
            json!({ "expires_at": ended }),
        );
    }
}

/// The peer's /48, where it is known.
fn claim(peer: &Peer) -> Option<IpNet> {
    let prefix = peer.trust.as_ref()?.site.prefix()?;
    Some(IpNet::V6(prefix))
}

/// Who was there first, by prefix.
type Claims<'a> = BTreeMap<IpNet, &'a Peer>;

fn claims<'a>(scene: &Scene<'a>) -> Claims<'a> {
    let mut first = Claims::new();
    for peer in scene
        .peers
        .iter()
        .map(|seen| seen.peer)
        .filter(|peer| peer.status.is_live())
    {
        let Some(claimed) = claim(peer) else { continue };
        let here = first.entry(claimed).or_insert(peer);
        if (peer.proposed_at, peer.id) < (here.proposed_at, here.id) {
            *here = peer;
        }
    }
    first
}

/// Whether two prefixes have an address in common.
fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn prefix(scene: &Scene<'_>, first: &Claims<'_>, found: &mut Found<'_>) {
    let peer = found.peer;
    let Some(claimed) = claim(peer) else { return };
    let ours = scene.site.prefix().map(IpNet::V6);
    let ours: Vec<IpNet> = scene
        .policy
        .own
        .iter()
        .copied()
        .chain(ours)
        .filter(|own| overlap(own, &claimed))
        .collect();
    if let Some(own) = ours.first() {
        let message = format!(
            "its prefix {claimed} overlaps {own} of this site, so nothing can be carried between the two: one of them needs another prefix; until then, `sdwand peer suspend {}`",
            peer.alias
        );
        let payload = json!({ "prefix": claimed, "own": ours });
        found.add(
            Kind::PrefixOverlapWithInstall,
            Severity::Critical,
            &message,
            payload,
        );
    }
    // Sites have a /48 each: two of them overlap only where they are the same.
    if let Some(earlier) = first.get(&claimed).filter(|first| first.id != peer.id) {
        let message = format!(
            "its prefix {claimed} overlaps that of {}, which was there first: ask both operators whose it is, and end the other peering, `sdwand peer revoke {}`",
            earlier.alias, peer.alias
        );
        let payload =
            json!({ "prefix": claimed, "other_peer_id": earlier.id, "other_prefix": claim(earlier) });
        found.add(
            Kind::PrefixOverlapWithOtherPeer,
            Severity::High,
            &message,
            payload,
        );
    }
}

/// What the peer vouches with. While it rotates it has several anchors, and the one that lasts longest counts.
fn anchors(scene: &Scene<'_>, trust: &Trust, found: &mut Found<'_>) {
    let mut last: Option<Moment> = None;
    let mut in_force = 0;
    for anchor in trust.callers_at(scene.now) {
        in_force += 1;
        match end_of(&anchor.pem) {
            Ok(end) => last = last.max(Some(end)),
            Err(error) => {
                let message = format!(
                    "its CA {} can't be read, so its end is unknown: {error}; revoke the peer and propose anew",
                    anchor.fingerprint
                );
                found.add(
                    Kind::PeerCertUnreadable,
                    Severity::High,
                    &message,
                    json!({ "fingerprint": anchor.fingerprint }),
                );
            }
        }
    }
    if in_force == 0 {
        let until = trust.anchors.iter().filter_map(|anchor| anchor.until).max();
        found.add(
            Kind::ExpiredTrustJwt,
            Severity::High,
            "no trust anchor of it is in force any more, its calls are refused: revoke it and propose anew",
            json!({ "expires_at": until }),
        );
    }
    let Some(end) = last.filter(|end| ends_within(scene.now, *end, PEER_NOTICE)) else {
        return;
    };
    let payload = json!({ "not_after": end });
    if end <= scene.now {
        let message = format!("its CA ended at {end}, its calls are refused: revoke it and propose anew");
        found.add(Kind::PeerCertExpired, Severity::High, &message, payload);
    } else {
        let message =
            format!("its CA ends at {end}: ask its operator to rotate it before, `sdwand pki rotate-ca`");
        found.add(Kind::PeerCertExpiring, Severity::Medium, &message, payload);
    }
}

/// When the first of an anchor's certificates ends.
fn end_of(pem: &str) -> Result<Moment, PkiError> {
    let mut end: Option<Moment> = None;
    for der in certificates_of(pem)? {
        let until = not_after(&der)?;
        end = Some(end.map_or(until, |end| end.min(until)));
    }
    end.ok_or_else(|| PkiError::Foreign("no certificate in PEM".to_owned()))
}

/// Whether what has to come through does.
fn exchanges(scene: &Scene<'_>, seen: &Seen<'_>, found: &mut Found<'_>) {
    let peer = found.peer;
    if let Some(since) = peer.regressed {
        let message = format!(
            "since {since} its ledger is older than what it has shown: a copy was put back there, and used tokens may live again; ask its operator, then `sdwand peer suspend {0}` and `sdwand peer resume {0}`, or revoke it",
            peer.alias
        );
        found.add(
            Kind::PeerLedgerRegressed,
            Severity::High,
            &message,
            json!({ "since": since, "shown": peer.shown.map(|shown| shown.mark().to_string()) }),
        );
    }
    match peer.status {
        Status::Accepted if peer.last_handshake_at.is_none() => {
            let message = format!(
                "it was accepted, but no certificates were exchanged, and none will be: `sdwand peer revoke {}` and propose anew",
                peer.alias
            );
            found.add(
                Kind::StaleAcceptedWithoutHandshake,
                Severity::Medium,
                &message,
                json!({ "signed_at": peer.signed_at }),
            );
        }
        Status::Enrolled | Status::Active => {
            let since = seen.heard.map_or(peer.since, |heard| heard.max(peer.since));
            if scene.now.since(since) > scene.stale_after {
                let message = format!(
                    "no heartbeat has come through since {since}: `sdwand peer sweep` asks it now at {}",
                    peer.url
                );
                let payload = json!({ "last_heartbeat_at": seen.heard, "stale_after_seconds": scene.stale_after.as_secs() });
                found.add(Kind::PeerHeartbeatStale, Severity::Medium, &message, payload);
            }
        }
        Status::Accepted | Status::Proposed | Status::Degraded | Status::Suspended | Status::Revoked => {}
    }
}

/// Whether a parent still has a say at its managed child: without the grant, the child is managed by name only.
fn authority(scene: &Scene<'_>, seen: &Seen<'_>, found: &mut Found<'_>) {
    let peer = found.peer;
    match peer.mode {
        SpawnMode::ManagedChild => {}
        SpawnMode::AutonomousPeer | SpawnMode::ClusterMember | SpawnMode::OutOfBand => return,
    }
    if seen.authority.is_some_and(|until| scene.now < until) {
        return;
    }
    let alias = &peer.alias;
    let (whose, remedy) = match peer.role {
        SpawnRole::Parent => (
            "our operator grant there",
            format!(
                "what its operator still wants us to read, it grants; or `sdwand peer revoke {alias}` and spawn it anew"
            ),
        ),
        SpawnRole::Child => (
            "its operator grant here",
            format!(
                "`sdwand grant create {alias}` gives it what it still needs; or `sdwand peer revoke {alias}` and have it spawn us anew"
            ),
        ),
        // No grant comes with a managed child that is called an equal.
        SpawnRole::Symmetric => return,
    };
    let ended = seen
        .authority
        .map_or_else(|| "isn't there".to_owned(), |until| format!("ended at {until}"));
    let message = format!("{whose} {ended}: {remedy}");
    found.add(
        Kind::ManagedAuthorityEnded,
        Severity::Medium,
        &message,
        json!({ "spawn_role": peer.role, "managed_until": seen.authority }),
    );
}

/// What the peer says of itself.
fn declared(scene: &Scene<'_>, found: &mut Found<'_>) {
    let said = &found.peer.declared;
    if said.capabilities.is_empty() && !said.extension_slugs.is_empty() {
        found.add(
            Kind::PeerCapabilityDrift,
            Severity::Medium,
            "it names extensions and no capabilities: ask its operator which of the two is right",
            json!({ "extension_slugs": said.extension_slugs }),
        );
    }
    let version = compatibility(
        scene.version,
        said.platform_version.as_deref(),
        &scene.policy.versions,
    );
    if version.remote_version.is_empty() {
        found.add(
            Kind::PeerSchemaVersionMissing,
            Severity::Low,
            "it hasn't said which version it runs",
            Value::Null,
        );
    } else if version.status == Verdict::Incompatible {
        let message = format!(
            "it runs {}, which doesn't get along with {} ({}): upgrade the older of the two, or say `compatible_versions` in [federation]",
            version.remote_version,
            version.local_version,
            version.notes.as_deref().unwrap_or("by rule")
        );
        found.add(
            Kind::PeerSchemaVersionDrift,
            Severity::Medium,
            &message,
            json!(version),
        );
    }
    let theirs = said.data_residency.as_deref();
    let crossing = border(scene.jurisdiction, theirs, scene.policy.residency);
    let (severity, consequence) = match crossing {
        Border::Flagged => (
            Severity::Medium,
            "allowed by `residency = \"permissive\"` of [federation]",
        ),
        Border::Refused => (
            Severity::High,
            "it gets no grants and no bridges; revoke those that it has",
        ),
        Border::Unknown | Border::Same => {
            if theirs.is_none_or(|place| place.trim().is_empty()) {
                let message = "it hasn't said where its data resides";
                found.add(Kind::PeerResidencyMissing, Severity::Low, message, Value::Null);
            }
            return;
        }
    };
    let (ours, theirs) = (scene.jurisdiction.unwrap_or_default(), theirs.unwrap_or_default());
    let message = format!("its data resides in {theirs}, ours in {ours}: {consequence}");
    let payload = json!({ "own": ours, "peer": theirs, "border": crossing });
    found.add(Kind::PeerResidencyCrossing, severity, &message, payload);
}

#[cfg(test)]
mod tests;
