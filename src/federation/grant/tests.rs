use super::*;

const NOW: Moment = Moment::EPOCH;

fn peer(n: u128) -> PeerId {
    PeerId(Uuid::from_u128(n))
}

fn terms() -> Terms {
    Terms {
        remote_subject: "operator@site-b".to_owned(),
        resource_kind: "network".to_owned(),
        ..Terms::default()
    }
}

fn grant(terms: Terms) -> Grant {
    Grant::new(
        GrantId(Uuid::from_u128(9)),
        peer(1),
        terms,
        TokenDigest([7; 32]),
        NOW,
        life(None),
    )
    .unwrap()
}

fn ask() -> Ask<'static> {
    Ask {
        peer: peer(1),
        kind: "network",
        id: Some("prod"),
        scope: Scope::Read,
        instance: vec!["hub-b1".to_owned(), "0b9c".to_owned()],
        network: Vec::new(),
        source: "192.0.2.7".parse().unwrap(),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn lives_are_kept_between_a_week_and_a_year() {
    for (asked, days) in [
        (None, 30),
        (Some(0), 7),
        (Some(3), 7),
        (Some(8), 8),
        (Some(1_000), 365),
    ] {
        assert_eq!(life(asked), DAY * days, "{asked:?}");
    }
    let short = Grant::new(
        GrantId(Uuid::nil()),
        peer(1),
        terms(),
        TokenDigest([0; 32]),
        NOW,
        DAY * 6,
    );
    assert_eq!(short.unwrap_err(), TermsError::Life);
    let grant = grant(terms());
    assert_eq!(grant.expires_at, NOW.after(DAY * 30));
}

#[test]
fn terms_that_cant_be() {
    let refused = |change: fn(&mut Terms)| {
        let mut terms = terms();
        change(&mut terms);
        Grant::new(
            GrantId(Uuid::nil()),
            peer(1),
            terms,
            TokenDigest([0; 32]),
            NOW,
            life(None),
        )
        .unwrap_err()
    };
    for (change, text) in [
        (
            (|terms| terms.remote_subject = " ".to_owned()) as fn(&mut Terms),
            "remote_subject is missing",
        ),
        (
            |terms| terms.remote_subject = "x".repeat(257),
            "longer than 256 characters",
        ),
        (
            |terms| terms.resource_kind = String::new(),
            "resource_kind is missing",
        ),
        (
            |terms| terms.resource_kind = "x".repeat(65),
            "longer than 64 characters",
        ),
        (
            |terms| terms.resource_id = Some("x".repeat(129)),
            "longer than 128 characters",
        ),
        (
            |terms| terms.node_instance_ids = vec!["x".repeat(65)],
            "node_instance_ids: ",
        ),
        (
            |terms| terms.sdwan_network_ids = words(&[""]),
            "sdwan_network_ids: ",
        ),
        (
            |terms| terms.sdwan_network_ids = words(&["*", "prod"]),
            "stands alone",
        ),
        (
            |terms| terms.source_cidrs = words(&["10.0.0.0/33"]),
            "source_cidrs: \"10.0.0.0/33\"",
        ),
        (
            |terms| terms.source_cidrs = words(&["here"]),
            "source_cidrs: \"here\"",
        ),
        (
            |terms| terms.node_instance_ids = vec!["x".to_owned(); 257],
            "more than 256",
        ),
    ] {
        let error = refused(change).to_string();
        assert!(error.contains(text), "{error}");
    }
    let longest = Terms {
        remote_subject: "x".repeat(256),
        resource_kind: "x".repeat(64),
        ..Terms::default()
    };
    assert_eq!(
        grant(longest).scopes,
        BTreeSet::from([Scope::Read]),
        "to read, unless more is said"
    );
}

#[test]
fn the_strongest_of_what_is_true_is_shown() {
    let mut grant = grant(terms());
    let late = grant.expires_at;
    assert_eq!(grant.state(NOW), State::Active);
    assert_eq!(grant.state(late), State::Expired);
    grant.revoked_at = Some(NOW);
    assert_eq!(
        (grant.state(NOW), grant.state(late)),
        (State::Revoked, State::Revoked)
    );
    assert!(!grant.is_old(NOW.after(DAY * 89)) && grant.is_old(NOW.after(DAY * 90)));
    grant.archived_at = Some(late);
    assert_eq!(grant.state(late), State::Archived);
    assert!(!grant.is_old(NOW.after(DAY * 900)), "once");
}

type Case = (fn(&mut Grant), Option<Denial>);

#[test]
fn the_first_reason_is_told_and_no_scope_implies_another() {
    let denied = |change: fn(&mut Grant), ask: &Ask<'_>| {
        let mut grant = grant(terms());
        change(&mut grant);
        grant.judge(ask, NOW).err()
    };
    let plain = ask();
    let cases: [Case; 9] = [
        (|_| {}, None),
        (|grant| grant.peer = peer(2), Some(Denial::Unresolved)),
        (|grant| grant.expires_at = NOW, Some(Denial::Expired)),
        (|grant| grant.revoked_at = Some(NOW), Some(Denial::Revoked)),
        (|grant| grant.archived_at = Some(NOW), Some(Denial::Revoked)),
        (
            |grant| grant.resource_kind = "node".to_owned(),
            Some(Denial::Kind),
        ),
        (
            |grant| grant.resource_id = Some("dev".to_owned()),
            Some(Denial::Id),
        ),
        (|grant| grant.resource_id = Some("prod".to_owned()), None),
        (
            |grant| grant.scopes = [Scope::Write, Scope::Admin, Scope::Migrate].into(),
            Some(Denial::Scope(Scope::Read)),
        ),
    ];
    for (at, (change, expected)) in cases.into_iter().enumerate() {
        assert_eq!(denied(change, &plain), expected, "case {at}");
    }
    let all = Ask { id: None, ..ask() };
    assert_eq!(
        denied(|grant| grant.resource_id = Some("prod".to_owned()), &all),
        Some(Denial::Id),
        "one isn't all"
    );
}

#[test]
fn every_restricted_axis_must_match_what_the_connection_shows() {
    let judged = |nodes: &[&str], networks: &[&str], sources: &[&str], ask: &Ask<'_>| {
        grant(Terms {
            node_instance_ids: words(nodes),
            sdwan_network_ids: words(networks),
            source_cidrs: words(sources),
            ..terms()
        })
        .judge(ask, NOW)
        .err()
    };
    let plain = ask();
    let over = Ask {
        network: words(&["prod", "1"]),
        ..ask()
    };
    let nameless = Ask {
        instance: Vec::new(),
        ..ask()
    };
    let v6 = Ask {
        source: "2001:db8::7".parse().unwrap(),
        ..ask()
    };
    let mapped = Ask {
        source: "::ffff:192.0.2.7".parse().unwrap(),
        ..ask()
    };
    for (nodes, networks, sources, ask, expected) in [
        (&[][..], &[][..], &[][..], &plain, None),
        (&["*"], &["*"], &["*"], &nameless, None),
        (&["hub-b1"], &[], &[], &plain, None),
        (&["0b9c"], &[], &[], &plain, None),
        (&["hub-b2"], &[], &[], &plain, Some(Denial::Instance)),
        (&["hub-b1"], &[], &[], &nameless, Some(Denial::Instance)),
        (&[], &["prod"], &[], &plain, Some(Denial::Network)),
        (&[], &["prod"], &[], &over, None),
        (&[], &["1"], &[], &over, None),
        (&[], &["dev"], &[], &over, Some(Denial::Network)),
        (&[], &[], &["192.0.2.0/24"], &plain, None),
        (&[], &[], &["192.0.2.7"], &mapped, None),
        (&[], &[], &["192.0.2.0/24"], &v6, Some(Denial::Source)),
        (&[], &[], &["198.51.100.0/24", "2001:db8::/32"], &v6, None),
        (
            &["hub-b1"],
            &["dev"],
            &["192.0.2.0/24"],
            &over,
            Some(Denial::Network),
        ),
    ] {
        assert_eq!(
            judged(nodes, networks, sources, ask),
            expected,
            "{nodes:?} {networks:?} {sources:?}"
        );
    }
    let open = grant(Terms {
        source_cidrs: words(&["10.0.0.0/8"]),
        ..terms()
    })
    .unrestricted_axes();
    assert_eq!(open, [Axis::NodeInstanceIds, Axis::SdwanNetworkIds]);
}

#[test]
fn a_bearer_token_reads_back_and_nothing_else_does() {
    let token = BearerToken::new(GrantId(Uuid::from_u128(0x12)), [3; 32]);
    let text = token.reveal();
    assert!(
        text.starts_with("fg-00000000-0000-0000-0000-000000000012."),
        "{text}"
    );
    assert_eq!(
        BearerToken::parse(&text).map(|token| token.digest()),
        Some(token.digest())
    );
    assert!(!format!("{token:?}").contains(&BASE64.encode([3; 32])));
    let (head, secret) = text.split_once('.').unwrap();
    for wrong in [
        "",
        "fg-",
        "fg-.",
        head,
        &head.replace("fg-", "fgs."),
        &format!("{head}."),
        &format!("{head}.{}", &secret[1..]),
        &format!("{head}.{secret}A"),
        &format!("fg-not-a-uuid.{secret}"),
        &format!("fg-00000000000000000000000000000012.{secret}"),
        &format!("{head}.{secret}{}", "x".repeat(200)),
        &format!("{head}.\u{0}{secret}"),
    ] {
        assert!(BearerToken::parse(wrong).is_none(), "{wrong}");
    }
    let altered = if secret.starts_with('A') { "B" } else { "A" };
    let altered = BearerToken::parse(&format!("{head}.{altered}{}", &secret[1..])).unwrap();
    assert_ne!(altered.digest(), token.digest());
}
