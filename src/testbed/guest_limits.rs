//! Limits of the cluster inside the guests that a testbed's layout carries in additional fields. Other programs ignore them,
//! and what a layout does not say is standard.

use crate::cluster::layout::Limits;
use crate::keyvalue::{FieldProblem, Fields};
use std::num::NonZeroU32;

/// Their keys, named as in the cluster's own layout.
pub(super) const KEYS: [&str; 4] =
    ["core.max_bundle_size", "core.max_resources", "core.max_reservations", "core.max_expiration_bucket_len"];

/// The limits that a layout states, in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestLimits([Option<NonZeroU32>; KEYS.len()]);

impl GuestLimits {
    /// Room for every run of the gate, one after the other, bundles included.
    #[must_use]
    pub fn for_the_gate() -> Self {
        let mut gate = Limits::GATE;
        Self(Self::of(&mut gate).map(|limit| NonZeroU32::new(*limit)))
    }

    /// Takes them from the fields of a layout.
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldProblem> {
        let mut stated = Self::default();
        for (limit, key) in stated.0.iter_mut().zip(KEYS) {
            *limit = fields.get(key).map(|_| fields.parsed(key)).transpose()?;
        }
        Ok(stated)
    }

    /// The fields that a layout states them with.
    pub(super) fn fields(self) -> impl Iterator<Item = (String, String)> {
        let stated = KEYS.into_iter().zip(self.0);
        stated.filter_map(|(key, limit)| Some((key.to_owned(), limit?.to_string())))
    }

    /// The standard limits with these in their places.
    #[must_use]
    pub fn limits(self) -> Limits {
        let mut limits = Limits::STANDARD;
        for (limit, stated) in Self::of(&mut limits).into_iter().zip(self.0) {
            *limit = stated.map_or(*limit, NonZeroU32::get);
        }
        limits
    }

    fn of(limits: &mut Limits) -> [&mut u32; KEYS.len()] {
        let core = &mut limits.allocator;
        [
            &mut core.max_bundle_size,
            &mut core.max_resources,
            &mut core.max_reservations,
            &mut core.max_expiration_bucket_len,
        ]
    }
}
