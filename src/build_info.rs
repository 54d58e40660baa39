//! Which program this is and where it runs: version, commit, features and sum of the executable, what in its environment may
//! make it behave in another way, and the machine. A replica tells it on its control port, the harness writes it into the
//! evidence. What is not known is absent.

use crate::keyvalue::{Fields, or_none};
use crate::planted;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::sync::OnceLock;

/// The commit that the source was at, with `-dirty` behind it if it had been changed; set by the build script.
const COMMIT: Option<&str> = option_env!("ALLOCDB_BUILD_COMMIT");

/// Beginnings of the names of variables that change what a program does without a word of its own command line.
const ODD: [&str; 5] = ["ALLOCDB_", "LD_", "DYLD_", "MALLOC_", "GLIBC_TUNABLES"];

/// Said of the executable's sum while it is made.
const COMPUTING: &str = "computing";

/// A program as it runs somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildInfo {
    /// Version of the package.
    pub version: String,
    /// Commit that it was built from.
    pub commit: Option<String>,
    /// Features that it was built with.
    pub features: Vec<String>,
    /// `release` or `debug`.
    pub profile: String,
    /// SHA-256 of the executable, in hexadecimal.
    pub executable: Executable,
    /// The defect that its environment asks for.
    pub planted_fault: Option<String>,
    /// Variables in its environment that may change what it does, as `NAME=value`.
    pub environment: Vec<String>,
    /// Name and release of the kernel.
    pub kernel: Option<String>,
    /// How many processors it may use.
    pub cpus: Option<u64>,
}

/// The sum of an executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executable {
    /// 64 digits in hexadecimal, in small letters.
    Sha256(String),
    /// It is being made; ask again.
    Computing,
    /// The executable cannot be read.
    Unknown,
}

impl BuildInfo {
    /// This program. The sum of the executable is made now, unless it is known.
    #[must_use]
    pub fn own() -> Self {
        Self::with(executable_sum().map_or(Executable::Unknown, Executable::Sha256))
    }

    /// This program, without waiting: the sum of the executable is made meanwhile.
    #[must_use]
    pub fn own_so_far() -> Self {
        static BEGUN: OnceLock<bool> = OnceLock::new();
        let begun = *BEGUN.get_or_init(|| {
            let thread = std::thread::Builder::new().name("sum".to_owned());
            thread.spawn(executable_sum).is_ok()
        });
        Self::with(match SUM.get() {
            Some(Some(sum)) => Executable::Sha256(sum.clone()),
            None if begun => Executable::Computing,
            Some(None) | None => Executable::Unknown,
        })
    }

    fn with(executable: Executable) -> Self {
        let mut environment: Vec<String> = std::env::vars_os()
            .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
            .filter(|variable| ODD.iter().any(|odd| variable.starts_with(odd)))
            .map(|variable| variable.replace(['\n', '\r'], " "))
            .collect();
        environment.sort();
        let system = rustix::system::uname();
        let words = [system.sysname(), system.release(), system.machine()];
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.filter(|commit| !commit.is_empty()).map(str::to_owned),
            features: if cfg!(feature = "planted-faults") {
                vec!["planted-faults".to_owned()]
            } else {
                Vec::new()
            },
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            executable,
            planted_fault: std::env::var(planted::VARIABLE).ok().filter(|word| !word.is_empty()),
            environment,
            kernel: Some(words.map(|word| word.to_string_lossy()).join(" ")),
            cpus: std::thread::available_parallelism().ok().map(|count| count.get() as u64),
        }
    }

    /// The reply of a control port.
    #[must_use]
    pub fn encode(&self) -> String {
        let listed = |words: &[String]| if words.is_empty() { "none".to_owned() } else { words.join(",") };
        let executable = match &self.executable {
            Executable::Sha256(sum) => sum,
            Executable::Computing => COMPUTING,
            Executable::Unknown => "none",
        };
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        let mut text = format!(
            "status=ok\nversion={}\ncommit={}\nfeatures={}\nprofile={}\nexecutable_sha256={executable}\nplanted_fault={}\n\
             kernel={}\ncpus={}\n",
            self.version,
            or_none(self.commit.as_ref()),
            listed(&self.features),
            self.profile,
            or_none(self.planted_fault.as_deref().map(one_line)),
            or_none(self.kernel.as_deref().map(one_line)),
            or_none(self.cpus),
        );
        for (number, variable) in self.environment.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "environment.{}={}", number + 1, one_line(variable));
        }
        text
    }

    /// Reads such a reply. A program that does not know the question is not known, and so is what it leaves out.
    #[must_use]
    pub fn decode(reply: &[u8]) -> Option<Self> {
        let fields = Fields::parse(std::str::from_utf8(reply).ok()?).ok()?;
        let text = |key: &str| fields.get(key).filter(|value| *value != "none").map(str::to_owned);
        if fields.get("status") != Some("ok") {
            return None;
        }
        let environment = (1..).map_while(|number| text(&format!("environment.{number}"))).collect();
        let features = text("features").unwrap_or_default();
        Some(Self {
            version: text("version")?,
            commit: text("commit"),
            features: features.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            profile: text("profile")?,
            executable: match text("executable_sha256") {
                Some(word) if word == COMPUTING => Executable::Computing,
                Some(sum) => Executable::Sha256(sum),
                None => Executable::Unknown,
            },
            planted_fault: text("planted_fault"),
            environment,
            kernel: text("kernel"),
            cpus: text("cpus").and_then(|count| count.parse().ok()),
        })
    }
}

/// Version, and in brackets what tells builds of one version apart: the first ten digits of the commit, and how it was built.
#[must_use]
pub fn brief() -> String {
    let commit = COMMIT.filter(|commit| !commit.is_empty()).map_or("commit not known".to_owned(), |commit| {
        let (digits, dirty) = commit.split_once('-').map_or((commit, ""), |(digits, _)| (digits, "-dirty"));
        format!("commit {}{dirty}", digits.get(..10).unwrap_or(digits))
    });
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let features = if cfg!(feature = "planted-faults") { ", with planted-faults" } else { "" };
    format!("{} ({commit}, {profile}{features})", env!("CARGO_PKG_VERSION"))
}

static SUM: OnceLock<Option<String>> = OnceLock::new();

fn executable_sum() -> Option<String> {
    // What runs, also when another file has taken its place meanwhile.
    let running = || File::open("/proc/self/exe").or_else(|_| File::open(std::env::current_exe()?));
    SUM.get_or_init(|| running().and_then(sha256).ok()).clone()
}

/// SHA-256 of what can be read, in hexadecimal.
///
/// # Errors
/// Whatever reading fails with.
pub fn sha256(mut from: impl io::Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_back_as_it_told() {
        let own = BuildInfo::own();
        assert!(matches!(&own.executable, Executable::Sha256(sum) if sum.len() == 64), "{own:?}");
        assert_eq!(BuildInfo::decode(own.encode().as_bytes()), Some(own.clone()));
        let odd = BuildInfo {
            commit: Some("abc-dirty".to_owned()),
            features: vec![],
            executable: Executable::Computing,
            planted_fault: Some("reserve-taken".to_owned()),
            environment: vec!["ALLOCDB_X=1".to_owned(), "LD_PRELOAD=/lib/a b.so".to_owned()],
            kernel: None,
            ..own
        };
        assert_eq!(BuildInfo::decode(odd.encode().as_bytes()), Some(odd));
    }

    #[test]
    fn who_does_not_know_the_question_is_not_known() {
        for reply in ["", "status=error\nmessage=unknown control command `build`\n", "status=ok\n", "\u{7}"] {
            assert_eq!(BuildInfo::decode(reply.as_bytes()), None, "{reply}");
        }
    }

    #[test]
    fn the_sum_is_made_in_its_own_time() {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while BuildInfo::own_so_far().executable == Executable::Computing {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(BuildInfo::own_so_far().executable, BuildInfo::own().executable);
    }
}
