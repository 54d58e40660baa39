//! Operations on leases as a history records them, both ways.
//!
//! Identifiers of 128 bits are strings of decimal digits, everything else with a number is one. What an operation does not have
//! is left out.

use super::lease::{
    Answer, Ask, Code, Command, LeaseSeen, LeaseState, LeaseView, Limits, ResourceState, ResourceView, Sight,
};
use super::model::LeaseModel;
use crate::check::{Call, Completion};
use crate::history::Kind;
use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, ShardId, Slot};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Everything a value can have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Fields<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub op: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub state: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retire_after: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_lsn: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_applied: Option<u64>,
    /// Of an entry of an exported log: the word of its operation.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub f: Option<Cow<'a, str>>,
}

/// The header's part that says what the model must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    /// The limits of the cluster.
    pub limits: LimitFields,
}

/// [`Limits`], with their names in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in Limits")]
pub struct LimitFields {
    pub shard_id: u64,
    pub max_resources: u64,
    pub max_reservations: u64,
    pub max_bundle_size: u64,
    pub max_operations: u64,
    pub max_ttl_slots: u64,
    pub max_client_retry_window_slots: u64,
    pub reservation_history_window_slots: u64,
    pub max_expiration_bucket_len: u64,
    pub max_expirations_per_tick: u64,
}

impl From<LimitFields> for Limits {
    fn from(fields: LimitFields) -> Self {
        Self {
            shard: ShardId(fields.shard_id),
            max_resources: fields.max_resources,
            max_reservations: fields.max_reservations,
            max_bundle_size: fields.max_bundle_size,
            max_operations: fields.max_operations,
            max_ttl_slots: fields.max_ttl_slots,
            max_client_retry_window_slots: fields.max_client_retry_window_slots,
            reservation_history_window_slots: fields.reservation_history_window_slots,
            max_expiration_bucket_len: fields.max_expiration_bucket_len,
            max_expirations_per_tick: fields.max_expirations_per_tick,
        }
    }
}

impl From<Limits> for LimitFields {
    fn from(limits: Limits) -> Self {
        Self {
            shard_id: limits.shard.0,
            max_resources: limits.max_resources,
            max_reservations: limits.max_reservations,
            max_bundle_size: limits.max_bundle_size,
            max_operations: limits.max_operations,
            max_ttl_slots: limits.max_ttl_slots,
            max_client_retry_window_slots: limits.max_client_retry_window_slots,
            reservation_history_window_slots: limits.reservation_history_window_slots,
            max_expiration_bucket_len: limits.max_expiration_bucket_len,
            max_expirations_per_tick: limits.max_expirations_per_tick,
        }
    }
}

/// A request as it is recorded when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum Request {
    /// A command, which goes through the log.
    Write(Command),
    /// End what is due at a slot.
    Tick { slot: Slot },
    /// Look at a resource, from a state that includes the fence.
    GetResource { resource: ResourceId, fence: Option<Lsn> },
    /// Look at a lease at a slot, from a state that includes the fence.
    GetLease { lease: ReservationId, slot: Slot, fence: Option<Lsn> },
}

/// What is wrong with a value: the field, what was expected, what was found.
pub type Problem = String;

fn missing(field: &str) -> Problem {
    format!("`value.{field}`: expected, found nothing")
}

fn id<T: From<u128>>(field: &str, text: Option<&Cow<'_, str>>) -> Result<T, Problem> {
    let text = text.ok_or_else(|| missing(field))?;
    digits(text).map(T::from).ok_or_else(|| {
        format!("`value.{field}`: expected a string of decimal digits for 128 bits, found {text:?}")
    })
}

/// The number that is written in decimal digits and nothing else, if it has at most 128 bits.
fn digits(text: &str) -> Option<u128> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if text.len() > 38 {
        return text.parse().ok();
    }
    // So many digits always fit, and half of them fit into half of the bits.
    let part =
        |digits: &[u8]| digits.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
    let (high, low) = text.as_bytes().split_at(text.len().saturating_sub(19));
    Some(u128::from(part(high)) * 10_000_000_000_000_000_000 + u128::from(part(low)))
}

fn ids(field: &str, texts: Option<&Vec<Cow<'_, str>>>) -> Result<Vec<ResourceId>, Problem> {
    texts.ok_or_else(|| missing(field))?.iter().map(|text| id(field, Some(text))).collect()
}

fn number(field: &str, number: Option<u64>) -> Result<u64, Problem> {
    number.ok_or_else(|| missing(field))
}

fn word<T>(field: &str, text: Option<&Cow<'_, str>>, parse: fn(&str) -> Option<T>) -> Result<T, Problem> {
    let text = text.ok_or_else(|| missing(field))?;
    parse(text).ok_or_else(|| format!("`value.{field}`: expected one of its words, found {text:?}"))
}

fn text<T: ToString>(id: T) -> Option<Cow<'static, str>> {
    Some(Cow::Owned(id.to_string()))
}

impl Request {
    /// The word of the operation.
    #[must_use]
    pub fn f(&self) -> &'static str {
        match self {
            Request::Write(command) => f_of(&command.ask),
            Request::Tick { .. } => "tick",
            Request::GetResource { .. } => "get_resource",
            Request::GetLease { .. } => "get_lease",
        }
    }

    /// The fields of its value, in the order in which they are written.
    #[must_use]
    pub fn fields(&self) -> Fields<'static> {
        match self {
            Request::Write(command) => command_fields(command),
            Request::Tick { slot } => Fields { slot: Some(slot.0), ..Fields::default() },
            Request::GetResource { resource, fence } => {
                Fields { resource: text(resource), fence: fence.map(Lsn::get), ..Fields::default() }
            }
            Request::GetLease { lease, slot, fence } => Fields {
                lease: text(lease),
                slot: Some(slot.0),
                fence: fence.map(Lsn::get),
                ..Fields::default()
            },
        }
    }

    /// Reads what was recorded.
    ///
    /// # Errors
    /// What is wrong with the word or the value.
    pub fn parse(f: &str, fields: &Fields<'_>) -> Result<Self, Problem> {
        let fence = fields.fence.map(Lsn);
        match f {
            "tick" => Ok(Request::Tick { slot: Slot(number("slot", fields.slot)?) }),
            "get_resource" => {
                Ok(Request::GetResource { resource: id("resource", fields.resource.as_ref())?, fence })
            }
            "get_lease" => Ok(Request::GetLease {
                lease: id("lease", fields.lease.as_ref())?,
                slot: Slot(number("slot", fields.slot)?),
                fence,
            }),
            _ => {
                let command = parse_command(f, fields)?;
                command.operation.ok_or_else(|| missing("op"))?;
                Ok(Request::Write(command))
            }
        }
    }

    /// What a checker makes of it.
    #[must_use]
    pub fn call(&self) -> Call<LeaseModel> {
        match self {
            Request::Write(command) => Call::Command(command.clone()),
            Request::Tick { slot } => Call::Sweep(*slot),
            Request::GetResource { .. } | Request::GetLease { .. } => Call::Look,
        }
    }

    /// What a checker makes of what became of it.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn completion(&self, kind: Kind, fields: &Fields<'_>) -> Result<Completion<LeaseModel>, Problem> {
        unanswered(kind, fields).unwrap_or_else(|| self.answered(fields))
    }

    fn answered(&self, fields: &Fields<'_>) -> Result<Completion<LeaseModel>, Problem> {
        let is_read = matches!(self, Request::GetResource { .. } | Request::GetLease { .. });
        if let Some(words) = fields.error.as_ref().filter(|_| is_read) {
            let sight = Sight::Nonsense { words: words.clone().into_owned() };
            return Ok(Completion::Saw { sight, not_before: None });
        }
        match self {
            Request::Write(_) => executed(fields),
            Request::Tick { slot } => match (number("processed", fields.processed)?, fields.last_lsn) {
                (0, _) => Ok(Completion::Saw { sight: Sight::NothingDue { slot: *slot }, not_before: None }),
                (count, Some(last)) if last >= count => {
                    Ok(Completion::Swept { first: last - count + 1, count })
                }
                (count, last) => Err(format!("`value.last_lsn`: expected at least {count}, found {last:?}")),
            },
            Request::GetResource { resource, fence } => {
                let seen = match &fields.state {
                    Some(state) if state == "not_found" => None,
                    state => Some(ResourceView {
                        state: word("state", state.as_ref(), ResourceState::from_word)?,
                        lease: fields.lease.as_ref().map(|lease| id("lease", Some(lease))).transpose()?,
                        version: number("version", fields.version)?,
                    }),
                };
                let sight = Sight::Resource { resource: *resource, seen };
                Ok(Completion::Saw { sight, not_before: fence.map(Lsn::get) })
            }
            Request::GetLease { lease, slot, fence } => {
                let seen = match &fields.state {
                    Some(state) if state == "not_found" => LeaseSeen::NotFound,
                    Some(state) if state == "retired" => LeaseSeen::Retired,
                    state => LeaseSeen::Found(Box::new(LeaseView {
                        holder: id("holder", fields.holder.as_ref())?,
                        epoch: LeaseEpoch(number("epoch", fields.epoch)?),
                        state: word("state", state.as_ref(), LeaseState::from_word)?,
                        created: Lsn(number("created", fields.created)?),
                        deadline: Slot(number("deadline", fields.deadline)?),
                        released: fields.released.map(Lsn),
                        retire_after: fields.retire_after.map(Slot),
                        members: ids("members", fields.members.as_ref())?,
                    })),
                };
                let sight = Sight::Lease { lease: *lease, slot: *slot, seen };
                Ok(Completion::Saw { sight, not_before: fence.map(Lsn::get) })
            }
        }
    }
}

/// What a checker makes of what became of a write, whichever it was.
///
/// # Errors
/// What is wrong with the value.
pub fn write_completion(kind: Kind, fields: &Fields<'_>) -> Result<Completion<LeaseModel>, Problem> {
    unanswered(kind, fields).unwrap_or_else(|| executed(fields))
}

/// How the errors of a replica begin that has looked at a command and rejects it for good: not only was this request not
/// executed, none before it under the same operation and slot was, either.
const REJECTIONS: [&str; 3] = ["InvalidRequest", "SlotOverflow", "CommandTooLarge"];

/// Whether this is what a replica says that has looked at a command and rejects it for good.
#[must_use]
pub fn is_rejection(error: &str) -> bool {
    REJECTIONS.iter().any(|rejection| error.starts_with(rejection))
}

/// A completion without a definite answer.
fn unanswered(kind: Kind, fields: &Fields<'_>) -> Option<Result<Completion<LeaseModel>, Problem>> {
    match kind {
        Kind::Invoke => Some(Err("`type`: expected ok, fail or info, found invoke".to_owned())),
        Kind::Info => Some(Ok(Completion::Info)),
        Kind::Fail => Some(Ok(match (fields.required, &fields.error) {
            (Some(required), Some(error)) if error == "fence_not_applied" => {
                Completion::Behind { required, applied: fields.last_applied.unwrap_or(0) }
            }
            _ => Completion::Fail,
        })),
        Kind::Ok => None,
    }
}

fn executed(fields: &Fields<'_>) -> Result<Completion<LeaseModel>, Problem> {
    let place = number("lsn", fields.lsn)?;
    let code = word("code", fields.code.as_ref(), Code::from_word)?;
    if code == Code::OperationConflict {
        return Ok(Completion::Conflict { place });
    }
    let lease = fields.lease.as_ref().map(|lease| id("lease", Some(lease))).transpose()?;
    let (epoch, deadline) = (fields.epoch.map(LeaseEpoch), fields.deadline.map(Slot));
    Ok(Completion::At { place, answer: Answer { code, lease, epoch, deadline } })
}

fn f_of(ask: &Ask) -> &'static str {
    match ask {
        Ask::Create { .. } => "create_resource",
        Ask::Reserve { .. } => "reserve",
        Ask::ReserveBundle { .. } => "reserve_bundle",
        Ask::Confirm { .. } => "confirm",
        Ask::Release { .. } => "release",
        Ask::Revoke { .. } => "revoke",
        Ask::Reclaim { .. } => "reclaim",
        Ask::Expire { .. } => "expire",
    }
}

/// The value of a command, without the word of its operation.
#[must_use]
pub fn command_fields(command: &Command) -> Fields<'static> {
    let fields =
        Fields { op: command.operation.and_then(text), slot: Some(command.slot.0), ..Fields::default() };
    let claim = |lease: &ReservationId, holder: &HolderId, epoch: &LeaseEpoch| Fields {
        lease: text(lease),
        holder: text(holder),
        epoch: Some(epoch.0),
        ..fields.clone()
    };
    match &command.ask {
        Ask::Create { resource } => Fields { resource: text(resource), ..fields },
        Ask::Reserve { resource, holder, ttl } => {
            Fields { resource: text(resource), holder: text(holder), ttl: Some(*ttl), ..fields }
        }
        Ask::ReserveBundle { resources, holder, ttl } => Fields {
            resources: Some(resources.iter().filter_map(text).collect()),
            holder: text(holder),
            ttl: Some(*ttl),
            ..fields
        },
        Ask::Confirm { lease, holder, epoch } | Ask::Release { lease, holder, epoch } => {
            claim(lease, holder, epoch)
        }
        Ask::Revoke { lease } | Ask::Reclaim { lease } => Fields { lease: text(lease), ..fields },
        Ask::Expire { lease, deadline } => {
            Fields { lease: text(lease), deadline: Some(deadline.0), ..fields }
        }
    }
}

/// Reads a command; one without an operation id is the database's own.
///
/// # Errors
/// What is wrong with the word or the value.
pub fn parse_command(f: &str, fields: &Fields<'_>) -> Result<Command, Problem> {
    let lease = || id::<ReservationId>("lease", fields.lease.as_ref());
    let holder = || id::<HolderId>("holder", fields.holder.as_ref());
    let epoch = || number("epoch", fields.epoch).map(LeaseEpoch);
    let ask = match f {
        "create_resource" => Ask::Create { resource: id("resource", fields.resource.as_ref())? },
        "reserve" => Ask::Reserve {
            resource: id("resource", fields.resource.as_ref())?,
            holder: holder()?,
            ttl: number("ttl", fields.ttl)?,
        },
        "reserve_bundle" => Ask::ReserveBundle {
            resources: ids("resources", fields.resources.as_ref())?,
            holder: holder()?,
            ttl: number("ttl", fields.ttl)?,
        },
        "confirm" => Ask::Confirm { lease: lease()?, holder: holder()?, epoch: epoch()? },
        "release" => Ask::Release { lease: lease()?, holder: holder()?, epoch: epoch()? },
        "revoke" => Ask::Revoke { lease: lease()? },
        "reclaim" => Ask::Reclaim { lease: lease()? },
        "expire" => Ask::Expire { lease: lease()?, deadline: Slot(number("deadline", fields.deadline)?) },
        other => return Err(format!("`f`: expected an operation on leases, found {other:?}")),
    };
    let operation = fields.op.as_ref().map(|op| id::<OperationId>("op", Some(op))).transpose()?;
    Ok(Command { operation, slot: Slot(number("slot", fields.slot)?), ask })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<Command> {
        let (lease, holder, epoch) = (ReservationId(u128::MAX), HolderId(7), LeaseEpoch(2));
        let asks = [
            Ask::Create { resource: ResourceId(5) },
            Ask::Reserve { resource: ResourceId(5), holder, ttl: 8 },
            Ask::ReserveBundle { resources: vec![ResourceId(5), ResourceId(6)], holder, ttl: 8 },
            Ask::Confirm { lease, holder, epoch },
            Ask::Release { lease, holder, epoch },
            Ask::Revoke { lease },
            Ask::Reclaim { lease },
            Ask::Expire { lease, deadline: Slot(9) },
        ];
        let command = |ask| Command { operation: Some(OperationId(77)), slot: Slot(640), ask };
        asks.into_iter().map(command).collect()
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        for command in commands() {
            let request = Request::Write(command.clone());
            let json = serde_json::to_string(&request.fields()).unwrap();
            let fields: Fields<'_> = serde_json::from_str(&json).unwrap();
            assert_eq!(Request::parse(request.f(), &fields), Ok(request), "{json}");
        }
        let fence = Some(Lsn(4));
        for request in [
            Request::Tick { slot: Slot(3) },
            Request::GetResource { resource: ResourceId(5), fence: None },
            Request::GetLease { lease: ReservationId(5), slot: Slot(3), fence },
        ] {
            assert_eq!(Request::parse(request.f(), &request.fields()), Ok(request));
        }
        let json = serde_json::to_string(&Request::Write(commands().swap_remove(1)).fields()).unwrap();
        assert_eq!(json, r#"{"op":"77","resource":"5","holder":"7","ttl":8,"slot":640}"#);
    }

    #[test]
    fn digits_make_the_number_that_they_spell() {
        for number in
            [0, 7, u128::from(u64::MAX), 10_u128.pow(19), 10_u128.pow(37) + 10_u128.pow(18), u128::MAX]
        {
            assert_eq!(digits(&number.to_string()), Some(number));
        }
        let long = "9".repeat(38);
        assert_eq!((digits(&long), digits("007")), (long.parse().ok(), Some(7)));
        let zeros = format!("{}5", "0".repeat(60));
        assert_eq!((digits(&zeros), digits(&format!("{}0", u128::MAX))), (Some(5), None));
        assert_eq!((digits(""), digits("+1"), digits("1 ")), (None, None, None));
    }

    #[test]
    fn what_is_wrong_with_a_value_is_named() {
        let problem =
            |f: &str, json: &str| Request::parse(f, &serde_json::from_str(json).unwrap()).unwrap_err();
        assert_eq!(problem("reserve", r#"{"op":"1"}"#), "`value.resource`: expected, found nothing");
        assert_eq!(
            problem("revoke", r#"{"op":"1","lease":"-3","slot":1}"#),
            "`value.lease`: expected a string of decimal digits for 128 bits, found \"-3\""
        );
        assert_eq!(problem("revoke", r#"{"lease":"3","slot":1}"#), "`value.op`: expected, found nothing");
        assert_eq!(problem("dance", "{}"), "`f`: expected an operation on leases, found \"dance\"");
        let unknown = serde_json::from_str::<Fields<'_>>(r#"{"colour":1}"#).unwrap_err().to_string();
        assert!(unknown.starts_with("unknown field `colour`"), "{unknown}");
    }
}
