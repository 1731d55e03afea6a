//! The list of all peers: there may be thousands. A row is written anew only where something in it has changed since the
//! last time; what must be written is written as fast as it is read, by several threads, and never there as a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use futures::{StreamExt as _, stream};

use super::view::ListedView;
use crate::federation::gateway::Gateway;
use crate::federation::ledger::Book;
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId};

/// How many peers are written at a time: some 250 KB.
const PIECE: usize = 512;
/// What the row of a peer takes, mostly.
const ROW: usize = 512;
/// How many pieces may be written ahead of what is read.
const AHEAD: usize = 4;

/// The rows of all peers as they were last written: `PIECE` in a piece, in the ledger's order.
#[derive(Clone, Debug, Default)]
pub struct Listing(Arc<Mutex<Vec<Arc<Piece>>>>);

/// Rows that stand together, each but the list's first behind a comma.
#[derive(Debug, Default)]
struct Piece {
    rows: Vec<Row>,
    written: Bytes,
}

#[derive(Debug)]
struct Row {
    stamp: Stamp,
    /// Where its text ends in the piece.
    end: usize,
}

/// What tells a row from what it was: taken before the row is written, so that a text is never older than its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    edition: u64,
    /// When the peer was heard of, if the ledger wasn't told yet.
    heard: Option<Moment>,
}

/// A piece that must be written, and what of it can be taken from how it was.
struct Due {
    n: usize,
    former: Arc<Piece>,
    rows: Vec<(Stamp, Option<Arc<Peer>>)>,
}

enum Part {
    Kept(Bytes),
    Due(Due),
}

impl Piece {
    fn is_as(&self, stamps: &[Stamp]) -> bool {
        self.rows.iter().map(|row| &row.stamp).eq(stamps)
    }

    /// The text of a row that has kept its place and its stamp.
    fn text(&self, at: usize) -> &[u8] {
        let begin = at.checked_sub(1).map_or(0, |before| self.rows[before].end);
        &self.written[begin..self.rows[at].end]
    }
}

impl Listing {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Piece>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, n: usize, piece: Arc<Piece>) {
        let mut pieces = self.lock();
        if pieces.len() <= n {
            pieces.resize_with(n + 1, Arc::default);
        }
        pieces[n] = piece;
    }

    /// `{"data":[…]}` of all peers. Where a row can't be written the answer breaks off: nobody takes half a list for a
    /// whole one.
    pub(super) fn all(&self, gateway: &Arc<Gateway>) -> Body {
        let former = self.lock().clone();
        let heard = gateway.heard.untold();
        let parts = gateway.ledger.read(|book| sort_out(book, &heard, &former));
        self.lock().truncate(parts.len());
        let listing = self.clone();
        body_of(gateway, parts, move |n, piece| listing.keep(n, piece))
    }
}

/// The same of these peers.
pub(super) fn some(gateway: &Arc<Gateway>, peers: &[Arc<Peer>]) -> Body {
    let stamp = Stamp {
        edition: 0,
        heard: None,
    };
    let pieces = peers.chunks(PIECE).enumerate().map(|(n, peers)| {
        Part::Due(Due {
            n,
            former: Arc::default(),
            rows: peers.iter().map(|peer| (stamp, Some(Arc::clone(peer)))).collect(),
        })
    });
    body_of(gateway, pieces.collect(), |_, _| {})
}

/// Which pieces are as they were, and which rows of the others aren't.
fn sort_out(book: &Book, heard: &BTreeMap<PeerId, Moment>, former: &[Arc<Piece>]) -> Vec<Part> {
    let (mut stamps, mut peers) = (Vec::new(), Vec::new());
    for (id, edition, peer) in book.editions() {
        let heard = heard.get(&id).copied();
        stamps.push(Stamp { edition, heard });
        peers.push(peer);
    }
    let pieces = stamps.chunks(PIECE).zip(peers.chunks(PIECE)).enumerate();
    pieces
        .map(|(n, (stamps, peers))| {
            let former = former.get(n).cloned().unwrap_or_default();
            if former.is_as(stamps) {
                return Part::Kept(former.written.clone());
            }
            let rows = stamps.iter().zip(peers).enumerate().map(|(at, (stamp, peer))| {
                let is_kept = former.rows.get(at).is_some_and(|row| row.stamp == *stamp);
                (*stamp, (!is_kept).then(|| Arc::clone(peer)))
            });
            let rows = rows.collect();
            Part::Due(Due { n, former, rows })
        })
        .collect()
}

fn body_of(
    gateway: &Arc<Gateway>,
    parts: Vec<Part>,
    keep: impl Fn(usize, Arc<Piece>) + Clone + Send + 'static,
) -> Body {
    let gateway = Arc::clone(gateway);
    let pieces = parts.into_iter().map(move |part| {
        let (gateway, keep) = (Arc::clone(&gateway), keep.clone());
        let piece = match part {
            Part::Kept(written) => Ok(written),
            // Nobody else waits for them to be written.
            Part::Due(due) => Err(tokio::task::spawn_blocking(move || {
                let n = due.n;
                let piece = write(&gateway, due)?;
                let written = piece.written.clone();
                keep(n, Arc::new(piece));
                serde_json::Result::Ok(written)
            })),
        };
        async move {
            match piece {
                Ok(written) => Ok(written),
                Err(writing) => Ok::<_, axum::BoxError>(writing.await??),
            }
        }
    });
    let mark = |text: &'static [u8]| stream::iter([Ok(Bytes::from_static(text))]);
    let pieces = stream::iter(pieces).buffered(AHEAD);
    Body::from_stream(mark(br#"{"data":["#).chain(pieces).chain(mark(b"]}")))
}

fn write(gateway: &Gateway, due: Due) -> serde_json::Result<Piece> {
    let mut written = Vec::with_capacity(due.former.written.len().max((due.rows.len() + 1) * ROW));
    let mut rows = Vec::with_capacity(due.rows.len());
    for (at, (stamp, peer)) in due.rows.into_iter().enumerate() {
        match peer {
            None => written.extend_from_slice(due.former.text(at)),
            Some(peer) => {
                if due.n > 0 || at > 0 {
                    written.push(b',');
                }
                serde_json::to_writer(&mut written, &ListedView::of(gateway, &peer))?;
            }
        }
        let end = written.len();
        rows.push(Row { stamp, end });
    }
    // What is kept takes no more than it needs.
    written.shrink_to_fit();
    Ok(Piece {
        rows,
        written: written.into(),
    })
}

#[cfg(test)]
mod tests;
