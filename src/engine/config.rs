//! Limits of an engine.

/// Limits of an engine; each is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Commands that may wait; also the most prepared entries a replica keeps.
    pub max_submission_queue: u32,
    /// Bytes of one encoded command.
    pub max_command_bytes: u64,
    /// Expire commands of one tick.
    pub max_expirations_per_tick: u32,
}

/// A limit that is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} is 0, expected at least 1")]
pub struct EngineConfigError {
    /// Name of the setting.
    pub field: &'static str,
}

impl EngineConfig {
    /// Checks that every limit allows something.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), EngineConfigError> {
        let limits = [
            ("max_submission_queue", u64::from(self.max_submission_queue)),
            ("max_command_bytes", self.max_command_bytes),
            ("max_expirations_per_tick", u64::from(self.max_expirations_per_tick)),
        ];
        match limits.into_iter().find(|(_, limit)| *limit == 0) {
            Some((field, _)) => Err(EngineConfigError { field }),
            None => Ok(()),
        }
    }
}
