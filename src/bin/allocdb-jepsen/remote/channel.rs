//! A channel of a session on which others work at the same time.
//!
//! `ssh2` takes the session's lock for whatever is done to a channel, but not for freeing it, and what waits to be read on the session is
//! one list for all channels. So a channel is freed here while the lock is held.

use ssh2::{Channel, Session};
use std::ops::{Deref, DerefMut};

/// A channel that nobody frees while somebody else works on its session.
pub(crate) struct OwnChannel {
    session: Session,
    /// There until it is dropped.
    channel: Option<Channel>,
}

impl OwnChannel {
    pub(super) fn new(session: &Session, channel: Channel) -> Self {
        Self { session: session.clone(), channel: Some(channel) }
    }
}

impl Deref for OwnChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        match &self.channel {
            Some(channel) => channel,
            None => unreachable!("a channel is taken out only when it is dropped"),
        }
    }
}

impl DerefMut for OwnChannel {
    fn deref_mut(&mut self) -> &mut Channel {
        match &mut self.channel {
            Some(channel) => channel,
            None => unreachable!("a channel is taken out only when it is dropped"),
        }
    }
}

impl Drop for OwnChannel {
    fn drop(&mut self) {
        let _alone = self.session.raw();
        drop(self.channel.take());
    }
}
