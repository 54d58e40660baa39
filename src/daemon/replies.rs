//! The way of replies to the thread that has the connections.

use crate::replica::node::Token as Request;
use mio::Waker;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Hands replies to the network's thread.
#[derive(Clone)]
pub(super) struct Replies {
    outbox: Sender<(Request, Vec<u8>)>,
    waker: Arc<Waker>,
}

impl Replies {
    pub(super) fn new(outbox: Sender<(Request, Vec<u8>)>, waker: Arc<Waker>) -> Self {
        Self { outbox, waker }
    }

    pub(super) fn put(&self, token: Request, reply: Vec<u8>) {
        // The thread lives as long as the process.
        let _ = self.outbox.send((token, reply));
    }

    pub(super) fn wake(&self) {
        let _ = self.waker.wake();
    }
}
