//! A wire between two sites that counts connections, and breaks them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sdwand::federation::url::PeerUrl;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what is sent over the connections that there are now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    /// The next thing that is sent is lost, and the connection with it.
    Breaks,
    /// Whatever is sent is lost, and nobody is told.
    Mute,
}

pub(crate) struct Relay {
    pub(crate) url: PeerUrl,
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    wire: watch::Sender<(usize, Wire)>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Relay {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = PeerUrl::new(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
        let (opened, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (wire, state) = watch::channel((0, Wire::Whole));
        let counts = (Arc::clone(&opened), Arc::clone(&open));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                counts.1.fetch_add(1, Ordering::SeqCst);
                let (open, state) = (Open(Arc::clone(&counts.1)), state.clone());
                tokio::spawn(async move {
                    let onward = TcpStream::connect(address).await.unwrap();
                    pass(stream, onward, number, state).await;
                    drop(open);
                });
            }
        });
        Self {
            url,
            opened,
            open,
            wire,
        }
    }

    /// How many connections there were.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// The connections that there are now lose the next thing that is sent, and break.
    pub(crate) fn breaks(&self) {
        self.wire.send_replace((self.opened(), Wire::Breaks));
    }

    /// Every connection breaks with the first thing that is sent, from now on.
    pub(crate) fn breaks_for_good(&self) {
        self.wire.send_replace((usize::MAX, Wire::Breaks));
    }

    /// The connections that there are now lose all that is sent.
    pub(crate) fn mute(&self) {
        self.wire.send_replace((self.opened(), Wire::Mute));
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self, within: Duration) {
        let late = Instant::now() + within;
        while self.open.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < late, "a connection is still open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn pass(mut near: TcpStream, mut far: TcpStream, number: usize, state: watch::Receiver<(usize, Wire)>) {
    let (mut ask, mut answer) = ([0; 4096], [0; 4096]);
    loop {
        tokio::select! {
            read = near.read(&mut ask) => {
                let Ok(read @ 1..) = read else { return };
                let (last, wire) = *state.borrow();
                match wire {
                    Wire::Breaks if number <= last => return,
                    Wire::Mute if number <= last => {}
                    Wire::Whole | Wire::Breaks | Wire::Mute => {
                        if far.write_all(&ask[..read]).await.is_err() { return }
                    }
                }
            }
            read = far.read(&mut answer) => {
                let Ok(read @ 1..) = read else { return };
                if near.write_all(&answer[..read]).await.is_err() { return }
            }
        }
    }
}
