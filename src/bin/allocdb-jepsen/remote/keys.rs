//! Whom a session is with: the key that opens a control guest, and the key by which that is known again.

use super::super::common::{replace_file, temporary_beside};
use super::super::harness_log;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ssh2::{CheckResult, KnownHostFileKind, KnownHosts, Session};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The key must be there, and nobody else may read it.
pub(super) fn check_key(path: &Path) -> Result<()> {
    let found = std::fs::metadata(path);
    let found = found.with_context(|| {
        let path = path.display();
        format!("there is no usable SSH private key at {path}; the testbed's layout names that path: put the key back there")
    })?;
    let mode = found.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "the SSH private key {0} may be read by others (mode {mode:03o}); run: chmod 600 {0}",
        path.display()
    );
    Ok(())
}

/// Compares the key of a host that shook hands with the one of the first contact, which is in that file of known hosts, or writes it
/// there if this is the first.
pub(super) fn check_host(host: &str, file: &Path, session: &Session) -> Result<()> {
    let mut known = session.known_hosts().context("failed to read known hosts")?;
    let is_first = !file.exists();
    if !is_first {
        known
            .read_file(file, KnownHostFileKind::OpenSSH)
            .with_context(|| format!("{} is no file of known hosts", file.display()))?;
    }
    let (key, kind) = session.host_key().ok_or_else(|| anyhow!("control guest {host} showed no host key"))?;
    match known.check(host, key) {
        CheckResult::Match => Ok(()),
        CheckResult::NotFound => {
            known.add(host, key, "", kind.into()).context("failed to note the host key")?;
            ensure!(
                is_first || has_another_name(&known, host)?,
                "control guest {host} is not in {0}, and nobody there has its host key; if the guest was made anew, remove \
                 {0} and the next contact counts as the first, otherwise somebody else answers in its place",
                file.display()
            );
            note_hosts(&known, file)?;
            harness_log::tell(&format!(
                "first contact with control guest {host}: its host key is in {} from now on, and another will be refused",
                file.display()
            ));
            Ok(())
        }
        CheckResult::Mismatch => bail!(
            "control guest {host} has another host key than at the first contact; if it was made anew, remove its line from \
             {}, otherwise somebody else answers in its place",
            file.display()
        ),
        CheckResult::Failure => bail!("the host key of control guest {host} could not be compared"),
    }
}

/// Whether the key of a host is that of another one too, so that it is the same under a new address.
fn has_another_name(known: &KnownHosts, host: &str) -> Result<bool> {
    let hosts = known.hosts().context("failed to read known hosts")?;
    let is_this = |other: &&ssh2::Host| other.name() == Some(host);
    let key = hosts.iter().find(is_this).map(ssh2::Host::key);
    Ok(hosts.iter().any(|other| !is_this(&other) && Some(other.key()) == key))
}

fn note_hosts(known: &KnownHosts, file: &Path) -> Result<()> {
    let lines = known.hosts().context("failed to note the host key")?;
    let lines = lines.iter().map(|host| known.write_string(host, KnownHostFileKind::OpenSSH));
    let lines = lines.collect::<Result<String, _>>().context("failed to note the host key")?;
    replace_file(file, &temporary_beside(file), |out| out.write_all(lines.as_bytes()))
}
