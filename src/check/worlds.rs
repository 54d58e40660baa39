//! The checker that others use: a history held against a model under every assumption that is possible.
//!
//! Mostly there is one. Where a lost command was sent again at another time, nobody may be told which of the two was executed;
//! then each possibility is a world of its own (as in Knossos, Kingsbury 2013), until it contradicts what was observed or comes
//! to the same state as another. What is wrong is wrong in all of them.

use super::call::{Call, Completion, Gaps};
use super::model::Model;
use super::witness::{Assumed, SEARCH_LIMIT, World};
use super::{Anomaly, Judgement, Verdict};

/// Worlds that are kept side by side. With more of them the judgement is in doubt unless one of those kept explains everything.
const MOST_WORLDS: usize = 64;

/// Worlds that have come as far as is known, with which no more is looked for at a time.
const ENOUGH_SETTLED: usize = 16;

/// Things that may be tried at the beginning, and once more when the history has come to its end, each in a copy of a world.
const MOST_TRIES: usize = 2_048;

/// Things that may be tried for each time that worlds are compared, beside those: a checker that has found no way to see a history
/// looks for one as long as it goes on, without falling behind it.
const TRIES_EACH_TIME: usize = 64;

/// Attempts at the end, in all worlds together.
const MOST_ATTEMPTS: usize = 2 * SEARCH_LIMIT;

/// Completions after which worlds are compared with each other.
const COMPARE_EVERY: u64 = 1_024;

/// Holds a history against a model as it comes in. Invocations and completions are told in the order of their indexes.
#[derive(Debug, Clone)]
pub struct Checker<M: Model> {
    /// The first is the one that is reported; never empty.
    first: World<M>,
    others: Vec<Other<M>>,
    completions: u64,
    /// What may still be tried.
    tries: usize,
    tried: usize,
    /// States of replicas are compared, so that nothing more is asked for.
    is_ending: bool,
    /// There were more worlds than are kept.
    is_partial: bool,
    /// What is reported while worlds differ in what is wrong.
    none: Judgement,
}

/// A world in which other things are assumed.
#[derive(Debug, Clone)]
struct Other<M: Model> {
    world: World<M>,
    /// It has been in the state of the first since this place.
    same_since: Option<u64>,
}

impl<M: Model + std::fmt::Debug> Checker<M> {
    /// A checker for a history that begins where the model is before its first place.
    #[must_use]
    pub fn new(model: M, gaps: Gaps) -> Self {
        Self {
            first: World::new(model, gaps),
            others: Vec::new(),
            completions: 0,
            tries: MOST_TRIES,
            tried: 0,
            is_ending: false,
            is_partial: false,
            none: Judgement::default(),
        }
    }

    /// What has been found so far. Nothing of it is taken back later, but what gets its name only then may have been found before it.
    #[must_use]
    pub fn judgement(&self) -> &Judgement {
        if self.others.is_empty() { self.first.judgement() } else { &self.none }
    }

    /// The model, after every place that has been applied.
    #[must_use]
    pub fn model(&self) -> &M {
        self.first.model()
    }

    /// The last place that has been applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.first.applied()
    }

    /// The highest place that is certainly committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.first.committed()
    }

    /// Whether a command was sent before and can still be answered for it, or is in flight.
    #[must_use]
    pub fn knows(&self, command: &M::Command) -> bool {
        self.first.knows(command)
    }

    /// Places, operations and reads that are not settled.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.first.waiting()
    }

    /// What has been assumed so far beyond what was told, in copies of what is known: bounded by the length of the history.
    #[must_use]
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// Notes a reason why the history proves nothing, unless it proves that something is wrong.
    pub fn doubt(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        self.each(|world| world.doubt(reason.clone()));
        self.none.doubts.push(reason);
    }

    /// Takes note of something that is wrong, found by whoever knows what the checker does not.
    pub fn report(&mut self, anomaly: &Anomaly) {
        self.others.clear();
        self.first.report(anomaly.clone());
    }

    /// Notes what is wrong with the state after a place, if something is; says whether that state is known. Those after the last
    /// hundred thousand places are, or some fewer.
    pub fn inspect(&mut self, place: u64, compare: impl Fn(&M) -> Option<Anomaly>) -> bool {
        if !self.is_ending {
            self.is_ending = true;
            self.tries += MOST_TRIES;
        }
        loop {
            if place > self.first.applied() {
                self.settle(|_| true);
            }
            let Some(found) = self.first.state_at(place).map(|state| compare(&state)) else { return false };
            for Other { world, .. } in &mut self.others {
                match world.state_at(place).map(|state| compare(&state)) {
                    Some(Some(anomaly)) => world.report(anomaly),
                    Some(None) => {}
                    // It may still come to explain what the first does not.
                    None if found.is_some() => {}
                    None => world.doubt(format!("the state after {place} was not compared")),
                }
            }
            let is_wrong = found.is_some();
            found.into_iter().for_each(|anomaly| self.first.report(anomaly));
            self.sort_out();
            // Another one is first now, if there is one.
            if !is_wrong || self.first.is_wrong() {
                return true;
            }
        }
    }

    /// Nobody who was not told yet is going to be: places at which one of several things may stand are gone on from with each of them,
    /// in depth, so that what explains everything is found before all is tried. Worlds that need no more are left as they are: what
    /// is assumed where somebody would still have been told is mostly wrong.
    fn settle(&mut self, needs_more: impl Fn(&World<M>) -> bool) {
        let may_go_on = |world: &World<M>| needs_more(world) && world.may_assume();
        if self.tries == 0
            || !self.others.iter().map(|other| &other.world).chain([&self.first]).any(may_go_on)
        {
            return;
        }
        let first = Other { world: self.first.clone(), same_since: None };
        let mut open: Vec<Other<M>> = std::mem::take(&mut self.others);
        open.reverse();
        open.push(first);
        let (mut settled, mut later, mut wrong) = (Vec::new(), Vec::new(), None);
        while let Some(other) = open.pop() {
            if settled.len() >= ENOUGH_SETTLED || self.tries == 0 {
                later.push(other);
                continue;
            }
            let assumed = if needs_more(&other.world) { other.world.assume() } else { None };
            let Some(Assumed { explaining, wrong: found, is_whole, cost }) = assumed else {
                settled.push(other);
                continue;
            };
            self.tried += cost;
            self.tries = self.tries.saturating_sub(cost);
            self.is_partial |= !is_whole;
            wrong = wrong.or(found);
            open.extend(explaining.into_iter().rev().map(|world| Other { world, same_since: None }));
        }
        let mut all = settled.into_iter().chain(later);
        if let Some(first) = all.next().map(|other| other.world).or(wrong) {
            self.first = first;
        }
        self.others = all.collect();
        self.sort_out();
        self.merge();
    }

    /// A process asks for something.
    pub fn invoke(&mut self, index: u64, call: Call<M>) {
        for other in &mut self.others {
            other.world.invoke(index, call.clone());
        }
        self.first.invoke(index, call);
    }

    /// What was asked for by the invocation `invoked` has come to something, as the event `index` tells.
    pub fn complete(&mut self, invoked: u64, index: u64, completion: Completion<M>) {
        for other in &mut self.others {
            other.world.complete(invoked, index, completion.clone());
        }
        self.first.complete(invoked, index, completion);
        self.sort_out();
        // Also those that were left for later: each keeps all that has been told since.
        let is_stuck = || self.first.is_stuck() || self.others.iter().any(|other| other.world.is_stuck());
        if self.completions.is_multiple_of(COMPARE_EVERY) && is_stuck() {
            self.tries = (self.tries + TRIES_EACH_TIME).min(MOST_TRIES);
            self.settle(World::is_stuck);
        }
    }

    /// The exported log of a replica, 0 if it is not known whose, holds this command at this place.
    ///
    /// Logs decide what stands at places that nobody was told of. Where two logs differ, or a log holds another command than the
    /// one that a client was told stands there, replicas have diverged.
    pub fn logged(&mut self, place: u64, command: &M::Command, replica: u64) {
        self.each(|world| world.logged(place, command.clone(), replica));
        self.sort_out();
    }

    fn each(&mut self, mut tell: impl FnMut(&mut World<M>)) {
        tell(&mut self.first);
        self.others.iter_mut().for_each(|other| tell(&mut other.world));
    }

    /// Takes in what has forked, and drops what is wrong while something else is not.
    fn sort_out(&mut self) {
        self.completions += 1;
        let mut new = self.first.take_forks();
        if self.others.is_empty() && new.is_empty() {
            return;
        }
        self.others.iter_mut().for_each(|other| new.extend(other.world.take_forks()));
        while let Some(mut world) = new.pop() {
            world.advance();
            new.extend(world.take_forks());
            self.others.push(Other { world, same_since: None });
        }
        if self.first.is_wrong()
            && let Some(at) = self.others.iter().position(|other| !other.world.is_wrong())
        {
            self.first = self.others.remove(at).world;
            self.others.iter_mut().for_each(|other| other.same_since = None);
        }
        if self.first.is_wrong() {
            self.others.clear();
            if self.is_partial {
                self.first.take_back(too_many());
            }
            return;
        }
        self.others.retain(|other| !other.world.is_wrong());
        if self.others.len() >= MOST_WORLDS {
            self.others.truncate(MOST_WORLDS - 1);
            self.is_partial = true;
        }
        if self.completions.is_multiple_of(COMPARE_EVERY) {
            self.merge();
        }
    }

    /// Drops worlds that nobody can tell from the first any more, whenever he began to look.
    fn merge(&mut self) {
        let first = &self.first;
        let mut elsewhere = Vec::new();
        let (oldest, applied) = (first.oldest_floor(), first.applied());
        self.others.retain_mut(|other| {
            let is_same = other.world.applied() == applied
                && first.model().is_same(other.world.model())
                && first.lost_the_same(&other.world);
            if !is_same {
                other.same_since = None;
                return true;
            }
            let since = *other.same_since.get_or_insert(applied);
            let stays = oldest.min(other.world.oldest_floor()) < since;
            if !stays {
                elsewhere.extend(first.what_differs(&other.world));
            }
            stays
        });
        self.first.may_also_hold(elsewhere);
    }

    /// The history has ended: what is not settled yet is settled as far as possible.
    ///
    /// Where unknown places remain, every way to fill them with operations whose outcome is not known is tried, up to a limit.
    /// One that explains everything is enough. If none does, the anomalies of the first are reported; if the limit is reached
    /// before one is found, the judgement is in doubt.
    #[must_use]
    pub fn finish(self) -> Judgement {
        let mut attempts = MOST_ATTEMPTS;
        let mut is_partial = self.is_partial;
        let mut found = self.first.finish(&mut attempts);
        for other in self.others {
            match found.verdict() {
                Verdict::Valid => return found,
                Verdict::Unknown | Verdict::Invalid if attempts == 0 => {
                    is_partial = true;
                    break;
                }
                Verdict::Unknown | Verdict::Invalid => {
                    let judgement = other.world.finish(&mut attempts);
                    // What cannot be known in one world is not known at all, unless another explains everything.
                    if judgement.verdict() == Verdict::Valid || found.verdict() == Verdict::Invalid {
                        let is_better = judgement.verdict() != Verdict::Invalid;
                        found = if is_better { judgement } else { found };
                    }
                }
            }
        }
        if is_partial && found.verdict() == Verdict::Invalid {
            found = Judgement { anomalies: Vec::new(), doubts: vec![too_many()] };
        }
        found
    }
}

/// Why nothing is known where there were more possibilities than are looked at.
fn too_many() -> String {
    format!(
        "lost operations that were sent again leave more than {MOST_WORLDS} ways to see the history, not all of which were looked at"
    )
}
