//! How many files and connections this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// More than a replica ever needs, where there is no limit.
const PLENTY: u64 = 4096;

/// Raises the limit on open descriptors as far as this process may, up to what it can use, and returns what it is then.
pub(super) fn raise_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(PLENTY);
    let wanted = limit.maximum.unwrap_or(PLENTY).min(PLENTY);
    if current >= wanted {
        return current;
    }
    limit.current = Some(wanted);
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => wanted,
        Err(error) => {
            log::warn!("event=descriptor_limit_kept limit={current} error={error}");
            current
        }
    }
}
