use http_body_util::BodyExt as _;
use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::federation::gateway::Settings;
use crate::federation::ledger::{Conflict, Ledger};
use crate::federation::pki::SiteCa;
use crate::federation::site::SiteId;
use crate::model::Name;

fn gateway() -> (tempfile::TempDir, Arc<Gateway>) {
    let folder = tempfile::tempdir().unwrap();
    let site = SiteId::new("site-a.fd1234abcd42").unwrap();
    let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), Moment::EPOCH).unwrap());
    let ca = SiteCa::generate(&site, Moment::EPOCH).unwrap().0;
    let node = Name::new("hub-1").unwrap();
    let gateway = Gateway::new(site, node, ca, ledger, Settings::default());
    (folder, Arc::new(gateway))
}

fn id(n: usize) -> PeerId {
    PeerId(Uuid::from_u128(n as u128))
}

fn peer(n: usize) -> Peer {
    let alias = Name::new(&format!("site-{n}")).unwrap();
    Peer::new(id(n), alias, format!("https://site-{n}.example"), Moment::EPOCH)
}

fn put(gateway: &Gateway, peers: impl Iterator<Item = Peer>) {
    let done = gateway.ledger.transact(Moment::EPOCH, |draft| {
        for peer in peers {
            draft.put_peer(peer)?;
        }
        Ok::<_, Conflict>(())
    });
    done.unwrap();
}

/// What it would be, written at once.
fn at_once(gateway: &Gateway, peers: &[Arc<Peer>]) -> String {
    let rows = peers.iter().map(|peer| ListedView::of(gateway, peer));
    let rows: Vec<String> = rows.map(|row| serde_json::to_string(&row).unwrap()).collect();
    format!(r#"{{"data":[{}]}}"#, rows.join(","))
}

async fn read(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
}

fn peers(gateway: &Gateway) -> Vec<Arc<Peer>> {
    gateway.ledger.read(|book| book.peers().cloned().collect())
}

/// How many rows would be written, were the list asked for now.
fn due(gateway: &Gateway, listing: &Listing) -> usize {
    let (former, heard) = (listing.lock().clone(), gateway.heard.untold());
    let parts = gateway.ledger.read(|book| sort_out(book, &heard, &former));
    let rows = parts.iter().map(|part| match part {
        Part::Kept(_) => 0,
        Part::Due(due) => due.rows.iter().filter(|(_, peer)| peer.is_some()).count(),
    });
    rows.sum()
}

#[tokio::test]
async fn a_list_in_pieces_reads_like_one_that_is_written_at_once() {
    let (_folder, gateway) = gateway();
    for count in [0, 1, 2, PIECE, PIECE + 1, 5 * PIECE + 3] {
        let peers: Vec<Arc<Peer>> = (0..count).map(|n| Arc::new(peer(n))).collect();
        let text = read(some(&gateway, &peers)).await;
        assert!(text == at_once(&gateway, &peers), "{count}");
        let data: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(data["data"].as_array().unwrap().len(), count);
    }
}

#[tokio::test]
async fn a_row_is_written_anew_only_where_it_has_changed() {
    let (_folder, gateway) = gateway();
    let listing = Listing::default();
    assert_eq!(read(listing.all(&gateway)).await, r#"{"data":[]}"#);
    let many = 2 * PIECE + 7;
    put(&gateway, (0..many).map(|n| peer(2 * n)));
    assert_eq!(due(&gateway, &listing), many);
    let is_right = async |what: &str| {
        let text = read(listing.all(&gateway)).await;
        assert!(text == at_once(&gateway, &peers(&gateway)), "{what}");
        assert_eq!(due(&gateway, &listing), 0, "{what}");
        text
    };
    let first = is_right("all are new").await;
    assert!(is_right("nothing has changed").await == first);

    let mut changed = peer(2 * (PIECE + 3));
    changed.verified = true;
    put(&gateway, [changed].into_iter());
    assert_eq!(due(&gateway, &listing), 1);
    assert!(is_right("one has changed").await != first);

    let heard = Moment::EPOCH.after(std::time::Duration::from_secs(9));
    gateway.heard.note(id(0), heard);
    assert_eq!(due(&gateway, &listing), 1);
    let text = is_right("one was heard of").await;
    assert!(text.contains(r#""last_heartbeat_at":"1970-01-01T00:00:09Z""#));

    put(&gateway, [peer(2 * many)].into_iter());
    assert_eq!(due(&gateway, &listing), 1);
    is_right("one came at the end").await;
    put(&gateway, [peer(2 * PIECE + 1)].into_iter());
    is_right("one came in between, and moves those behind it").await;
}

/// Two who ask at once, while rows change: each is told what was at some time since it asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_ask_at_once() {
    let (_folder, gateway) = gateway();
    let listing = Listing::default();
    put(&gateway, (0..PIECE + 9).map(peer));
    let readers = (0..8).map(|_| {
        let (gateway, listing) = (Arc::clone(&gateway), listing.clone());
        tokio::spawn(async move {
            for round in 0..20 {
                let mut changed = peer(round * 17);
                changed.generation = u32::try_from(round).unwrap() + 2;
                changed.verified = true;
                put(&gateway, [changed].into_iter());
                let text = read(listing.all(&gateway)).await;
                let data: Value = serde_json::from_str(&text).unwrap();
                let rows = data["data"].as_array().unwrap();
                assert_eq!(rows.len(), PIECE + 9);
                assert_eq!(rows[round * 17]["verified"], true);
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    assert!(read(listing.all(&gateway)).await == at_once(&gateway, &peers(&gateway)));
}
