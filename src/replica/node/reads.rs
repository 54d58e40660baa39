//! Reads, and for how long a primary may answer them.
//!
//! A read must not be answered from what another primary has gone beyond. Another one can serve only once a majority follows
//! it, so as long as a majority is known to have followed this one a short time ago, and failovers wait for that time,
//! there is none. After that this primary repeats its last commit to its peers first, for all reads that wait together.
//!
//! That a command was not executed, and is refused for what was, is such a read, too: an old primary does not know what others have
//! executed since.

use super::{ClientReply, Node, Token};
#[cfg(feature = "planted-faults")]
use crate::allocator::ResourceView;
use crate::allocator::{ReservationLookup, ReservationView};
use crate::api::{
    Committed, LeaseResponse, Rejection, Request, ResourceResponse, Response, SubmitResponse, TickResponse,
    Ticked, text,
};
use crate::engine::FenceError;
use crate::ids::Slot;
#[cfg(feature = "planted-faults")]
use crate::ids::{ReservationId, ResourceId};
use crate::planted::PlantedFault;
use crate::replica::{ReadRefusal, Role};
use std::time::Duration;

/// A read, or a tick that found nothing due, that waits until it is known that a majority still follows this primary.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) token: Token,
    pub(super) request: Request,
    pub(super) arrived: Duration,
    /// What a submit is told that is neither executed nor a retry.
    pub(super) refusal: Option<Rejection>,
}

impl Node {
    /// Takes note that a majority has answered messages that were sent at this time or later.
    pub(super) fn note_majority(&mut self, sent: Duration) {
        self.confirmed = self.confirmed.max(Some(sent));
    }

    /// Whether a read that came in at `arrived` may be answered: a majority was asked since, or not long ago.
    fn may_answer(&self, arrived: Duration, now: Duration) -> bool {
        if PlantedFault::ReadWithoutLease.is_enabled() || PlantedFault::OldPrimaryServes.is_enabled() {
            return true;
        }
        let Some(confirmed) = self.confirmed else { return PlantedFault::ReadBeforeMajority.is_enabled() };
        let times = if PlantedFault::ReadLeaseThreefold.is_enabled() { 3 } else { 1 };
        arrived <= confirmed || now.saturating_sub(confirmed) < self.settings.read_lease * times
    }

    /// Answers the reads that can be answered now: all of them, unless a majority has to be asked first.
    pub(super) fn serve_reads(&mut self, now: Duration) {
        if self.replica.fault().is_some() || self.replica.role() != Role::Primary {
            return self.answer_all_reads();
        }
        let (answered, waiting): (Vec<Read>, Vec<Read>) =
            std::mem::take(&mut self.reads).into_iter().partition(|read| self.may_answer(read.arrived, now));
        self.reads = waiting;
        self.answer_reads(answered);
    }

    /// Answers the reads that wait as this replica's state and role are.
    pub(super) fn answer_all_reads(&mut self) {
        let reads = std::mem::take(&mut self.reads);
        self.answer_reads(reads);
    }

    fn answer_reads(&mut self, reads: Vec<Read>) {
        for read in reads {
            let reply = self.read(&read);
            self.reply(read.token, reply);
        }
    }

    /// Refuses the reads that wait: no majority follows this primary.
    pub(super) fn refuse_reads(&mut self) {
        for read in std::mem::take(&mut self.reads) {
            self.reply_text(read.token, text::not_primary(Role::ViewUncertain.word()));
        }
    }

    fn read(&self, read: &Read) -> ClientReply {
        let request = &read.request;
        let required = match request {
            Request::GetResource { required, .. } | Request::GetLease { required, .. } => *required,
            _ => None,
        };
        let engine = match self.replica.read_fence(required) {
            Ok(engine) => engine,
            Err(ReadRefusal::NotPrimary(role)) => return ClientReply::Text(text::not_primary(role.word())),
            Err(ReadRefusal::Faulted)
                if matches!(request, Request::TickExpirations { .. } | Request::Submit { .. }) =>
            {
                return ClientReply::Text(text::FAULTED.to_owned());
            }
            Err(ReadRefusal::Faulted) => return ClientReply::Response(fence_response(request, None)),
            Err(ReadRefusal::Fence(fence)) => {
                return ClientReply::Response(fence_response(request, Some(fence)));
            }
        };
        let state = engine.allocator();
        ClientReply::Response(match request {
            Request::GetLease { slot, lease, .. } => {
                Response::GetLease(match state.reservation(*lease, *slot) {
                    ReservationLookup::Found(view) => LeaseResponse::Found(misread(view).into()),
                    ReservationLookup::Retired => LeaseResponse::Retired,
                    ReservationLookup::NotFound => LeaseResponse::NotFound,
                })
            }
            Request::GetResource { resource, .. } => {
                let found = state.resource(*resource);
                #[cfg(feature = "planted-faults")]
                let found = found.map(|view| self.cached.answer(self.foreseen(view)));
                Response::GetResource(found.map_or(ResourceResponse::NotFound, ResourceResponse::Found))
            }
            // Nothing was due when it came, and a majority has followed this primary since.
            Request::TickExpirations { .. } => {
                Response::TickExpirations(TickResponse::Applied(Ticked { processed: 0, last_lsn: None }))
            }
            Request::Submit { slot, payload } => {
                match (engine.find_retry(*slot, payload).transpose(), read.refusal) {
                    (Some(answer), _) => retried(answer),
                    (None, refusal) => Response::submit_rejected(refusal.unwrap_or(Rejection::EngineHalted)),
                }
            }
            // Nothing else is ever read.
            Request::GetMetrics { .. } => Response::submit_rejected(Rejection::EngineHalted),
        })
    }
}

/// What is remembered of an operation, or that nobody knows any more, as it is answered.
pub(super) fn retried(answer: Result<Committed, Rejection>) -> Response {
    Response::Submit(
        answer.map_or_else(|rejection| SubmitResponse::Rejected(rejection.into()), SubmitResponse::Committed),
    )
}

/// A lease as the faults of reads show it.
fn misread(mut view: ReservationView) -> ReservationView {
    if PlantedFault::MembersReversed.is_enabled() {
        view.members.reverse();
    }
    if PlantedFault::LeaseDeadlineOff.is_enabled() {
        view.deadline = Slot(view.deadline.0.saturating_add(1));
    }
    view
}

/// Resources as they were read, and how often that was repeated since, for the fault `read-cached`.
#[cfg(feature = "planted-faults")]
#[derive(Debug, Default)]
pub(super) struct Cached(std::cell::RefCell<std::collections::HashMap<ResourceId, (ResourceView, u32)>>);

#[cfg(feature = "planted-faults")]
impl Cached {
    /// What a read is answered that should be answered with this.
    fn answer(&self, view: ResourceView) -> ResourceView {
        if !PlantedFault::ReadCached.is_enabled() {
            return view;
        }
        let mut read = self.0.borrow_mut();
        let (known, repeated) = read.entry(view.id).or_insert((view, 0));
        if *repeated > 3 {
            (*known, *repeated) = (view, 0);
        }
        *repeated += 1;
        *known
    }
}

#[cfg(feature = "planted-faults")]
impl Node {
    /// A resource as it is once what is prepared is committed, for the fault `prepared-read`.
    fn foreseen(&self, mut view: ResourceView) -> ResourceView {
        use crate::allocator::{ResourceState, payload::decode_client};
        let shard = self.replica.metadata().identity.shard;
        for entry in self.replica.prepared().filter(|_| PlantedFault::PreparedRead.is_enabled()) {
            let reserves = decode_client(&entry.payload)
                .is_ok_and(|client| client.command.resources().contains(&view.id));
            if reserves && view.state == ResourceState::Available {
                view.state = ResourceState::Reserved;
                view.current = Some(ReservationId::mint(shard, entry.lsn));
                view.version += 1;
            }
        }
        view
    }
}

/// The answer to a read whose fence holds it back; `None` stands for a replica without an engine.
fn fence_response(request: &Request, fence: Option<FenceError>) -> Response {
    let is_lease = matches!(request, Request::GetLease { .. });
    if matches!(request, Request::TickExpirations { .. }) {
        return Response::tick_rejected(Rejection::EngineHalted);
    }
    match fence {
        Some(FenceError::NotApplied { required: required_lsn, last_applied: last_applied_lsn }) => {
            if is_lease {
                Response::GetLease(LeaseResponse::FenceNotApplied { required_lsn, last_applied_lsn })
            } else {
                Response::GetResource(ResourceResponse::FenceNotApplied { required_lsn, last_applied_lsn })
            }
        }
        Some(FenceError::EngineHalted) | None if is_lease => Response::GetLease(LeaseResponse::EngineHalted),
        Some(FenceError::EngineHalted) | None => Response::GetResource(ResourceResponse::EngineHalted),
    }
}
