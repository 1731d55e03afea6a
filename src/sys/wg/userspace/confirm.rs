//! Data waits until the other end has its session.
//!
//! Who answers a handshake may send by the new session only once something has come by it (WireGuard paper, section 5.4.6):
//! what overtakes the response is dropped. The embedded device sends what it has queued right behind the response. Here it
//! waits for the confirmation, which is the first data message from the other end, or for [`PATIENCE`].
//!
//! Sessions are told apart by the indices that both ends chose for them, which stand in the clear: in a response bytes 4 to 7
//! hold the sender's and 8 to 11 the receiver's, in a data message bytes 4 to 7 the receiver's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a confirmation is waited for: what is sent that much later doesn't overtake the response.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// How many packets wait for one session; more are lost.
const HELD: usize = 1_000;

/// The first byte of a handshake response.
const RESPONSE: u8 = 2;
/// The first byte of a data message.
const DATA: u8 = 4;

/// Whether it is a data message.
pub(super) fn is_data(message: &[u8]) -> bool {
    message.first() == Some(&DATA)
}

/// What becomes of a message that is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing<T> {
    /// It goes.
    Now(T),
    /// It goes, and begins a session, which has this index at the other end.
    Begins(T, u32),
    /// It waits.
    Held,
}

/// The sessions of a device that the other end hasn't confirmed, with what waits for them.
pub(super) struct Unconfirmed<T> {
    count: AtomicUsize,
    sessions: Mutex<Sessions<T>>,
}

struct Sessions<T> {
    /// By the index at the other end.
    waiting: BTreeMap<u32, Session<T>>,
    /// Our index → the other end's.
    theirs: BTreeMap<u32, u32>,
}

struct Session<T> {
    ours: u32,
    held: Vec<T>,
}

impl<T> Default for Unconfirmed<T> {
    fn default() -> Self {
        Self {
            count: AtomicUsize::new(0),
            sessions: Mutex::new(Sessions {
                waiting: BTreeMap::new(),
                theirs: BTreeMap::new(),
            }),
        }
    }
}

impl<T> Unconfirmed<T> {
    /// Whether a message need not be shown to [`Self::outgoing`].
    pub(super) fn passes(&self, message: &[u8]) -> bool {
        message.first() != Some(&RESPONSE) && self.is_empty()
    }

    /// Whether all sessions are confirmed.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Takes a message that is to be sent; `bytes` are its bytes.
    pub(super) fn outgoing(&self, item: T, bytes: impl Fn(&T) -> &[u8]) -> Outgoing<T> {
        let message = bytes(&item);
        let mut sessions = self.lock();
        if message.first() == Some(&RESPONSE)
            && let (Some(ours), Some(theirs)) = (index(message, 4), index(message, 8))
        {
            let held = Vec::new();
            if let Some(former) = sessions.waiting.insert(theirs, Session { ours, held }) {
                sessions.theirs.remove(&former.ours);
            }
            sessions.theirs.insert(ours, theirs);
            self.count.store(sessions.waiting.len(), Ordering::Release);
            return Outgoing::Begins(item, theirs);
        }
        let theirs = index(message, 4).filter(|_| is_data(message));
        let Some(session) = theirs.and_then(|theirs| sessions.waiting.get_mut(&theirs)) else {
            return Outgoing::Now(item);
        };
        if session.held.len() < HELD {
            session.held.push(item);
        }
        Outgoing::Held
    }

    /// Takes a message that has come; the answer is what has waited for it.
    pub(super) fn incoming(&self, message: &[u8]) -> Vec<T> {
        let Some(ours) = index(message, 4).filter(|_| is_data(message)) else {
            return Vec::new();
        };
        let theirs = self.lock().theirs.get(&ours).copied();
        theirs.map_or_else(Vec::new, |theirs| self.end(theirs))
    }

    /// Waits no more; the answer is what has waited.
    pub(super) fn end(&self, theirs: u32) -> Vec<T> {
        let mut sessions = self.lock();
        let Some(session) = sessions.waiting.remove(&theirs) else {
            return Vec::new();
        };
        sessions.theirs.remove(&session.ours);
        self.count.store(sessions.waiting.len(), Ordering::Release);
        session.held
    }

    fn lock(&self) -> MutexGuard<'_, Sessions<T>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session index at `at`.
fn index(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, indices: [u32; 2]) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(indices.iter().flat_map(|index| index.to_le_bytes()));
        message
    }

    fn data(receiver: u32, number: u32) -> Vec<u8> {
        message(DATA, [receiver, number])
    }

    fn send(sessions: &Unconfirmed<Vec<u8>>, message: Vec<u8>) -> Outgoing<Vec<u8>> {
        sessions.outgoing(message, |message| message)
    }

    #[test]
    fn data_waits_for_its_session_alone() {
        let sessions = Unconfirmed::default();
        assert!(sessions.passes(&data(7, 0)) && !sessions.passes(&message(RESPONSE, [1, 7])));
        let response = message(RESPONSE, [1, 7]);
        assert_eq!(send(&sessions, response.clone()), Outgoing::Begins(response, 7));
        assert_eq!(send(&sessions, data(7, 0)), Outgoing::Held);
        assert_eq!(
            send(&sessions, data(6, 0)),
            Outgoing::Now(data(6, 0)),
            "of another session"
        );
        assert_eq!(send(&sessions, data(7, 1)), Outgoing::Held);
        assert!(sessions.incoming(&data(2, 0)).is_empty() && sessions.incoming(&[DATA, 0]).is_empty());
        assert_eq!(sessions.incoming(&data(1, 0)), [data(7, 0), data(7, 1)]);
        assert!(sessions.is_empty());
        assert_eq!(send(&sessions, data(7, 2)), Outgoing::Now(data(7, 2)));
    }

    #[test]
    fn what_is_not_confirmed_goes_in_the_end_and_is_bounded() {
        let sessions = Unconfirmed::default();
        send(&sessions, message(RESPONSE, [1, 7]));
        for number in 0..2_000 {
            assert_eq!(send(&sessions, data(7, number)), Outgoing::Held);
        }
        assert_eq!(sessions.end(7).len(), HELD);
        assert!(
            sessions.is_empty() && sessions.end(7).is_empty() && sessions.incoming(&data(1, 0)).is_empty()
        );
    }
}
