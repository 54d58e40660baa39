//! What is known of one identity: attempts whose outcome is not known, and places where it was executed.

use crate::check::model::Model;
use std::iter::Chain;
use std::{option, slice};

/// A list that is mostly of one.
#[derive(Debug, Clone)]
pub(super) struct Few<T> {
    one: Option<T>,
    more: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self { one: None, more: Vec::new() }
    }
}

impl<T> Few<T> {
    pub(super) fn of(item: T) -> Self {
        Self { one: Some(item), more: Vec::new() }
    }

    pub(super) fn push(&mut self, item: T) {
        if self.one.is_none() && self.more.is_empty() {
            self.one = Some(item);
        } else {
            self.more.push(item);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.one.is_none() && self.more.is_empty()
    }

    pub(super) fn iter(&self) -> Chain<option::Iter<'_, T>, slice::Iter<'_, T>> {
        self.one.iter().chain(&self.more)
    }

    pub(super) fn iter_mut(&mut self) -> Chain<option::IterMut<'_, T>, slice::IterMut<'_, T>> {
        self.one.iter_mut().chain(&mut self.more)
    }

    pub(super) fn find_mut(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.one.iter_mut().chain(&mut self.more).find(|item| is_it(item))
    }

    pub(super) fn len(&self) -> usize {
        self.more.len() + usize::from(self.one.is_some())
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        if self.one.as_ref().is_some_and(|one| !keep(one)) {
            self.one = None;
        }
        self.more.retain(keep);
    }
}

/// All attempts at one command.
#[derive(Debug, Clone)]
pub(super) struct Attempts<M: Model> {
    /// Invocations that are in flight, or whose outcome is not known, ascending.
    pub(super) tries: Few<u64>,
    /// Where it stands in the log, as far as known.
    pub(super) executions: Few<Execution<M>>,
}

/// One place where it stands.
#[derive(Debug, Clone)]
pub(super) struct Execution<M: Model> {
    pub(super) place: u64,
    pub(super) answer: Option<M::Answer>,
    /// The invocation it is known by.
    pub(super) index: u64,
    pub(super) command: M::Command,
    /// Others that were told so before it was applied, under what they asked for then.
    pub(super) told_too: Few<(u64, M::Command)>,
    /// Attempts that may have been the one that was executed.
    pub(super) by: Few<u64>,
}

impl<M: Model> Execution<M> {
    /// Invocations that were told of it and could not have been, were it this command that was executed: by then nothing would remember
    /// it.
    pub(super) fn told_too_late<'a>(
        &'a self,
        model: &'a M,
        executed: &'a M::Command,
    ) -> impl Iterator<Item = u64> + 'a {
        let told = self.answer.is_some().then_some((self.index, &self.command));
        let told = told.into_iter().chain(self.told_too.iter().map(|(index, command)| (*index, command)));
        told.filter(|(_, command)| !model.may_recall(executed, command)).map(|(index, _)| index)
    }
}

impl<M: Model> Default for Attempts<M> {
    fn default() -> Self {
        Self { tries: Few::default(), executions: Few::default() }
    }
}

impl<M: Model> Attempts<M> {
    /// The outcome of an attempt is known.
    pub(super) fn settle(&mut self, invoked: u64) {
        self.tries.retain(|index| *index != invoked);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tries.is_empty() && self.executions.is_empty()
    }
}
