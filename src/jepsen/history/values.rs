//! The values of a history line: how each is written and, right below, how it is read. Leans on the types of the
//! history; which values a line has, and under which keys, is left to `write` and `decode`.

use std::fmt::{self, Display};

use crate::ids::{HolderId, Lsn, ReservationId, ResourceId, Slot};

use super::super::words::Word;
use super::{Expired, ReservationState, ResourceState};

/// A value, or a piece of one, that is not what belongs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misread<'a> {
    /// The part that is wrong.
    pub(super) quoted: &'a str,
    /// What belongs there.
    pub(super) expected: &'static str,
}

impl<'a> Misread<'a> {
    fn new(quoted: &'a str, expected: &'static str) -> Self {
        Self { quoted, expected }
    }
}

/// Reads one word of a list.
pub(super) fn parse_word<W: Word>(text: &str) -> Result<W, Misread<'_>> {
    W::from_word(text).ok_or(Misread::new(text, W::EXPECTED))
}

/// The widths of numbers. In text all are decimal digits, at least one, after at most one `+`; zeros in front are fine.
pub(super) trait Number: Sized {
    const EXPECTED: &'static str;

    fn from_digits(text: &str) -> Option<Self>;
}

impl Number for u32 {
    const EXPECTED: &'static str = "an unsigned 32-bit number";

    fn from_digits(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Number for u64 {
    const EXPECTED: &'static str = "an unsigned 64-bit number";

    /// Whatever is not plainly digits that fit is left to the library.
    fn from_digits(text: &str) -> Option<Self> {
        short_number(text.as_bytes()).or_else(|| text.parse().ok())
    }
}

impl Number for u128 {
    const EXPECTED: &'static str = "an unsigned 128-bit number";

    /// Most numbers are short, and arithmetic on half the width is several times as fast.
    fn from_digits(text: &str) -> Option<Self> {
        short_number(text.as_bytes()).map(u128::from).or_else(|| text.parse().ok())
    }
}

/// Reads up to nineteen digits, which always fit.
fn short_number(mut text: &[u8]) -> Option<u64> {
    if !(1..=19).contains(&text.len()) {
        return None;
    }
    let mut number = 0;
    while let Some((eight, rest)) = text.split_first_chunk::<8>() {
        number = number * 100_000_000 + eight_digits(*eight)?;
        text = rest;
    }
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + u64::from(digit);
    }
    Some(number)
}

/// Reads eight digits at once: neighbours are joined to numbers of two, four and eight digits, each time in all places.
fn eight_digits(text: [u8; 8]) -> Option<u64> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let bytes = u64::from_le_bytes(text);
    let has_high_half_of_digits = |bytes: u64| bytes & (EACH * 0xF0) == EACH * 0x30;
    if !has_high_half_of_digits(bytes) || !has_high_half_of_digits(bytes.wrapping_add(EACH * 6)) {
        return None;
    }
    let ones = bytes & (EACH * 0x0F);
    let twos = (ones.wrapping_mul(10 << 8 | 1) >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = (twos.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_FFFF_0000_FFFF;
    Some(fours.wrapping_mul(10_000 << 32 | 1) >> 32)
}

/// Reads a number, wrapped in the type it stands for.
pub(super) fn parse_number<N: Number, T: From<N>>(text: &str) -> Result<T, Misread<'_>> {
    N::from_digits(text).map(T::from).ok_or(Misread::new(text, N::EXPECTED))
}

/// An LSN that may be unknown.
pub(super) struct LsnOrNone(pub(super) Option<Lsn>);

impl Display for LsnOrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(lsn) => write!(f, "{lsn}"),
            None => write!(f, "none"),
        }
    }
}

pub(super) fn parse_lsn_or_none(text: &str) -> Result<Option<Lsn>, Misread<'_>> {
    match text {
        "none" => Ok(None),
        digits => match u64::from_digits(digits) {
            Some(lsn) => Ok(Some(Lsn(lsn))),
            None => Err(Misread::new(text, "an unsigned 64-bit number or `none`")),
        },
    }
}

/// Written as ids with commas between them.
pub(super) struct ResourceList<'a>(pub(super) &'a [ResourceId]);

impl Display for ResourceList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, self.0, |f, resource| write!(f, "{resource}"))
    }
}

/// Reads a list of resources to the end of `list`. An empty text is an empty list.
pub(super) fn parse_resource_list<'a>(text: &'a str, list: &mut Vec<ResourceId>) -> Result<(), Misread<'a>> {
    for piece in pieces(text) {
        let resource = u128::from_digits(piece)
            .ok_or(Misread::new(text, "unsigned 128-bit numbers with one comma between them"))?;
        list.push(ResourceId(resource));
    }
    Ok(())
}

/// What a tick expired.
pub(super) struct ExpiredList<'a>(pub(super) &'a [Expired]);

impl Display for ExpiredList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, self.0, |f, entry| {
            let Expired { resource_id, holder_id, reservation_id, released_lsn } = *entry;
            write!(f, "{resource_id}:{holder_id}:{reservation_id}:{}", LsnOrNone(released_lsn))
        })
    }
}

/// Reads what a tick expired. Whatever is wrong with an entry, all of the entry is quoted.
pub(super) fn parse_expired_list(text: &str) -> Result<Vec<Expired>, Misread<'_>> {
    pieces(text)
        .map(|entry| {
            parse_expired(entry).ok_or(Misread::new(
                entry,
                "entries `<resource>:<holder>:<reservation>:<released lsn or none>`",
            ))
        })
        .collect()
}

fn parse_expired(entry: &str) -> Option<Expired> {
    let [resource, holder, reservation, lsn] = exactly(entry)?;
    Some(Expired {
        resource_id: ResourceId(u128::from_digits(resource)?),
        holder_id: HolderId(u128::from_digits(holder)?),
        reservation_id: ReservationId(u128::from_digits(reservation)?),
        released_lsn: parse_lsn_or_none(lsn).ok()?,
    })
}

impl Display for ResourceState {
    /// Writes the state as a history line has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available => write!(f, "available"),
            Self::Reserved { holder_id, reservation_id, expires_at_slot } => {
                write!(f, "reserved:{holder_id}:{reservation_id}:{expires_at_slot}")
            }
            Self::Confirmed { holder_id, reservation_id } => {
                write!(f, "confirmed:{holder_id}:{reservation_id}")
            }
        }
    }
}

/// Reads the state of a resource. A bad number is quoted alone, anything else with the whole value.
pub(super) fn parse_resource_state(text: &str) -> Result<ResourceState, Misread<'_>> {
    if text == "available" {
        return Ok(ResourceState::Available);
    }
    if let Some(["reserved", holder, reservation, slot]) = exactly(text) {
        return Ok(ResourceState::Reserved {
            holder_id: parse_number::<u128, HolderId>(holder)?,
            reservation_id: parse_number::<u128, ReservationId>(reservation)?,
            expires_at_slot: parse_number::<u64, Slot>(slot)?,
        });
    }
    if let Some(["confirmed", holder, reservation]) = exactly(text) {
        return Ok(ResourceState::Confirmed {
            holder_id: parse_number::<u128, HolderId>(holder)?,
            reservation_id: parse_number::<u128, ReservationId>(reservation)?,
        });
    }
    Err(Misread::new(
        text,
        "`available`, `reserved:<holder>:<reservation>:<expires at slot>` or `confirmed:<holder>:<reservation>`",
    ))
}

impl Display for ReservationState {
    /// Writes the state as a history line has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => write!(f, "not_found"),
            Self::Retired => write!(f, "retired"),
            Self::Active { resource_id, holder_id, expires_at_slot, confirmed } => {
                write!(f, "active:{resource_id}:{holder_id}:{expires_at_slot}:{confirmed}")
            }
            Self::Released { resource_id, holder_id, released_lsn } => {
                write!(f, "released:{resource_id}:{holder_id}:{}", LsnOrNone(*released_lsn))
            }
        }
    }
}

/// Reads the state of a lease. A bad number or truth value is quoted alone, anything else with the whole value.
pub(super) fn parse_reservation_state(text: &str) -> Result<ReservationState, Misread<'_>> {
    match text {
        "not_found" => return Ok(ReservationState::NotFound),
        "retired" => return Ok(ReservationState::Retired),
        _ => {}
    }
    if let Some(["active", resource, holder, slot, confirmed]) = exactly(text) {
        return Ok(ReservationState::Active {
            resource_id: parse_number::<u128, ResourceId>(resource)?,
            holder_id: parse_number::<u128, HolderId>(holder)?,
            expires_at_slot: parse_number::<u64, Slot>(slot)?,
            confirmed: parse_truth(confirmed)?,
        });
    }
    if let Some(["released", resource, holder, lsn]) = exactly(text) {
        return Ok(ReservationState::Released {
            resource_id: parse_number::<u128, ResourceId>(resource)?,
            holder_id: parse_number::<u128, HolderId>(holder)?,
            released_lsn: parse_lsn_or_none(lsn)?,
        });
    }
    Err(Misread::new(
        text,
        "`not_found`, `retired`, `active:<resource>:<holder>:<expires at slot>:<confirmed>` or \
         `released:<resource>:<holder>:<released lsn or none>`",
    ))
}

fn parse_truth(text: &str) -> Result<bool, Misread<'_>> {
    text.parse().map_err(|_| Misread::new(text, "`true` or `false`"))
}

/// The pieces of a list; an empty text has none, while `,` has two empty ones.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').take(if text.is_empty() { 0 } else { usize::MAX })
}

/// The pieces between colons if there are exactly `N`.
fn exactly<const N: usize>(text: &str) -> Option<[&str; N]> {
    let mut split = text.split(':');
    let mut pieces = [""; N];
    for piece in &mut pieces {
        *piece = split.next()?;
    }
    split.next().is_none().then_some(pieces)
}

fn joined<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            write!(f, ",")?;
        }
        write(f, item)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples::Numbers;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_survives_its_text(
            resource in Numbers::all().resource_state(),
            reservation in Numbers::all().reservation_state(),
            expired in vec(Numbers::all().expired(), 0..4),
            members in vec(any::<u128>().prop_map(ResourceId), 0..4),
            lsn in proptest::option::of(any::<u64>().prop_map(Lsn)),
        ) {
            let text = resource.to_string();
            prop_assert_eq!(parse_resource_state(&text), Ok(resource));
            let text = reservation.to_string();
            prop_assert_eq!(parse_reservation_state(&text), Ok(reservation));
            let text = ExpiredList(&expired).to_string();
            prop_assert_eq!(parse_expired_list(&text), Ok(expired));
            let text = ResourceList(&members).to_string();
            let mut list = Vec::new();
            prop_assert_eq!(parse_resource_list(&text, &mut list), Ok(()));
            prop_assert_eq!(list, members);
            let text = LsnOrNone(lsn).to_string();
            prop_assert_eq!(parse_lsn_or_none(&text), Ok(lsn));
        }

        #[test]
        fn short_and_long_numbers_are_read_alike(text in "[+-]?[0-9]{0,40}") {
            prop_assert_eq!(u128::from_digits(&text), text.parse().ok());
            prop_assert_eq!(u64::from_digits(&text), text.parse().ok());
        }

        #[test]
        fn what_stands_beside_digits_is_none_of_them(digits in "[0-9]{1,20}", at in 0_usize..20, other in "[/:;*\u{1}\u{7f}]|é") {
            let mut text = digits;
            text.insert_str(at.min(text.len()), &other);
            prop_assert_eq!(u64::from_digits(&text), text.parse().ok());
        }
    }

    #[test]
    fn a_state_of_another_shape_is_quoted_whole_and_a_bad_piece_alone() {
        for (text, quoted) in [
            ("Available", "Available"),
            ("available:", "available:"),
            ("reserved:1:2", "reserved:1:2"),
            ("reserved:1:2:3:4", "reserved:1:2:3:4"),
            ("reserved:a:b:c", "a"),
            ("reserved:1:2:none", "none"),
            ("confirmed:1:", ""),
            ("confirmed:1:2:3", "confirmed:1:2:3"),
        ] {
            assert_eq!(parse_resource_state(text).unwrap_err().quoted, quoted, "{text:?}");
        }
        for (text, quoted) in [
            ("not_found:", "not_found:"),
            ("available", "available"),
            ("active:1:2:3", "active:1:2:3"),
            ("active:1:2:3:True", "True"),
            ("active:1:2:3:1", "1"),
            ("active:1:-2:x:y", "-2"),
            ("released:1:2", "released:1:2"),
            ("released:1:2:", ""),
            ("released:1:x:none", "x"),
        ] {
            assert_eq!(parse_reservation_state(text).unwrap_err().quoted, quoted, "{text:?}");
        }
        assert_eq!(
            parse_reservation_state("released:1:2:none"),
            Ok(ReservationState::Released {
                resource_id: ResourceId(1),
                holder_id: HolderId(2),
                released_lsn: None
            })
        );
    }
}
