use super::*;
use crate::federation::peer::tests::proposed;
use crate::federation::peer::{Anchor, Offer, SpawnMode, SpawnRole};
use crate::federation::pki::SiteCa;
use crate::model::Name;
use crate::model::host::Residency;
use uuid::Uuid;

const NOW: Moment = Moment::EPOCH;

struct World {
    site: SiteId,
    ca: SiteCa,
    policy: Policy,
    jurisdiction: Option<&'static str>,
    leaf_until: Option<Moment>,
    issued_until: Vec<(PeerId, Moment)>,
    peers: Vec<Peer>,
    authority: Option<Moment>,
    behind: Option<Moment>,
    now: Moment,
}

impl World {
    fn new(peers: Vec<Peer>) -> Self {
        let site = SiteId::new("site-a.fd1234abcd42").unwrap();
        Self {
            ca: SiteCa::generate(&site, NOW).unwrap().0,
            site,
            policy: Policy::default(),
            jurisdiction: Some("JP"),
            leaf_until: None,
            issued_until: Vec::new(),
            peers,
            authority: None,
            behind: None,
            now: NOW,
        }
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            site: &self.site,
            version: "1.4.0",
            jurisdiction: self.jurisdiction,
            policy: &self.policy,
            stale_after: Duration::from_secs(150),
            ca: self.ca.der(),
            leaf_until: self.leaf_until,
            issued_until: self.issued_until.clone(),
            peers: self
                .peers
                .iter()
                .map(|peer| Seen {
                    peer,
                    heard: peer.last_heartbeat_at,
                    authority: self.authority,
                })
                .collect(),
            now: self.now,
            behind: self.behind,
        }
    }

    fn scan(&self) -> Vec<Finding> {
        scan(&self.scene())
    }

    /// What is found, as `alias severity kind`.
    fn found(&self) -> Vec<String> {
        let alias = |finding: &Finding| {
            let of = |peer: &&Peer| Some(peer.id) == finding.federation_peer_id;
            let peer = self.peers.iter().find(of);
            peer.map_or("own".to_owned(), |peer| peer.alias.to_string())
        };
        let words = |finding: &Finding| {
            format!(
                "{} {} {}",
                alias(finding),
                finding.severity.as_str(),
                finding.kind
            )
        };
        self.scan().iter().map(words).collect()
    }
}

/// A CA of `site` that ends `days` from now.
fn anchor(site: &SiteId, days: i64) -> Anchor {
    const LIFE: i64 = 3_652;
    let made = Moment::from_millis((days - LIFE) * 86_400_000);
    let (ca, _) = SiteCa::generate(site, made).unwrap();
    Anchor {
        pem: ca.pem().to_owned(),
        fingerprint: ca.fingerprint(),
        since: made,
        until: None,
        proven: true,
    }
}

/// An active peer about which there is nothing to say.
fn sound(n: u16) -> Peer {
    let site = SiteId::new(&format!("site-{n}.fd00aaaa{n:04x}")).unwrap();
    let mut declared = proposed().declared;
    declared.platform_version = Some("1.4.1".to_owned());
    declared.data_residency = Some("JP".to_owned());
    Peer {
        id: PeerId(Uuid::from_u128(n.into())),
        alias: Name::new(&format!("site-{n}")).unwrap(),
        status: Status::Active,
        offer: None,
        trust: Some(Trust {
            anchors: vec![anchor(&site, 3_000)],
            site,
            sequence: 1,
            outbound_subject: "fed:x".to_owned(),
            signed_here: Vec::new(),
        }),
        declared,
        since: NOW,
        proposed_at: NOW.after(Duration::from_secs(n.into())),
        signed_at: Some(NOW),
        last_handshake_at: Some(NOW),
        last_heartbeat_at: Some(NOW),
        ..proposed()
    }
}

fn with(change: impl FnOnce(&mut Peer)) -> Peer {
    let mut peer = sound(1);
    change(&mut peer);
    peer
}

fn site_of(peer: &mut Peer, site: &str) {
    peer.trust.as_mut().unwrap().site = SiteId::new(site).unwrap();
}

#[test]
fn of_a_sound_peer_there_is_nothing_to_say() {
    let world = World::new(vec![sound(1), sound(2)]);
    assert_eq!(world.found(), [""; 0]);
    assert_eq!(scan_peer(&world.scene(), sound(1).id), []);
}

#[test]
fn every_kind_of_finding_of_one_peer() {
    let ends = |days| {
        with(move |peer| {
            let trust = peer.trust.as_mut().unwrap();
            trust.anchors = vec![anchor(&trust.site.clone(), days)];
        })
    };
    let cases: Vec<(&str, Peer)> = vec![
        (
            "critical prefix_overlap_with_install",
            with(|peer| site_of(peer, "site-1.fd1234abcd42")),
        ),
        ("high peer_cert_expired", ends(-1)),
        ("high peer_cert_expired", ends(0)),
        ("medium peer_cert_expiring", ends(20)),
        ("", ends(90)),
        (
            "high peer_cert_unreadable",
            with(|peer| peer.trust.as_mut().unwrap().anchors[0].pem = "nonsense".to_owned()),
        ),
        (
            "high expired_trust_jwt",
            with(|peer| peer.trust.as_mut().unwrap().anchors[0].until = Some(NOW)),
        ),
        (
            "medium stale_accepted_without_handshake",
            with(|peer| {
                peer.status = Status::Accepted;
                (peer.trust, peer.signed_at, peer.last_handshake_at) = (None, None, None);
            }),
        ),
        (
            "medium peer_capability_drift",
            with(|peer| peer.declared.extension_slugs = vec!["x".to_owned()]),
        ),
        (
            "medium peer_schema_version_drift",
            with(|peer| peer.declared.platform_version = Some("1.6".to_owned())),
        ),
        (
            "medium peer_schema_version_drift",
            with(|peer| peer.declared.platform_version = Some("one".to_owned())),
        ),
        (
            "low peer_schema_version_missing",
            with(|peer| peer.declared.platform_version = None),
        ),
        (
            "low peer_schema_version_missing",
            with(|peer| peer.declared.platform_version = Some(" ".to_owned())),
        ),
        (
            "low peer_residency_missing",
            with(|peer| peer.declared.data_residency = None),
        ),
        (
            "medium peer_residency_crossing",
            with(|peer| peer.declared.data_residency = Some("DE".to_owned())),
        ),
    ];
    for (expected, peer) in cases {
        let world = World::new(vec![sound(2), peer]);
        let found = world.found();
        if expected.is_empty() {
            assert_eq!(found, [""; 0]);
            continue;
        }
        assert_eq!(found, [format!("site-1 {expected}")]);
        let only = scan_peer(&world.scene(), sound(1).id);
        assert_eq!(only, world.scan(), "{expected}");
        assert_eq!(scan_peer(&world.scene(), sound(2).id), [], "{expected}");
        // Whom it is about, and what to do: in every message.
        assert!(only[0].message.starts_with("site-1: "), "{}", only[0].message);
    }
}

#[test]
fn a_token_that_nobody_took() {
    let waiting = |seconds| Peer {
        alias: Name::new("site-1").unwrap(),
        offer: Some(Offer {
            expires_at: NOW.after(Duration::from_secs(seconds)),
            ..proposed().offer.unwrap()
        }),
        ..proposed()
    };
    let world = World::new(vec![waiting(0)]);
    assert_eq!(world.found(), ["site-1 high expired_trust_jwt"]);
    assert!(
        world.scan()[0]
            .message
            .contains("sdwand peer rotate-token site-1")
    );
    assert_eq!(World::new(vec![waiting(1)]).found(), [""; 0], "and nothing else");
}

#[test]
fn silence_counts_while_beats_are_expected() {
    let quiet = |status, heard: Option<u64>, seconds: u64| {
        let mut world = World::new(vec![with(|peer| {
            peer.status = status;
            peer.last_heartbeat_at = heard.map(|seconds| NOW.after(Duration::from_secs(seconds)));
        })]);
        world.now = NOW.after(Duration::from_secs(seconds));
        world.found()
    };
    let stale = ["site-1 medium peer_heartbeat_stale"];
    for status in [Status::Active, Status::Enrolled] {
        assert_eq!(quiet(status, Some(0), 151), stale);
        assert_eq!(quiet(status, None, 151), stale, "never, since it is so");
        assert_eq!(quiet(status, None, 150), [""; 0]);
        assert_eq!(quiet(status, Some(60), 200), [""; 0]);
    }
    for status in [Status::Degraded, Status::Suspended, Status::Accepted] {
        assert_eq!(quiet(status, Some(0), 151), [""; 0], "{status}");
    }
}

#[test]
fn a_managed_child_whose_parents_grant_has_ended() {
    let found = |role, mode, status, authority| {
        let mut world = World::new(vec![with(|peer| {
            (peer.role, peer.mode, peer.status) = (role, mode, status);
        })]);
        world.authority = authority;
        world.scan()
    };
    let (past, future) = (NOW, NOW.after(Duration::from_secs(1)));
    for (role, remedy) in [
        (SpawnRole::Parent, "spawn it anew"),
        (SpawnRole::Child, "sdwand grant create site-1"),
    ] {
        let of = |status, authority| found(role, SpawnMode::ManagedChild, status, authority);
        for status in [
            Status::Accepted,
            Status::Enrolled,
            Status::Active,
            Status::Degraded,
            Status::Suspended,
        ] {
            for (authority, word) in [(Some(past), "ended at 1970-01-01"), (None, "isn't there")] {
                let findings = of(status, authority);
                let [finding] = findings.as_slice() else {
                    panic!("{status}: {findings:?}")
                };
                assert_eq!(
                    (finding.kind, finding.severity),
                    (Kind::ManagedAuthorityEnded, Severity::Medium)
                );
                assert!(finding.message.contains(remedy), "{}", finding.message);
                assert!(finding.message.contains(word), "{}", finding.message);
                assert_eq!(finding.payload["managed_until"], json!(authority));
            }
            assert_eq!(of(status, Some(future)), [], "{status}");
        }
        for status in [Status::Proposed, Status::Revoked] {
            assert_eq!(of(status, None), [], "{status}");
        }
        // Emancipated, or never managed.
        for mode in [
            SpawnMode::AutonomousPeer,
            SpawnMode::ClusterMember,
            SpawnMode::OutOfBand,
        ] {
            assert_eq!(found(role, mode, Status::Active, Some(past)), [], "{mode:?}");
        }
    }
    let equal = found(
        SpawnRole::Symmetric,
        SpawnMode::ManagedChild,
        Status::Active,
        None,
    );
    assert_eq!(equal, [], "no grant comes with it");
}

#[test]
fn prefixes_are_compared_by_what_they_contain() {
    let (later, earlier) = (
        with(|peer| site_of(peer, "site-1.fd00bbbbcc00")),
        Peer {
            proposed_at: NOW,
            ..sound(2)
        },
    );
    for (own, overlaps) in [
        ("fd00:bbbb:cc00::/48", true),
        ("FD00:BBBB:CC00:0::/48", true),
        ("fd00:bbbb:cc00:ff00::/56", true),
        ("fd00:bbbb::/32", true),
        ("fd00:bb00::/24", true),
        ("fd00:bbbb:cc00::1/128", true),
        ("fd00:bbbb:cc01::/48", false),
        ("fd00:bbbb:cc0::/48", false),
        ("10.0.0.0/8", false),
    ] {
        let mut world = World::new(vec![later.clone(), earlier.clone()]);
        let own: IpNet = own.parse().unwrap();
        world.policy.own = vec![own];
        let found = world.found();
        assert_eq!(!found.is_empty(), overlaps, "{own}: {found:?}");
    }
}

#[test]
fn of_two_claimants_only_the_later_is_flagged() {
    let claimant = |n, seconds| Peer {
        proposed_at: NOW.after(Duration::from_secs(seconds)),
        ..{
            let mut peer = sound(n);
            site_of(&mut peer, &format!("site-{n}.fd00bbbbcc00"));
            peer
        }
    };
    let flagged = |peers: Vec<Peer>| World::new(peers).found();
    let finding = |n| [format!("site-{n} high prefix_overlap_with_other_peer")];
    assert_eq!(flagged(vec![claimant(1, 5), claimant(2, 9)]), finding(2));
    assert_eq!(flagged(vec![claimant(1, 9), claimant(2, 5)]), finding(1));
    assert_eq!(
        flagged(vec![claimant(2, 5), claimant(1, 5)]),
        finding(2),
        "by id where the time is the same"
    );
    let gone = Peer {
        status: Status::Revoked,
        ..claimant(1, 5)
    };
    assert_eq!(flagged(vec![gone, claimant(2, 9)]), [""; 0]);
}

#[test]
fn revoked_peers_are_ignored() {
    let world = World::new(vec![with(|peer| {
        peer.status = Status::Revoked;
        peer.declared = proposed().declared;
        peer.trust.as_mut().unwrap().anchors[0].pem = "nonsense".to_owned();
        site_of(peer, "site-1.fd1234abcd42");
    })]);
    assert_eq!(world.found(), [""; 0]);
}

#[test]
fn while_an_anchor_is_replaced_the_one_that_lasts_counts() {
    let peer = with(|peer| {
        let trust = peer.trust.as_mut().unwrap();
        let (mut old, new) = (anchor(&trust.site, 5), anchor(&trust.site, 3_000));
        old.until = Some(NOW.after(DAY));
        trust.anchors = vec![old, new];
    });
    assert_eq!(World::new(vec![peer]).found(), [""; 0]);
}

#[test]
fn our_own_certificates_are_told_of_in_time() {
    const LIFE: u64 = 3_652;
    for (left, expected) in [
        (181, ""),
        (180, "own high"),
        (31, "own high"),
        (30, "own critical"),
        (0, "own critical"),
    ] {
        let mut world = World::new(Vec::new());
        world.now = NOW.after(DAY * u32::try_from(LIFE - left).unwrap());
        let expected: Vec<String> = Some(expected)
            .filter(|word| !word.is_empty())
            .map(|word| format!("{word} own_ca_expiring"))
            .into_iter()
            .collect();
        assert_eq!(world.found(), expected, "{left}");
    }
    for (left, expected) in [
        (30, ""),
        (20, "own high"),
        (5, "own critical"),
        (0, "own critical"),
    ] {
        let mut world = World::new(Vec::new());
        world.leaf_until = Some(NOW.after(DAY * left));
        let expected: Vec<String> = Some(expected)
            .filter(|word| !word.is_empty())
            .map(|word| format!("{word} own_cert_expiring"))
            .into_iter()
            .collect();
        assert_eq!(world.found(), expected, "{left}");
    }
}

#[test]
fn a_ledger_whose_time_is_ahead_says_what_to_do() {
    let mut world = World::new(Vec::new());
    world.leaf_until = Some(NOW);
    world.behind = Some(NOW.before(DAY * 30));
    assert_eq!(world.found(), ["own critical own_clock_behind"]);
    let message = &world.scan()[0].message;
    assert!(message.contains("sdwand ledger reset-clock"), "{message}");
}

#[test]
fn a_crossing_is_high_where_it_is_refused() {
    let mut world = World::new(vec![with(|peer| {
        peer.declared.data_residency = Some("DE".to_owned());
    })]);
    world.policy.residency = Residency::Refuse;
    assert_eq!(world.found(), ["site-1 high peer_residency_crossing"]);
    world.jurisdiction = None;
    assert_eq!(world.found(), [""; 0], "unknown is no crossing");
}

#[test]
fn a_peer_is_told_of_itself_alone() {
    let other = with(|peer| site_of(peer, "secret-name.fd00bbbbcc00"));
    let mut claimant = sound(2);
    site_of(&mut claimant, "site-2.fd00bbbbcc00");
    claimant.declared = proposed().declared;
    claimant.declared.extension_slugs = vec!["x".to_owned()];
    let mut world = World::new(vec![other, claimant]);
    let own: IpNet = "fd00:bbbb:cc00:77::/64".parse().unwrap();
    world.policy.own = vec![own];
    let all = scan_peer(&world.scene(), sound(2).id);
    assert_eq!(all.len(), 5, "{all:?}");
    let told: Vec<Finding> = all.iter().filter_map(Finding::for_peer).collect();
    let kinds: Vec<Kind> = told.iter().map(|finding| finding.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::PrefixOverlapWithInstall,
            Kind::PeerCapabilityDrift,
            Kind::PeerSchemaVersionMissing,
            Kind::PeerResidencyMissing
        ]
    );
    let text = serde_json::to_string(&told).unwrap();
    for inside in [
        "site-1",
        "secret-name",
        "cc00:77",
        "other",
        "sdwand peer",
        &sound(1).id.to_string(),
    ] {
        assert!(!text.contains(inside), "{inside}: {text}");
    }
    let mut ours = World::new(Vec::new());
    ours.leaf_until = Some(NOW);
    assert!(ours.scan().iter().all(|finding| finding.for_peer().is_none()));
}

#[test]
fn kinds_are_written_as_they_are_called() {
    for kind in [
        Kind::PrefixOverlapWithInstall,
        Kind::PrefixOverlapWithOtherPeer,
        Kind::ExpiredTrustJwt,
        Kind::PeerCertExpired,
        Kind::PeerCertExpiring,
        Kind::PeerCertUnreadable,
        Kind::StaleAcceptedWithoutHandshake,
        Kind::PeerHeartbeatStale,
        Kind::PeerLedgerRegressed,
        Kind::ManagedAuthorityEnded,
        Kind::PeerCapabilityDrift,
        Kind::PeerSchemaVersionDrift,
        Kind::PeerSchemaVersionMissing,
        Kind::PeerResidencyCrossing,
        Kind::PeerResidencyMissing,
        Kind::OwnCaExpiring,
        Kind::OwnCertExpiring,
        Kind::OwnClockBehind,
    ] {
        assert_eq!(json!(kind), json!(kind.as_str()));
    }
}
