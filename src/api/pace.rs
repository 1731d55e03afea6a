//! A connection on which a request may be waited for a long time, and whose head must come at once when it begins.
//!
//! hyper's `header_read_timeout` counts both together: a connection that may idle could be slow with a head for as long.
//! A head that begins in the same record as the request before it isn't seen to begin: it has as long as one that idles.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What a connection is at: odd while a request is answered, even while one is awaited. Shared with who answers.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<AtomicU64>);

impl Pace {
    /// A request's head is there; or its answer is.
    pub(super) fn turn(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A stream whose reads fail once a request's head has been under way for too long.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    within: Duration,
    /// Which turn it is for, and when it is over.
    head: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<S> Paced<S> {
    pub(super) const fn new(stream: S, pace: Pace, within: Duration) -> Self {
        Self {
            stream,
            pace,
            within,
            head: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let now = self.pace.now();
        if self.head.as_ref().is_some_and(|(turn, _)| *turn != now) {
            self.head = None;
        }
        // A body has its own time.
        if !now.is_multiple_of(2) {
            return polled;
        }
        if self.head.is_none() && buf.filled().len() > before {
            let within = self.within;
            self.head = Some((now, Box::pin(sleep(within))));
        }
        if let Some((_, over)) = &mut self.head
            && over.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const WITHIN: Duration = Duration::from_millis(200);

    #[tokio::test(start_paused = true)]
    async fn a_head_must_come_at_once_and_may_be_waited_for() {
        let (mut far, near) = duplex(64);
        let pace = Pace::default();
        let mut paced = Paced::new(near, pace.clone(), WITHIN);
        for _ in 0..3 {
            // Idle: as long as somebody else lets it be.
            let waited = tokio::time::timeout(WITHIN * 50, paced.read_u8()).await;
            assert!(waited.is_err());
            far.write_all(b"h").await.unwrap();
            assert_eq!(paced.read_u8().await.unwrap(), b'h');
            pace.turn();
            // What comes while it is answered is a body.
            assert!(tokio::time::timeout(WITHIN * 50, paced.read_u8()).await.is_err());
            far.write_all(b"b").await.unwrap();
            assert_eq!(paced.read_u8().await.unwrap(), b'b');
            pace.turn();
        }
        // A head that drips.
        let mut read = 0;
        let error = loop {
            far.write_all(b"x").await.unwrap();
            match paced.read_u8().await {
                Ok(_) => read += 1,
                Err(error) => break error,
            }
            tokio::time::advance(WITHIN / 10).await;
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(read <= 11, "{read}");
    }
}
