//! What exported logs of the system hold, next to what clients were told and to each other.

use super::{Content, Entry, World};
use crate::check::call::Call;
use crate::check::hashing::digest;
use crate::check::model::Model;
use crate::check::{Anomaly, AnomalyKind};

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
            Some((content, _)) => {
                *content = Content::Command(command);
                return self.advance();
            }
            None if is_swept => {}
            None => return self.insert_logged(place, command),
        }
        self.logs.claims.insert(place, (command, replica));
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
        if trace.identity == identity && trace.content == M::digest(command) {
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
