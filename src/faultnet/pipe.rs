//! One direction of a connection: what was read and is not written yet, when each part of it is due, and how the stream ends. Has no
//! sockets and no clock.

use super::Effect;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that a direction holds before nothing more is read.
const ROOM: usize = 256 * 1024;

/// The same while everything is held back: the longest message has room.
const ROOM_HELD: usize = 4 * 1024 * 1024;

/// Parts in which a slow link passes bytes on: so many a second.
const PARTS_A_SECOND: u64 = 50;

/// Furthest that a slow link falls behind: those who wait have given up long before.
const MOST_BEHIND: Duration = Duration::from_secs(60);

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Whoever sends has said all.
    Closed,
    /// The connection breaks.
    Reset,
}

/// State of a direction between two nodes that all of its connections share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) effect: Option<Effect>,
    /// When a slow link has passed on what it has taken.
    free_at: Option<Instant>,
    /// Where the next delay is drawn from.
    random: u64,
}

impl Link {
    pub(super) fn new(seed: u64) -> Self {
        Self { effect: None, free_at: None, random: seed | 1 }
    }

    /// Sets what happens from now on.
    pub(super) fn set(&mut self, effect: Option<Effect>) {
        self.effect = effect;
        self.free_at = None;
    }

    /// A number below `bound`, or 0.
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64: delays need no better source.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.checked_rem(bound).unwrap_or(0)
    }

    /// When so many bytes that come now are due.
    fn due(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        match self.effect {
            None | Some(Effect::Cut | Effect::Reset | Effect::HalfOpen) => Some(now),
            Some(Effect::Late) => None,
            Some(Effect::Delay(by)) => {
                let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
                Some(now + by / 2 + Duration::from_millis(self.below(millis)))
            }
            Some(Effect::Slow(rate)) => {
                let takes = Duration::from_nanos(
                    (bytes as u64).saturating_mul(1_000_000_000).checked_div(rate.max(1)).unwrap_or(0),
                );
                let free_at = self.free_at.map_or(now, |at| at.max(now)) + takes;
                let free_at = free_at.min(now + MOST_BEHIND);
                self.free_at = Some(free_at);
                Some(free_at)
            }
        }
    }
}

#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    written: usize,
    /// `None` while it is held back.
    due: Option<Instant>,
}

/// What is on the way in one direction, in order.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    parts: VecDeque<Part>,
    held: usize,
    end: Option<(End, Option<Instant>)>,
    is_end_passed_on: bool,
    /// Something was lost on the way, so that whatever comes later makes no sense.
    pub(super) has_hole: bool,
}

impl Pipe {
    /// How many bytes may be read now; none when the stream has ended or too much waits already.
    pub(super) fn room(&self, link: &Link) -> usize {
        let room = if link.effect == Some(Effect::Late) { ROOM_HELD } else { ROOM };
        if self.end.is_some() { 0 } else { room.saturating_sub(self.held) }
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, bytes: &[u8], link: &mut Link, now: Instant) {
        match link.effect {
            Some(Effect::Cut) => self.has_hole = true,
            _ if self.has_hole => {}
            Some(Effect::Reset) => {
                self.push(&bytes[..bytes.len() / 2], Some(now));
                self.end = Some((End::Reset, Some(now)));
            }
            Some(Effect::Slow(rate)) => {
                let part = usize::try_from(rate / PARTS_A_SECOND).unwrap_or(usize::MAX).max(1);
                for part in bytes.chunks(part) {
                    let due = link.due(part.len(), now);
                    self.push(part, due);
                }
            }
            _ => {
                let due = link.due(bytes.len(), now);
                self.push(bytes, due);
            }
        }
    }

    fn push(&mut self, bytes: &[u8], due: Option<Instant>) {
        if !bytes.is_empty() {
            self.held += bytes.len();
            self.parts.push_back(Part { bytes: bytes.to_vec(), written: 0, due: self.not_before(due) });
        }
    }

    /// Nothing overtakes what came before it.
    fn not_before(&self, due: Option<Instant>) -> Option<Instant> {
        match self.parts.back() {
            None => due,
            Some(last) => last.due.and_then(|last| due.map(|due| due.max(last))),
        }
    }

    /// The stream has ended.
    pub(super) fn end(&mut self, end: End, link: &mut Link, now: Instant) {
        if link.effect == Some(Effect::Cut) {
            self.has_hole = true;
        }
        if self.end.is_none() && !self.has_hole {
            let due = self.not_before(link.due(0, now));
            self.end = Some((end, due));
        } else if self.end.is_none() {
            // Nobody hears of it.
            self.end = Some((end, None));
        }
    }

    /// Whether the stream has ended, whether that was passed on or not.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// What is to be written now.
    pub(super) fn ready(&self, now: Instant) -> Option<&[u8]> {
        let part = self.parts.front().filter(|part| part.due.is_some_and(|due| due <= now))?;
        Some(&part.bytes[part.written..])
    }

    /// So much of it was written.
    pub(super) fn written(&mut self, bytes: usize) {
        if let Some(part) = self.parts.front_mut() {
            let bytes = bytes.min(part.bytes.len() - part.written);
            part.written += bytes;
            self.held -= bytes;
            if part.written == part.bytes.len() {
                self.parts.pop_front();
            }
        }
    }

    /// The end, once, when it is due and everything before it was written.
    pub(super) fn take_end(&mut self, now: Instant) -> Option<End> {
        let (end, due) = self.end.filter(|_| self.parts.is_empty() && !self.is_end_passed_on)?;
        due.filter(|due| *due <= now)?;
        self.is_end_passed_on = true;
        Some(end)
    }

    /// When there is something to be done, if that is in the future and not when it heals.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let first = match (self.parts.front(), self.end) {
            (Some(part), _) => part.due,
            (None, Some((_, due))) if !self.is_end_passed_on => due,
            _ => None,
        };
        first.filter(|due| *due > now)
    }

    /// Whether nothing is left to be done, unless it heals.
    pub(super) fn is_done(&self) -> bool {
        self.is_end_passed_on
    }

    /// Whether what comes now may be passed on past it.
    pub(super) fn is_clear(&self, link: &Link) -> bool {
        link.effect.is_none() && self.parts.is_empty() && !self.has_hole
    }

    /// Whether there is something to be passed on now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let end = self.end.filter(|_| self.parts.is_empty() && !self.is_end_passed_on);
        self.ready(now).is_some() || end.is_some_and(|(_, due)| due.is_some_and(|due| due <= now))
    }

    /// The link is another now: what waits is due at once, or lost.
    pub(super) fn link_changed(&mut self, link: &Link, now: Instant) {
        match link.effect {
            Some(Effect::Late) => {}
            Some(Effect::Cut) if !self.parts.is_empty() => {
                self.has_hole = true;
                self.parts.clear();
                self.held = 0;
                if let Some((_, due)) = &mut self.end {
                    *due = None;
                }
            }
            _ if self.has_hole => {}
            _ => {
                self.parts.iter_mut().for_each(|part| part.due = Some(now));
                if let Some((_, due)) = &mut self.end {
                    *due = Some(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(effect: Effect) -> Link {
        let mut link = Link::new(7);
        link.set(Some(effect));
        link
    }

    /// Everything that is due by then.
    fn drain(pipe: &mut Pipe, now: Instant) -> Vec<u8> {
        let mut drained = Vec::new();
        while let Some(bytes) = pipe.ready(now).map(<[u8]>::to_vec) {
            pipe.written(bytes.len());
            drained.extend(bytes);
        }
        drained
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_held_where_nothing_is_wrong() {
        let (now, mut pipe, mut link) = (Instant::now(), Pipe::default(), Link::new(7));
        pipe.take(b"abc", &mut link, now);
        pipe.end(End::Closed, &mut link, now);
        assert_eq!(pipe.take_end(now), None);
        assert_eq!(drain(&mut pipe, now), b"abc");
        assert_eq!((pipe.take_end(now), pipe.take_end(now)), (Some(End::Closed), None));
        assert!(pipe.is_done() && !pipe.has_hole && pipe.room(&link) == 0);
    }

    #[test]
    fn a_delay_keeps_the_order_and_has_bounds() {
        let (now, mut pipe, mut link) = (Instant::now(), Pipe::default(), link(Effect::Delay(SECOND)));
        for byte in 0..100 {
            pipe.take(&[byte], &mut link, now);
        }
        pipe.end(End::Closed, &mut link, now);
        assert_eq!(drain(&mut pipe, now + SECOND / 2 - Duration::from_millis(1)), b"");
        assert!(pipe.next_due(now).is_some_and(|due| due >= now + SECOND / 2));
        let early = drain(&mut pipe, now + SECOND);
        assert!(early.len() < 100, "all delays are the same");
        let all: Vec<u8> = early.into_iter().chain(drain(&mut pipe, now + SECOND * 3 / 2)).collect();
        assert_eq!(all, (0..100).collect::<Vec<u8>>());
        assert_eq!(pipe.take_end(now + SECOND * 3 / 2), Some(End::Closed));
    }

    #[test]
    fn a_slow_link_passes_so_many_bytes_a_second_of_all_connections() {
        let (now, mut link) = (Instant::now(), link(Effect::Slow(1_000)));
        let (mut one, mut other) = (Pipe::default(), Pipe::default());
        one.take(&[1; 1_000], &mut link, now);
        other.take(&[2; 1_000], &mut link, now);
        assert_eq!(
            (drain(&mut one, now + SECOND / 2).len(), drain(&mut other, now + SECOND).len()),
            (500, 0)
        );
        assert_eq!(
            (drain(&mut one, now + SECOND).len(), drain(&mut other, now + 2 * SECOND).len()),
            (500, 1_000)
        );
    }

    #[test]
    fn what_is_cut_off_is_lost_and_what_is_late_comes_when_it_heals() {
        let now = Instant::now();
        for (effect, arrives) in [(Effect::Cut, false), (Effect::Late, true)] {
            let (mut pipe, mut link) = (Pipe::default(), link(effect));
            pipe.take(b"abc", &mut link, now);
            pipe.end(End::Closed, &mut link, now);
            assert_eq!((drain(&mut pipe, now + SECOND), pipe.take_end(now + SECOND)), (Vec::new(), None));
            assert_eq!(pipe.next_due(now), None);
            link.set(None);
            pipe.link_changed(&link, now + SECOND);
            assert_eq!(pipe.has_hole, !arrives);
            assert_eq!(drain(&mut pipe, now + SECOND).is_empty(), !arrives);
            assert_eq!(pipe.take_end(now + SECOND).is_some(), arrives);
        }
    }

    #[test]
    fn a_reset_passes_half_of_a_message_on() {
        let (now, mut pipe, mut link) = (Instant::now(), Pipe::default(), link(Effect::Reset));
        pipe.take(b"abcdef", &mut link, now);
        assert_eq!((drain(&mut pipe, now), pipe.take_end(now)), (b"abc".to_vec(), Some(End::Reset)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let (now, mut pipe, mut link) = (Instant::now(), Pipe::default(), link(Effect::Late));
        assert_eq!(pipe.room(&link), ROOM_HELD);
        pipe.take(&vec![0; ROOM_HELD], &mut link, now);
        assert_eq!(pipe.room(&link), 0);
        link.set(None);
        assert_eq!(pipe.room(&link), 0);
        pipe.link_changed(&link, now);
        pipe.written(ROOM_HELD - 1);
        assert_eq!(pipe.room(&link), ROOM - 1);
    }
}
