//! Capacities and windows of an allocator. Fixed for its life: tables are sized from them once, and logs and
//! snapshots written under one configuration replay to the same state only under the same one.

use crate::ids::ShardId;

/// Capacities and windows. [`AllocatorConfig::validate`] says which combinations are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocatorConfig {
    /// High half of every reservation id.
    pub shard_id: ShardId,
    /// Resources there can ever be; they are never removed.
    pub max_resources: u32,
    /// Reservations, live ones and ended ones that are still remembered.
    pub max_reservations: u32,
    /// Resources in one reservation.
    pub max_bundle_size: u32,
    /// Client operations remembered for retries.
    pub max_operations: u32,
    /// Longest time to live, in slots.
    pub max_ttl_slots: u64,
    /// Slots added to the longest time to live to form the window in which an operation is remembered.
    pub max_client_retry_window_slots: u64,
    /// Slots an ended reservation stays readable.
    pub reservation_history_window_slots: u64,
    /// Reservations in one expiration bucket.
    pub max_expiration_bucket_len: u32,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum ConfigError {
    /// A capacity that must be at least 1 is 0.
    #[error("{field} is 0, expected at least 1")]
    ZeroCapacity {
        /// Name of the setting.
        field: &'static str,
    },
    /// More resources in a bundle than there can be.
    #[error("max_bundle_size is {bundle}, expected at most max_resources ({resources})")]
    BundleSizeTooLarge { bundle: u32, resources: u32 },
    /// The history window is longer than the longest time to live.
    #[error("reservation_history_window_slots is {window}, expected at most max_ttl_slots ({ttl})")]
    HistoryWindowTooLarge { window: u64, ttl: u64 },
    /// The sum that forms the operation window does not fit 64 bits.
    #[error("max_ttl_slots + max_client_retry_window_slots ({ttl} + {retry}) does not fit 64 bits")]
    OperationWindowTooLarge { ttl: u64, retry: u64 },
    /// A bucket may hold more reservations than there can be.
    #[error("max_expiration_bucket_len is {bucket}, expected at most max_reservations ({reservations})")]
    BucketTooLarge { bucket: u32, reservations: u32 },
    /// `max_reservations × max_bundle_size` is more than this machine can address.
    #[error("max_reservations x max_bundle_size ({reservations} x {bundle}) does not fit the address width")]
    MemberTableTooLarge { reservations: u32, bundle: u32 },
    /// `max_ttl_slots + 1` expiration buckets cannot be counted or addressed.
    #[error("max_ttl_slots ({ttl}) + 1 expiration buckets do not fit")]
    WheelTooLarge { ttl: u64 },
    /// The machine does not have the memory for a table.
    #[error("not enough memory for the table of {table}")]
    OutOfMemory {
        /// As people read it.
        table: &'static str,
    },
}

impl AllocatorConfig {
    /// Slots after its first execution during which an operation is remembered.
    #[must_use]
    pub fn operation_window(&self) -> u64 {
        self.max_ttl_slots.saturating_add(self.max_client_retry_window_slots)
    }

    /// Resources that all reservations together may list.
    #[must_use]
    pub fn member_capacity(&self) -> u64 {
        u64::from(self.max_reservations) * u64::from(self.max_bundle_size)
    }

    /// Expiration buckets; a deadline belongs to bucket `deadline mod count`.
    #[must_use]
    pub fn bucket_count(&self) -> u64 {
        self.max_ttl_slots.saturating_add(1)
    }

    /// Checks the settings against each other, in the order in which errors are reported.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let capacities = [
            ("max_resources", u64::from(self.max_resources)),
            ("max_reservations", u64::from(self.max_reservations)),
            ("max_operations", u64::from(self.max_operations)),
            ("max_bundle_size", u64::from(self.max_bundle_size)),
            ("max_ttl_slots", self.max_ttl_slots),
            ("max_expiration_bucket_len", u64::from(self.max_expiration_bucket_len)),
        ];
        if let Some((field, _)) = capacities.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::ZeroCapacity { field });
        }
        if self.max_bundle_size > self.max_resources {
            return Err(ConfigError::BundleSizeTooLarge {
                bundle: self.max_bundle_size,
                resources: self.max_resources,
            });
        }
        if self.reservation_history_window_slots > self.max_ttl_slots {
            return Err(ConfigError::HistoryWindowTooLarge {
                window: self.reservation_history_window_slots,
                ttl: self.max_ttl_slots,
            });
        }
        if self.max_ttl_slots.checked_add(self.max_client_retry_window_slots).is_none() {
            return Err(ConfigError::OperationWindowTooLarge {
                ttl: self.max_ttl_slots,
                retry: self.max_client_retry_window_slots,
            });
        }
        if self.max_expiration_bucket_len > self.max_reservations {
            return Err(ConfigError::BucketTooLarge {
                bucket: self.max_expiration_bucket_len,
                reservations: self.max_reservations,
            });
        }
        if usize::try_from(self.member_capacity()).is_err() {
            return Err(ConfigError::MemberTableTooLarge {
                reservations: self.max_reservations,
                bundle: self.max_bundle_size,
            });
        }
        if self.max_ttl_slots.checked_add(1).is_none() {
            return Err(ConfigError::WheelTooLarge { ttl: self.max_ttl_slots });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> AllocatorConfig {
        AllocatorConfig {
            shard_id: ShardId(0),
            max_resources: 8,
            max_reservations: 8,
            max_bundle_size: 3,
            max_operations: 16,
            max_ttl_slots: 16,
            max_client_retry_window_slots: 8,
            reservation_history_window_slots: 4,
            max_expiration_bucket_len: 8,
        }
    }

    #[test]
    fn windows_and_the_shard_may_be_zero() {
        let config = AllocatorConfig {
            max_client_retry_window_slots: 0,
            reservation_history_window_slots: 0,
            ..valid()
        };
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.operation_window(), 16);
    }

    #[test]
    fn each_rule_is_reported_and_the_first_one_wins() {
        type Change = fn(&mut AllocatorConfig);
        let cases: [(Change, ConfigError); 11] = [
            (|c| c.max_resources = 0, ConfigError::ZeroCapacity { field: "max_resources" }),
            (|c| c.max_reservations = 0, ConfigError::ZeroCapacity { field: "max_reservations" }),
            (|c| c.max_operations = 0, ConfigError::ZeroCapacity { field: "max_operations" }),
            (|c| c.max_bundle_size = 0, ConfigError::ZeroCapacity { field: "max_bundle_size" }),
            (|c| c.max_ttl_slots = 0, ConfigError::ZeroCapacity { field: "max_ttl_slots" }),
            (
                |c| c.max_expiration_bucket_len = 0,
                ConfigError::ZeroCapacity { field: "max_expiration_bucket_len" },
            ),
            (|c| c.max_bundle_size = 9, ConfigError::BundleSizeTooLarge { bundle: 9, resources: 8 }),
            (
                |c| c.reservation_history_window_slots = 17,
                ConfigError::HistoryWindowTooLarge { window: 17, ttl: 16 },
            ),
            (
                |c| c.max_client_retry_window_slots = u64::MAX,
                ConfigError::OperationWindowTooLarge { ttl: 16, retry: u64::MAX },
            ),
            (|c| c.max_expiration_bucket_len = 9, ConfigError::BucketTooLarge { bucket: 9, reservations: 8 }),
            (
                |c| {
                    c.max_client_retry_window_slots = 0;
                    c.max_ttl_slots = u64::MAX;
                },
                ConfigError::WheelTooLarge { ttl: u64::MAX },
            ),
        ];
        for (change, expected) in cases {
            let mut config = valid();
            change(&mut config);
            assert_eq!(config.validate(), Err(expected));
        }
        let both = AllocatorConfig { max_resources: 0, max_operations: 0, ..valid() };
        assert_eq!(both.validate(), Err(ConfigError::ZeroCapacity { field: "max_resources" }));
    }
}
