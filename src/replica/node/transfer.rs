//! Sending a peer the snapshot: it is too far behind for the log, or so far that the snapshot is the shorter way.
//!
//! The file is read piece by piece as the peer takes them, so it never stands in memory. It stays open, and so the same, when
//! the next checkpoint replaces it; the log keeps what comes behind it. Both peers are sent the same one.

use super::Node;
use crate::ids::Lsn;
use crate::replica::message::{MAX_PIECE_BYTES, PeerRequest, SnapshotPiece};
use crate::storage::DiskFile;
use std::io;

/// Catching up takes so many steps out of the log, at most, before the snapshot is the shorter way.
const MOST_STEPS: u64 = 64;

/// A snapshot that is sent to peers.
pub(super) struct Outgoing {
    lsn: Lsn,
    length: u64,
    sum: u32,
    file: Box<dyn DiskFile>,
}

/// How far one peer is with it.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// Bytes it is known to have, from the beginning.
    taken: u64,
    /// Bytes that are under way.
    under_way: u64,
}

impl Outgoing {
    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn new(lsn: Lsn, file: Box<dyn DiskFile>) -> io::Result<Self> {
        let mut outgoing = Self { lsn, length: file.length()?, sum: 0, file };
        let mut at = 0;
        while at < outgoing.length {
            let bytes = outgoing.read(at, MAX_PIECE_BYTES)?;
            outgoing.sum = crc32c::crc32c_append(outgoing.sum, &bytes);
            at += bytes.len() as u64;
        }
        Ok(outgoing)
    }

    fn read(&self, offset: u64, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length.saturating_sub(offset).min(most) as usize];
        match self.file.read_at(offset, &mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes.truncate(read);
                Ok(bytes)
            }
        }
    }
}

impl Node {
    fn log_has(&self, lsn: Lsn) -> bool {
        let follows = Lsn::following(self.replica.commit_lsn());
        let first = self.replica.engine().and_then(|engine| engine.wal().first_lsn());
        Some(lsn) == follows || first.is_some_and(|first| first <= lsn)
    }

    /// Whether a peer is to be sent a snapshot, or more of one. Where it stands has to be known.
    pub(super) fn needs_snapshot(&self, at: usize) -> bool {
        let peer = &self.peers[at];
        let snapshot = self.replica.engine().and_then(|engine| engine.active_snapshot());
        let Some(snapshot) = snapshot.filter(|snapshot| *snapshot >= peer.next) else { return false };
        let steps = (snapshot.0 - peer.next.0) / self.most_prepared().max(1);
        peer.takes_snapshots
            && peer.unusable_snapshot != Some(snapshot)
            && (peer.transfer.is_some() || steps >= MOST_STEPS || !self.log_has(peer.next))
    }

    /// The next piece for a peer; none if there is none that can be read.
    pub(super) fn next_piece(&mut self, at: usize) -> Option<PeerRequest> {
        // What follows the snapshot has to be in the log, or the peer would be no better off.
        if self.outgoing.as_ref().is_none_or(|outgoing| {
            outgoing.lsn < self.peers[at].next || !self.log_has(outgoing.lsn.next().unwrap_or(outgoing.lsn))
        }) {
            self.peers.iter_mut().for_each(|peer| peer.transfer = None);
            self.outgoing = self.open_snapshot();
        }
        let view = self.replica.view();
        let outgoing = self.outgoing.as_ref()?;
        let (lsn, length, sum) = (outgoing.lsn, outgoing.length, outgoing.sum);
        let is_new = self.peers[at].transfer.is_none();
        let transfer = self.peers[at].transfer.get_or_insert_default();
        let offset = transfer.taken;
        match outgoing.read(offset, self.piece_bytes) {
            Ok(bytes) => {
                transfer.under_way = bytes.len() as u64;
                if is_new {
                    log::info!(
                        "replica={} event=snapshot_sending peer={} snapshot_lsn={lsn} bytes={length}",
                        self.replica.id(),
                        self.peers[at].id
                    );
                }
                Some(PeerRequest::Snapshot(SnapshotPiece { view, lsn, length, sum, offset, bytes }))
            }
            Err(error) => {
                log::warn!("replica={} event=snapshot_read_failed error={error}", self.replica.id());
                self.give_up_transfer(at);
                None
            }
        }
    }

    fn open_snapshot(&self) -> Option<Outgoing> {
        let engine = self.replica.engine()?;
        let lsn = engine.active_snapshot()?;
        let opened = engine.open_snapshot().and_then(|file| match file {
            Some(file) => Outgoing::new(lsn, file).map(Some),
            None => Ok(None),
        });
        opened.unwrap_or_else(|error| {
            log::warn!("replica={} event=snapshot_read_failed error={error}", self.replica.id());
            None
        })
    }

    /// A peer has taken the piece that was under way. True if it was the last one, and the peer has the snapshot.
    pub(super) fn piece_taken(&mut self, at: usize) -> bool {
        let Some(outgoing) = &self.outgoing else { return false };
        let Some(transfer) = &mut self.peers[at].transfer else { return false };
        transfer.taken = transfer.taken.saturating_add(std::mem::take(&mut transfer.under_way));
        if transfer.taken < outgoing.length {
            return false;
        }
        log::info!(
            "replica={} event=snapshot_sent peer={} snapshot_lsn={}",
            self.replica.id(),
            self.peers[at].id,
            outgoing.lsn
        );
        self.peers[at].catch_up.clear();
        self.give_up_transfer(at);
        true
    }

    /// A peer has other pieces than it was taken to have: it begins anew, or was further along before an answer was lost.
    pub(super) fn send_pieces_from(&mut self, at: usize, offset: u64) {
        let length = self.outgoing.as_ref().map_or(0, |outgoing| outgoing.length);
        let transfer = self.peers[at].transfer.get_or_insert_default();
        transfer.taken = if offset < length { offset } else { 0 };
    }

    /// The peer is not sent the snapshot any further. The file is closed when nobody is.
    pub(super) fn give_up_transfer(&mut self, at: usize) {
        self.peers[at].transfer = None;
        if self.peers.iter().all(|peer| peer.transfer.is_none()) {
            self.outgoing = None;
        }
    }
}
