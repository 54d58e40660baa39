//! The bundle of a run: history, report, logs, manifest and evidence in one folder that appears whole or not at all.
//!
//! A bundle is built under a temporary name beside its place and renamed when everything is in it and flushed. Who calls
//! decides what goes in; nothing here judges it.

use super::analysis::Report;
use super::evidence::Evidence;
use super::plan::RunSpec;
use crate::build_info::sha256;
use crate::keyvalue::{FieldProblem, Fields};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the history inside a bundle.
pub const HISTORY_FILE: &str = "history.txt";
/// Name of the report inside a bundle.
pub const ANALYSIS_FILE: &str = "analysis.txt";
/// Name of the manifest inside a bundle.
pub const MANIFEST_FILE: &str = "manifest.txt";
/// Name of the evidence inside a bundle.
pub const EVIDENCE_FILE: &str = "evidence.json";

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// By its name in the plan.
    pub run_id: String,
    /// What its clients did.
    pub workload: String,
    /// What happened to the cluster meanwhile.
    pub nemesis: String,
    /// When the bundle was made, in milliseconds since the epoch.
    pub created_at_millis: u128,
    /// File name of the log archive in the bundle.
    pub logs_archive: Option<String>,
    /// Blockers of the report.
    pub blocker_count: u64,
}

impl Manifest {
    /// The text of the file. The key of the log archive is the same for every backend.
    #[must_use]
    pub fn encode(&self) -> String {
        format!(
            "version=1\nrun_id={}\nworkload={}\nnemesis={}\ncreated_at_millis={}\nhistory_file={HISTORY_FILE}\n\
             analysis_file={ANALYSIS_FILE}\nqemu_logs_archive={}\nblocker_count={}\n",
            self.run_id,
            self.workload,
            self.nemesis,
            self.created_at_millis,
            self.logs_archive.as_deref().unwrap_or("none"),
            self.blocker_count
        )
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// A sentence about the first field that is not as it must be.
    pub fn decode(text: &str) -> Result<Self, String> {
        let problem = |problem: FieldProblem| problem.sentence("manifest");
        let fields = Fields::parse(text).map_err(problem)?;
        let version: u32 = fields.parsed("version").map_err(problem)?;
        if version != 1 {
            return Err(format!("unsupported manifest version `{version}`"));
        }
        let text = |key: &str| fields.require(key).map(str::to_owned).map_err(problem);
        Ok(Self {
            run_id: text("run_id")?,
            workload: text("workload")?,
            nemesis: text("nemesis")?,
            created_at_millis: fields.parsed("created_at_millis").map_err(problem)?,
            logs_archive: Some(text("qemu_logs_archive")?).filter(|name| name != "none"),
            blocker_count: fields.parsed("blocker_count").map_err(problem)?,
        })
    }
}

/// Something that writes a history.
pub type WriteHistory<'a> = &'a mut dyn FnMut(&mut dyn io::Write) -> io::Result<()>;

/// What goes into a bundle.
pub struct Bundle<'a> {
    /// The run it is about.
    pub run: &'a RunSpec,
    /// When it is made, in milliseconds since the epoch; part of its name. Counted up where that name is taken.
    pub created_at_millis: u128,
    /// Writes the history. It may be far longer than memory is large.
    pub history: WriteHistory<'a>,
    /// The gate's report on that history.
    pub report: &'a Report,
    /// The log archive, copied under its own file name; `None` if no whole one could be had.
    pub logs_archive: Option<&'a Path>,
    /// What is known of how the evidence came about; the sums of the files are filled in here.
    pub evidence: Evidence,
}

impl Bundle<'_> {
    /// Where a bundle with this name goes.
    #[must_use]
    pub fn place(&self, output_root: &Path) -> PathBuf {
        output_root.join(format!("{}-{}", self.run.id, self.created_at_millis))
    }

    /// Writes the bundle and returns its folder, which is its owner's alone: logs may say more than a verdict does. After a failure nothing of it is left. A bundle that is there already
    /// stays as it is.
    ///
    /// # Errors
    /// What the disk reported.
    pub fn write(mut self, output_root: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(output_root)?;
        while !is_free(&self.place(output_root))? {
            self.created_at_millis = self.created_at_millis.saturating_add(1);
        }
        let place = self.place(output_root);
        let unfinished = tempfile::Builder::new()
            .prefix(&format!(".{}-{}.", self.run.id, self.created_at_millis))
            .suffix(".tmp")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(output_root)?;
        self.fill(unfinished.path())?;
        fs::rename(unfinished.path(), &place)?;
        // It has its name now, so there is nothing left to remove.
        let _ = unfinished.keep();
        sync_folder(output_root)?;
        Ok(place)
    }

    fn fill(mut self, folder: &Path) -> io::Result<()> {
        let logs_name = self.logs_archive.and_then(Path::file_name);
        let logs_name = logs_name.map(|name| name.to_string_lossy().into_owned());
        write_flushed(&folder.join(HISTORY_FILE), self.history)?;
        write_text(&folder.join(ANALYSIS_FILE), &self.report.to_string())?;
        let mut names = vec![HISTORY_FILE.to_owned(), ANALYSIS_FILE.to_owned()];
        if let (Some(archive), Some(name)) = (self.logs_archive, &logs_name) {
            let copy = folder.join(name);
            let mut archive = File::open(archive)?;
            write_flushed(&copy, &mut |out| io::copy(&mut archive, out).map(|_| ()))?;
            names.push(name.clone());
        }
        let manifest = Manifest {
            run_id: self.run.id.to_string(),
            workload: self.run.workload.to_string(),
            nemesis: self.run.nemesis.to_string(),
            created_at_millis: self.created_at_millis,
            logs_archive: logs_name,
            blocker_count: self.report.blockers.len() as u64,
        };
        write_text(&folder.join(MANIFEST_FILE), &manifest.encode())?;
        names.push(MANIFEST_FILE.to_owned());
        for name in names {
            let sum = sha256(File::open(folder.join(&name))?)?;
            self.evidence.files_sha256.insert(name, sum);
        }
        write_text(&folder.join(EVIDENCE_FILE), &self.evidence.to_json())?;
        sync_folder(folder)
    }
}

/// Whether a bundle may take this name: nothing has it, or a folder with nothing in it.
fn is_free(place: &Path) -> io::Result<bool> {
    match fs::read_dir(place) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_text(path: &Path, text: &str) -> io::Result<()> {
    write_flushed(path, &mut |out| out.write_all(text.as_bytes()))
}

fn write_flushed(path: &Path, write: WriteHistory<'_>) -> io::Result<()> {
    let mut file = BufWriter::new(File::options().write(true).create_new(true).mode(0o600).open(path)?);
    write(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(if path.as_os_str().is_empty() { Path::new(".") } else { path })?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::{analysis, evidence::Evidence, plan};
    use super::*;

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let manifest = Manifest {
            run_id: "lease_safety-control".to_owned(),
            workload: "lease_safety".to_owned(),
            nemesis: "none".to_owned(),
            created_at_millis: 1_795_424_428_330,
            logs_archive: Some("lease_safety-control-local-logs.tar.gz".to_owned()),
            blocker_count: 0,
        };
        let text = manifest.encode();
        assert_eq!(
            text,
            "version=1\nrun_id=lease_safety-control\nworkload=lease_safety\nnemesis=none\n\
             created_at_millis=1795424428330\nhistory_file=history.txt\nanalysis_file=analysis.txt\n\
             qemu_logs_archive=lease_safety-control-local-logs.tar.gz\nblocker_count=0\n"
        );
        assert_eq!(Manifest::decode(&text), Ok(manifest.clone()));
        let without = Manifest { logs_archive: None, ..manifest };
        assert_eq!(Manifest::decode(&without.encode()), Ok(without));
    }

    fn write_bundle(logs_archive: &Path, output_root: &Path) -> io::Result<PathBuf> {
        write_bundle_with(Some(logs_archive), output_root)
    }

    fn write_bundle_with(logs_archive: Option<&Path>, output_root: &Path) -> io::Result<PathBuf> {
        let run = &plan::RUNS[0];
        let bundle = Bundle {
            run,
            created_at_millis: 7,
            history: &mut |out| out.write_all(b"version=1\n"),
            report: &analysis::Analyzer::new().finish(),
            logs_archive,
            evidence: Evidence::of_unknown_run("local", run),
        };
        bundle.write(output_root)
    }

    #[test]
    fn a_bundle_holds_its_files_and_their_sums() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("x-local-logs.tar.gz");
        fs::write(&logs, "logs").unwrap();
        let place = write_bundle(&logs, folder.path()).unwrap();
        assert_eq!(place, folder.path().join("reservation_contention-control-7"));
        let evidence = fs::read_to_string(place.join(EVIDENCE_FILE)).unwrap();
        let of_logs = "98f38f12db221a8cf8ca7aadfdcd759b01d52eb4ebb3eedbb2d97e92805c6960";
        assert!(evidence.contains(of_logs), "{evidence}");
        assert_eq!(fs::read_to_string(place.join("x-local-logs.tar.gz")).unwrap(), "logs");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_bundle_without_logs_is_complete_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let place = write_bundle_with(None, folder.path()).unwrap();
        let manifest = Manifest::decode(&fs::read_to_string(place.join(MANIFEST_FILE)).unwrap()).unwrap();
        assert_eq!(manifest.logs_archive, None);
        let evidence = Evidence::from_json(&fs::read_to_string(place.join(EVIDENCE_FILE)).unwrap()).unwrap();
        let named: Vec<&str> = evidence.files_sha256.keys().map(String::as_str).collect();
        assert_eq!(named, [ANALYSIS_FILE, HISTORY_FILE, MANIFEST_FILE]);
    }

    #[test]
    fn a_bundle_takes_the_next_name_that_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("x-local-logs.tar.gz");
        fs::write(&logs, "logs").unwrap();
        let name = |number: u32| folder.path().join(format!("reservation_contention-control-{number}"));
        fs::create_dir(name(7)).unwrap();
        assert_eq!(write_bundle(&logs, folder.path()).unwrap(), name(7));
        fs::write(name(8), "no folder").unwrap();
        let place = write_bundle(&logs, folder.path()).unwrap();
        assert_eq!(place, name(9));
        let manifest = fs::read_to_string(place.join(MANIFEST_FILE)).unwrap();
        assert_eq!(Manifest::decode(&manifest).unwrap().created_at_millis, 9);
        assert!(name(7).join(EVIDENCE_FILE).exists());
    }

    #[test]
    fn a_bundle_that_cannot_be_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.tar.gz");
        assert!(write_bundle(&missing, folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
