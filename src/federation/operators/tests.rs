use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Map, Value, json};

use super::*;

const WALL: Moment = Moment::EPOCH;
const BY: Principal = Principal::Uid(0);

/// A site, its operators, and the key as it is kept.
struct Site {
    operators: Operators,
    secret: zeroize::Zeroizing<String>,
    ledger: Arc<Ledger>,
    _folder: tempfile::TempDir,
}

fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), WALL).unwrap());
    let (key, secret) = OperatorKey::generate().unwrap();
    let id = SiteId::new("site-a.fd1234abcd42").unwrap();
    Site {
        operators: Operators::new(id, key, Arc::clone(&ledger)),
        secret,
        ledger,
        _folder: folder,
    }
}

fn asked(permissions: &[Permission]) -> Issue {
    Issue {
        sub: "alice".to_owned(),
        permissions: permissions.iter().copied().collect(),
        life: None,
    }
}

fn issue(site: &Site) -> (IssuedToken, zeroize::Zeroizing<String>) {
    let asked = asked(&[Permission::Read, Permission::Invite]);
    site.operators.issue(asked, &BY, [1; 10], WALL).unwrap()
}

fn at(seconds: u64) -> Moment {
    WALL.after(Duration::from_secs(seconds))
}

/// The parts of a token.
fn parts(token: &str) -> (Header, Map<String, Value>) {
    let data = jsonwebtoken::dangerous::insecure_decode::<Map<String, Value>>(token).unwrap();
    (data.header, data.claims)
}

/// The same token with something changed, signed by the site's own key.
fn resigned(site: &Site, token: &str, change: impl FnOnce(&mut Header, &mut Map<String, Value>)) -> String {
    let (mut header, mut claims) = parts(token);
    change(&mut header, &mut claims);
    let pair = KeyPair::from_pem(&site.secret).unwrap();
    encode(&header, &claims, &EncodingKey::from_ed_der(&pair.serialize_der())).unwrap()
}

#[test]
fn a_token_says_who_may_what_until_when() {
    let site = site();
    let (issued, token) = issue(&site);
    let (header, claims) = parts(&token);
    assert_eq!(header.alg, Algorithm::EdDSA);
    assert_eq!(header.kid.as_deref(), Some(site.operators.key.kid()));
    let expected = json!({
        "iss": "site-a.fd1234abcd42", "aud": "site-a.fd1234abcd42", "sub": "alice", "jti": issued.jti,
        "iat": 0, "nbf": 0, "exp": 3_600, "permissions": ["system.peers.read", "system.peers.invite"],
    });
    assert_eq!(Value::Object(claims), expected);
    let may = BTreeSet::from([Permission::Read, Permission::Invite]);
    let is_alice = Ok((Principal::Subject("alice".to_owned()), may));
    assert_eq!(site.operators.judge(&token, WALL), is_alice);
    assert_eq!(site.operators.judge(&token, at(3_599)), is_alice);
    assert_eq!(site.operators.judge(&token, at(3_600)), Err(Refused::Expired));
    // After a restart with the key as it was kept, too.
    let key = OperatorKey::load(&site.secret).unwrap();
    let again = Operators::new(site.operators.site.clone(), key, Arc::clone(&site.ledger));
    assert_eq!(again.judge(&token, WALL), is_alice);
}

#[test]
fn what_is_not_exactly_ours_is_refused() {
    type Change = fn(&mut Header, &mut Map<String, Value>);
    let site = site();
    let (_, token) = issue(&site);
    let sound = resigned(&site, &token, |_, _| {});
    assert!(
        site.operators.judge(&sound, WALL).is_ok(),
        "signed again, unchanged"
    );
    let cases: [(&str, Change, Refused); 16] = [
        (
            "another kid",
            |h, _| h.kid = Some("00".repeat(16)),
            Refused::Unsound,
        ),
        ("no kid", |h, _| h.kid = None, Refused::Unsound),
        (
            "what we don't understand",
            |h, _| h.crit = Some(vec!["b64".to_owned()]),
            Refused::Unsound,
        ),
        (
            "another audience",
            |_, c| c["aud"] = json!("site-b.fd0000000001"),
            Refused::Unsound,
        ),
        (
            "another audience, too",
            |_, c| c["aud"] = json!(["site-a.fd1234abcd42", "x"]),
            Refused::Unsound,
        ),
        ("no audience", |_, c| drop(c.remove("aud")), Refused::Unsound),
        (
            "another issuer",
            |_, c| c["iss"] = json!("site-b.fd0000000001"),
            Refused::Unsound,
        ),
        ("no issuer", |_, c| drop(c.remove("iss")), Refused::Unsound),
        ("nobody", |_, c| drop(c.remove("sub")), Refused::Unsound),
        ("an empty name", |_, c| c["sub"] = json!(" "), Refused::Unsound),
        ("no id", |_, c| drop(c.remove("jti")), Refused::Unsound),
        ("no end", |_, c| drop(c.remove("exp")), Refused::Unsound),
        (
            "another permission",
            |_, c| c["permissions"] = json!(["system.peers.read", "*"]),
            Refused::Unsound,
        ),
        (
            "too long a life",
            |_, c| c["exp"] = json!(12 * 3_600 + 1),
            Refused::Life,
        ),
        (
            "a life that ends before it begins",
            |_, c| c["iat"] = json!(3_601),
            Refused::Life,
        ),
        (
            "an id that was never issued",
            |_, c| c["jti"] = json!(Uuid::nil()),
            Refused::Unknown,
        ),
    ];
    for (what, change, refused) in cases {
        let token = resigned(&site, &token, change);
        assert_eq!(site.operators.judge(&token, WALL), Err(refused), "{what}");
    }
}

#[test]
fn clocks_may_differ_a_little_and_no_life_be_too_long() {
    let site = site();
    let (_, token) = issue(&site);
    let set = |claim: &'static str, value: Value| {
        move |claims: &mut Map<String, Value>| drop(claims.insert(claim.to_owned(), value))
    };
    for claim in ["iat", "nbf"] {
        let early = |seconds: u64| resigned(&site, &token, |_, claims| set(claim, json!(seconds))(claims));
        assert!(
            site.operators.judge(&early(60), WALL).is_ok(),
            "{claim}: clocks differ a little"
        );
        assert_eq!(
            site.operators.judge(&early(61), WALL),
            Err(Refused::Early),
            "{claim}"
        );
    }
    let longest = resigned(&site, &token, |_, claims| set("exp", json!(12 * 3_600))(claims));
    assert!(site.operators.judge(&longest, WALL).is_ok(), "12 h are good");
}

#[test]
fn nobody_elses_signature_counts() {
    let (site, other) = (site(), site());
    let (_, token) = issue(&site);
    let (header, claims) = parts(&token);
    // Another key that says it is ours.
    let forged = resigned(&other, &token, |_, _| {});
    assert_eq!(site.operators.judge(&forged, WALL), Err(Refused::Unsound));
    let (_, foreign) = issue(&other);
    assert_eq!(
        site.operators.judge(&foreign, WALL),
        Err(Refused::Unsound),
        "the other's own"
    );
    // Other algorithms, also those that would take our public key for a shared secret.
    let public = KeyPair::from_pem(&site.secret).unwrap().public_key_raw().to_vec();
    for secret in [public, site.operators.key.kid().as_bytes().to_vec(), Vec::new()] {
        let mut header = header.clone();
        header.alg = Algorithm::HS256;
        let token = encode(&header, &claims, &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(site.operators.judge(&token, WALL), Err(Refused::Unsound));
    }
    let mut ecdsa = header.clone();
    ecdsa.alg = Algorithm::ES256;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ecdsa = encode(&ecdsa, &claims, &EncodingKey::from_ec_der(&pair.serialize_der())).unwrap();
    assert_eq!(site.operators.judge(&ecdsa, WALL), Err(Refused::Unsound));
    let [_, body, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    for alg in ["none", "None", "eddsa", "ES256K", ""] {
        let head = json!({ "typ": "JWT", "alg": alg, "kid": site.operators.key.kid() }).to_string();
        for signature in [signature, ""] {
            let token = format!("{}.{body}.{signature}", BASE64.encode(&head));
            assert_eq!(
                site.operators.judge(&token, WALL),
                Err(Refused::Unsound),
                "{alg:?}"
            );
        }
    }
    for nonsense in [
        "",
        ".",
        "..",
        "...",
        "x",
        &token[1..],
        &token[..token.len() - 1],
        &format!("{}.", *token),
    ] {
        assert_eq!(
            site.operators.judge(nonsense, WALL),
            Err(Refused::Unsound),
            "{nonsense}"
        );
    }
}

#[test]
fn what_is_revoked_stays_so_until_it_is_expired() {
    let site = site();
    let (issued, token) = issue(&site);
    let revoked = site.operators.revoke(issued.jti, &BY, at(10)).unwrap();
    assert_eq!(revoked.revoked_at, Some(at(10)));
    assert_eq!(site.operators.judge(&token, at(10)), Err(Refused::Revoked));
    assert_eq!(
        site.operators.judge(&token, WALL),
        Err(Refused::Revoked),
        "whatever the clock says"
    );
    let again = site.operators.revoke(issued.jti, &BY, at(11));
    assert!(matches!(again, Err(IssueError::Revoked(jti)) if jti == issued.jti));
    let unknown = site.operators.revoke(Uuid::nil(), &BY, at(11));
    assert!(matches!(unknown, Err(IssueError::Unknown(_))));
    assert_eq!(site.operators.tokens(at(11)), [revoked]);
    // Then it is swept, with the next thing that is written.
    let second = site
        .operators
        .issue(asked(&[Permission::Manage]), &BY, [2; 10], at(3_600))
        .unwrap();
    assert_eq!(site.operators.tokens(at(3_600)), [second.0]);
    assert_eq!(site.ledger.read(|book| book.operator_tokens().count()), 1);
    assert_eq!(
        site.operators.judge(&token, WALL),
        Err(Refused::Expired),
        "no clock wakes it"
    );
}

#[test]
fn the_audit_tells_of_tokens_and_never_one() {
    let site = site();
    let (issued, token) = issue(&site);
    site.operators
        .revoke(issued.jti, &Principal::Uid(1_000), WALL)
        .unwrap();
    let records = site.ledger.audit_tail(10).unwrap();
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.kind.as_str(), record.payload["by"].as_str().unwrap()))
        .collect();
    let (first, second) = (
        "federation.operator_token.issued",
        "federation.operator_token.revoked",
    );
    assert_eq!(told, [(first, "uid:0"), (second, "uid:1000")]);
    assert!(
        records
            .iter()
            .all(|record| record.payload["jti"] == json!(issued.jti))
    );
    let text = serde_json::to_string(&records).unwrap();
    let signature = token.rsplit('.').next().unwrap();
    assert!(!text.contains(signature));
    assert!(!format!("{:?}{issued:?}", site.operators.key).contains(signature));
}

#[test]
fn a_token_needs_a_name_a_permission_and_an_end() {
    let site = site();
    let try_to = |sub: &str, permissions: &[Permission], life: Option<u64>| {
        let asked = Issue {
            sub: sub.to_owned(),
            life: life.map(Duration::from_secs),
            ..asked(permissions)
        };
        site.operators
            .issue(asked, &BY, [3; 10], WALL)
            .map(|(issued, _)| issued.expires_at)
    };
    let read = [Permission::Read];
    for sub in ["", "  ", "a\nb", &"a".repeat(129)] {
        assert!(
            matches!(try_to(sub, &read, None), Err(IssueError::Subject)),
            "{sub:?}"
        );
    }
    assert!(matches!(try_to("a", &[], None), Err(IssueError::Nothing)));
    for life in [0, 12 * 3_600 + 1, u64::MAX] {
        assert!(
            matches!(try_to("a", &read, Some(life)), Err(IssueError::Life)),
            "{life}"
        );
    }
    assert_eq!(site.operators.tokens(WALL), [], "nothing was written");
    assert_eq!(try_to("a", &read, None).unwrap(), at(3_600));
    assert_eq!(try_to("a", &read, Some(12 * 3_600)).unwrap(), at(12 * 3_600));
}

#[test]
fn permissions_have_a_long_and_a_short_name() {
    for permission in Permission::ALL {
        assert_eq!(json!(permission), json!(permission.as_str()));
        assert_eq!(permission.as_str().parse::<Permission>().unwrap(), permission);
        let short = permission.as_str().rsplit('.').next().unwrap();
        assert_eq!(short.parse::<Permission>().unwrap(), permission);
    }
    for nonsense in ["", "peers.read", "READ", "*", "system.peers"] {
        assert!(nonsense.parse::<Permission>().is_err(), "{nonsense}");
    }
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    assert!(matches!(
        OperatorKey::load(&pair.serialize_pem()),
        Err(KeyError::Kind)
    ));
    assert!(matches!(OperatorKey::load("-----BEG"), Err(KeyError::Key(_))));
}
