//! placeholder
use anyhow::Result;
pub(crate) fn run(_: &[std::path::PathBuf]) -> Result<()> {
    Ok(())
}
