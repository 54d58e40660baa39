//! Tells a release build which commit its source is at, where git knows. A debug build is told only what the environment says, so
//! that a commit is no reason to compile it again. Without git, and in an unpacked archive, the commit is unknown.

use std::process::Command;

/// Decides without git, for builds from an archive.
const VARIABLE: &str = "ALLOCDB_BUILD_COMMIT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let told = std::env::var(VARIABLE).ok().filter(|commit| !commit.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = told.or_else(|| is_release.then(commit).flatten());
    if let Some(commit) = commit {
        println!("cargo::rustc-env={VARIABLE}={commit}");
    }
}

/// The commit of the work tree that this package is the top of, with `-dirty` behind it if what is compiled was changed.
fn commit() -> Option<String> {
    let prefix = git(&["rev-parse", "--show-prefix"])?;
    if !prefix.is_empty() {
        return None;
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let compiled = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];
    let changes = git(&[["status", "--porcelain", "--"].as_slice(), &compiled].concat())?;
    // Whatever may change the answer.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // One that is not there would be a reason to ask again each time.
        if let Some(path) =
            git(&["rev-parse", "--git-path", name]).filter(|path| std::path::Path::new(path).exists())
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in compiled {
        println!("cargo::rerun-if-changed={path}");
    }
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let done = Command::new("git").args(arguments).output().ok().filter(|done| done.status.success())?;
    Some(String::from_utf8(done.stdout).ok()?.trim().to_owned())
}
