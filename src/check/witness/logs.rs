//! What exported logs of the system hold, next to what clients were told and to each other.

use super::{Content, Entry, World};
use crate::check::call::Call;
use crate::check::hashing::digest;
use crate::check::model::Model;
use crate::check::{Anomaly, AnomalyKind};

/// Places at which one of several things may stand that are kept in mind, the last ones.
const MOST_ALSO: usize = 65_536;

impl<M: Model + std::fmt::Debug> World<M> {
    /// The exported log of a replica, 0 if it is not known whose, holds this command at this place.
    ///
    /// Logs decide what stands at places that nobody was told of. Where two logs differ, or a log holds another command than the
    /// one that a client was told stands there, replicas have diverged.
    pub(in crate::check) fn logged(&mut self, place: u64, command: M::Command, replica: u64) {
        if self.ended {
            return;
        }
        let content = digest(&format!("{command:?}"));
        if let Some(other) = self.logs.note(place, content, replica) {
            return self.report_divergence(place, &[other, replica], Vec::new(), format!("{command:?}"));
        }
        if place <= self.applied {
            return self.compare_past(place, &command, replica);
        }
        let is_swept = self.is_swept(place);
        match self.entries.get_mut(&place).map(|entry| (&mut entry.content, entry.index)) {
            Some((Content::Swept { .. }, _)) => {}
            Some((Content::Command(known), index)) if !is_same::<M>(known, &command) => {
                return self.report_divergence(place, &[replica], vec![index], format!("{command:?}"));
            }
            Some((Content::Either(known), index))
                if !known.first().is_some_and(|known| is_same::<M>(&known.command, &command)) =>
            {
                return self.report_divergence(place, &[replica], vec![index], format!("{command:?}"));
            }
            Some((content, index)) => {
                *content = Content::Command(command.clone());
                self.compare_told(place, &command, index);
                return self.advance();
            }
            None if is_swept => {}
            None => return self.insert_logged(place, command),
        }
        self.logs.claims.insert(place, (command, replica));
    }

    /// Whether the same operations may still stand somewhere.
    pub(in crate::check) fn lost_the_same(&self, other: &Self) -> bool {
        self.lost.keys().eq(other.lost.keys())
    }

    /// What stands elsewhere in a world that came to the same state in another order.
    pub(in crate::check) fn what_differs(&self, other: &Self) -> Vec<(u64, (u32, u32))> {
        let also = other.logs.also.iter().flat_map(|(place, also)| also.iter().map(|found| (*place, *found)));
        let differs = self.past.what_differs(&other.past);
        differs.map(|(place, trace)| (place, (trace.identity, trace.content))).chain(also).collect()
    }

    /// Takes note of what may stand at places as well as what stands there here: nobody can tell which, but a log.
    pub(in crate::check) fn may_also_hold(&mut self, elsewhere: Vec<(u64, (u32, u32))>) {
        for (place, found) in elsewhere {
            let also = self.logs.also.entry(place).or_default();
            if !also.contains(&found) {
                also.push(found);
            }
        }
        while self.logs.also.len() > MOST_ALSO {
            self.logs.also.pop_first();
        }
    }

    /// Whether a place belongs to a sweep that is known and not applied.
    fn is_swept(&self, place: u64) -> bool {
        self.entries.range(..place).next_back().is_some_and(|(first, entry)| entry.last(*first) >= place)
    }

    fn insert_logged(&mut self, place: u64, command: M::Command) {
        let identity = M::identity(&command);
        let attempts = identity.and_then(|identity| self.attempts.get(&identity));
        let tries = attempts.into_iter().flat_map(|known| known.tries.iter());
        let first = tries
            .filter_map(|index| Some((*index, self.open.get(*index).or_else(|| self.lost.get(index))?)))
            .find(|(_, open)| matches!(&open.call, Call::Command(asked) if M::repeats(asked, &command)))
            .map(|(index, open)| (index, open.floor));
        if let (Some(identity), None) = (identity, first) {
            let refused = self.refused.iter().filter(|(known, _)| *known == identity);
            let operations = refused.map(|(_, index)| *index).collect();
            self.anomaly(Anomaly {
                kind: AnomalyKind::WrongResult,
                operations,
                fields: vec![("lsn", place.to_string())],
                expected: "a request that was refused for good, or never made, is never executed".to_owned(),
                observed: format!("the log holds it at {place}"),
            });
        }
        let (index, floor) = first.unwrap_or_default();
        let entry = Entry {
            content: Content::Command(command),
            answer: None,
            index,
            first_invoked: index,
            completed: None,
            floor,
        };
        self.entries.insert(place, entry);
        self.advance();
    }

    fn compare_past(&mut self, place: u64, command: &M::Command, replica: u64) {
        let Some(trace) = self.past.at(place) else { return };
        let identity = M::identity(command).as_ref().map_or(0, digest);
        let found = (identity, M::digest(command));
        let is_known = |known: &[(u32, u32)]| known.contains(&found);
        if (trace.identity, trace.content) == found
            || self.logs.also.get(&place).is_some_and(|also| is_known(also))
        {
            return;
        }
        let known = self.past.index(place).into_iter().collect();
        self.report_divergence(place, &[replica], known, format!("{command:?}"));
    }

    /// Holds a command that is applied at a place against what a log was found to hold there.
    pub(super) fn compare_claim(&mut self, place: u64, command: &M::Command, index: u64) {
        if self.logs.claims.is_empty() {
            return;
        }
        if let Some((claimed, replica)) = self.logs.claims.remove(&place)
            && !is_same::<M>(&claimed, command)
        {
            self.report_divergence(place, &[replica], vec![index], format!("{claimed:?}"));
        }
    }

    fn report_divergence(&mut self, place: u64, replicas: &[u64], operations: Vec<u64>, observed: String) {
        let replicas: Vec<String> = replicas.iter().map(u64::to_string).collect();
        let others =
            if replicas.len() > 1 { "the other replica's log holds" } else { "clients were told stands" };
        self.anomaly(Anomaly {
            kind: AnomalyKind::ReplicaDivergence,
            operations,
            fields: vec![("lsn", place.to_string()), ("replicas", replicas.join(","))],
            expected: format!("what {others} at {place}"),
            observed,
        });
    }
}

/// Whether these are one command, or repetitions of one.
fn is_same<M: Model>(one: &M::Command, other: &M::Command) -> bool {
    M::identity(one) == M::identity(other) && M::repeats(one, other)
}
