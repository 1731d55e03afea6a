//! Our calls to a peer's listener that is itself and answers badly, and callers that show or send too much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sdwand::federation::client::{CallError, PATIENCE};
use sdwand::federation::dial::DialError;
use sdwand::federation::peer::Status;
use sdwand::federation::pki::tls::{CurrentLeaf, MAX_CHAIN_BYTES, PossessionOnly, server_config};
use sdwand::federation::pki::{Leaf, Usage};
use sdwand::federation::token::Fingerprint;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::site::{Site, ask, beat, enrolled, node, wall};

/// What a listener does once it has said what it says.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Ends,
    Stays,
}

/// Takes one call, reads its head, and says this.
async fn answers(listener: &TcpListener, acceptor: &TlsAcceptor, answer: &[u8], then: Then) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = acceptor.accept(stream).await.unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    // Who has heard enough hangs up.
    let _ = stream.write_all(answer).await;
    let _ = stream.flush().await;
    if then == Then::Stays {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

fn said(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_answer_is_an_error_that_says_why_and_moves_nothing() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = b.gateway.ca.issue(&b.gateway.site, &node(), Usage::Serve, wall());
    let current = Arc::new(CurrentLeaf::new(&served.unwrap()).unwrap());
    let tls = server_config(current, Arc::new(PossessionOnly::default())).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let mut peer = b_at_a.clone();
    peer.url = format!("https://{}", listener.local_addr().unwrap());
    peer.declared.endpoints.clear();

    // What b has answered to an earlier beat of a's, word for word.
    let earlier = a.gateway.beating(b_at_a.id, [1; 16], 1);
    let shown = a.leaf(&a_at_b.id.subject());
    let beats = [("heartbeat", serde_json::to_vec(&earlier).unwrap())];
    let replayed = ask(&b, Some(&shown), &beats).await.unwrap().remove(0).1;
    assert_eq!(replayed["success"], true);

    let long = format!("{{\"data\":\"{}\"}}", "x".repeat(70_000));
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let endless = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        chunk.repeat(6)
    );
    let elsewhere = format!("location: https://{}/\r\n", trap.local_addr().unwrap());
    let head = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20));
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"success\":true,\"data\":{".to_vec();
    let half = cut[..30].to_vec();
    let cases = [
        ("cut in the body", cut.clone(), Then::Ends),
        ("cut in the head", half, Then::Ends),
        ("nothing", Vec::new(), Then::Ends),
        ("too long", said("200 OK", "", &long), Then::Stays),
        ("endless", endless.into_bytes(), Then::Stays),
        ("an endless head", head.into_bytes(), Then::Stays),
        (
            "no HTTP",
            b"\x00\xff\x16\x03 nonsense\r\n\r\n".to_vec(),
            Then::Ends,
        ),
        ("no JSON", said("200 OK", "", "<html>hello</html>"), Then::Stays),
        ("another shape", said("200 OK", "", "{\"data\":7}"), Then::Stays),
        (
            "another beat's",
            said("200 OK", "", &replayed.to_string()),
            Then::Stays,
        ),
        ("a redirect", said("302 Found", &elsewhere, "{}"), Then::Stays),
        ("it stalls", cut, Then::Stays),
    ];
    for (what, answer, then) in cases {
        let began = Instant::now();
        let call = a.gateway.beat_to(&peer, [2; 16], 2, wall());
        let told = answers(&listener, &acceptor, &answer, then);
        let (outcome, ()) = tokio::join!(call, told);
        let error = outcome.unwrap_err();
        let is_known = match what {
            "another shape" | "another beat's" => matches!(error, DialError::Unsound(_)),
            "a redirect" => matches!(error, DialError::Refused { status: 302, .. }),
            "it stalls" => matches!(error, DialError::Call(CallError::Timeout { .. })),
            "nothing" | "cut in the head" | "no HTTP" | "an endless head" => {
                matches!(error, DialError::Call(CallError::Http { .. }))
            }
            _ => matches!(error, DialError::Call(CallError::Answer { .. })),
        };
        assert!(is_known, "{what}: {error:?}");
        assert!(!error.is_refusal(), "{what}: it is no word of the peer's");
        assert!(began.elapsed() < PATIENCE + Duration::from_secs(5), "{what}");
        let after = a.peer(b_at_a.id);
        assert_eq!(
            (after.status, after.last_heartbeat_at),
            (Status::Enrolled, None),
            "{what}"
        );
    }
    let followed = tokio::time::timeout(Duration::ZERO, trap.accept()).await;
    assert!(followed.is_err(), "a redirect is never followed");
}

/// A certificate that is longer than `bytes`, of nobody's.
fn long_certificate(bytes: usize) -> Leaf {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "fed:x");
    let name = |n: usize| SanType::URI(format!("spiffe://x/{n}-{}", "y".repeat(200)).try_into().unwrap());
    params.subject_alt_names = (0..=bytes / 200).map(name).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    Leaf {
        chain: vec![certificate],
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        renew_at: wall(),
        not_after: wall(),
        issuer: Fingerprint([0; 32]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_too_much_is_turned_away_in_the_handshake() {
    let a = Site::new("site-a", 1).await;
    assert_eq!(
        beat(&a, Some(&long_certificate(MAX_CHAIN_BYTES / 2))).await,
        401,
        "read, and unknown"
    );
    let long = long_certificate(MAX_CHAIN_BYTES);
    assert!(long.chain[0].len() > MAX_CHAIN_BYTES);
    let outcome = ask(&a, Some(&long), &[("heartbeat", b"{}".to_vec())]).await;
    assert!(outcome.is_err(), "{outcome:?}");
}

/// The handshake is done, and then headers come a byte at a time, or a body never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_slowly_is_cut_off_and_holds_up_nobody() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let (stranger, known) = (b.leaf("fed:nobody"), b.leaf(&b_at_a.id.subject()));
    let path = "/api/v1/system/federation_api/accept";
    for (what, leaf, start) in [
        (
            "headers of a stranger",
            &stranger,
            format!("POST {path} HTTP/1.1\r\n"),
        ),
        (
            "a stranger's body",
            &stranger,
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n"),
        ),
        ("headers of a peer", &known, format!("POST {path} HTTP/1.1\r\n")),
        (
            "a peer's body",
            &known,
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n"),
        ),
    ] {
        let mut slow = a.stream(leaf).await;
        slow.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let dripping = async {
            let (mut reads, mut writes) = tokio::io::split(slow);
            let drip = async {
                while writes.write_all(b"x").await.is_ok() && writes.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = reads.read_to_end(&mut answer) => {}
                () = drip => {}
            }
        };
        let cut = tokio::time::timeout(Duration::from_secs(30), dripping);
        let other = beat(&a, Some(&known));
        let (cut, other) = tokio::join!(cut, other);
        assert!(cut.is_ok(), "{what}: still open");
        assert_eq!(other, 200, "{what}");
    }
}
