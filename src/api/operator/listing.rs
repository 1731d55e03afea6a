//! The list of all peers: there may be thousands, so it is written as fast as it is read, by several threads, and never there
//! as a whole.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures::{StreamExt as _, stream};

use super::view::ListedView;
use crate::federation::gateway::Gateway;
use crate::federation::peer::Peer;

/// How many peers are written at a time: some 250 KB.
const PIECE: usize = 512;
/// What the row of a peer takes, mostly.
const ROW: usize = 512;
/// How many pieces may be written ahead of what is read.
const AHEAD: usize = 4;

/// `{"data":[…]}`. Where a row can't be written the answer breaks off: nobody takes half a list for a whole one.
pub(super) fn body_of(gateway: Arc<Gateway>, peers: Vec<Arc<Peer>>) -> Body {
    let count = peers.len().div_ceil(PIECE).max(1);
    let mut peers = peers.into_iter();
    let pieces = (0..count).map(move |n| {
        let (gateway, piece) = (Arc::clone(&gateway), peers.by_ref().take(PIECE).collect());
        // Nobody else waits for them to be written.
        let written = tokio::task::spawn_blocking(move || write(&gateway, piece, n == 0, n + 1 == count));
        async move { Ok::<_, axum::BoxError>(written.await??) }
    });
    Body::from_stream(stream::iter(pieces).buffered(AHEAD))
}

fn write(
    gateway: &Gateway,
    piece: Vec<Arc<Peer>>,
    is_first: bool,
    is_last: bool,
) -> serde_json::Result<Bytes> {
    let mut written = Vec::with_capacity((piece.len() + 1) * ROW);
    if is_first {
        written.extend_from_slice(br#"{"data":["#);
    }
    for (n, peer) in piece.into_iter().enumerate() {
        if !is_first || n > 0 {
            written.push(b',');
        }
        serde_json::to_writer(&mut written, &ListedView::of(gateway, &peer))?;
    }
    if is_last {
        written.extend_from_slice(b"]}");
    }
    Ok(written.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::json;
    use uuid::Uuid;

    use crate::federation::gateway::Settings;
    use crate::federation::ledger::Ledger;
    use crate::federation::moment::Moment;
    use crate::federation::peer::PeerId;
    use crate::federation::pki::SiteCa;
    use crate::federation::site::SiteId;
    use crate::model::Name;

    #[tokio::test]
    async fn a_list_in_pieces_reads_like_one_that_is_written_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let site = SiteId::new("site-a.fd1234abcd42").unwrap();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), Moment::EPOCH).unwrap());
        let ca = SiteCa::generate(&site, Moment::EPOCH).unwrap().0;
        let node = Name::new("hub-1").unwrap();
        let gateway = Arc::new(Gateway::new(site, node, ca, ledger, Settings::default()));
        for count in [0, 1, 2, PIECE, PIECE + 1, 5 * PIECE + 3] {
            let peers: Vec<Arc<Peer>> = (0..count as u128)
                .map(|n| {
                    let (id, alias) = (
                        PeerId(Uuid::from_u128(n)),
                        Name::new(&format!("site-{n}")).unwrap(),
                    );
                    let url = format!("https://site-{n}.example");
                    Arc::new(Peer::new(id, alias, url, Moment::EPOCH))
                })
                .collect();
            let views: Vec<ListedView<'_>> =
                peers.iter().map(|peer| ListedView::of(&gateway, peer)).collect();
            let views: Vec<String> = views
                .iter()
                .map(|view| serde_json::to_string(view).unwrap())
                .collect();
            let whole = format!(r#"{{"data":[{}]}}"#, views.join(","));
            let body = body_of(Arc::clone(&gateway), peers);
            let bytes = body.collect().await.unwrap().to_bytes();
            assert!(bytes == whole.as_bytes(), "{count}");
            let read: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(json!(read["data"].as_array().unwrap().len()), json!(count));
        }
    }
}
