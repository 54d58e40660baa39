//! Finding recordings in a folder and reading them. Every file that a case needs and does not have is an error that names
//! it, so that an incomplete recording is never taken for one that agrees.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The files of a folder, by name, in order. Folders in it are left out.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>> {
    names(folder, |kind| kind.is_file())
}

/// The folders in a folder, by name, in order.
pub(crate) fn folder_names(folder: &Path) -> Result<Vec<String>> {
    names(folder, |kind| kind.is_dir())
}

fn names(folder: &Path, wanted: impl Fn(std::fs::FileType) -> bool) -> Result<Vec<String>> {
    let failed = || format!("failed to read the folder {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        // Links count as what they lead to.
        if wanted(std::fs::metadata(entry.path()).with_context(failed)?.file_type()) {
            match entry.file_name().into_string() {
                Ok(name) => names.push(name),
                Err(name) => bail!("{}: the name {} is not UTF-8", folder.display(), name.display()),
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Every file and folder below a folder, by its path from there, in order.
pub(crate) fn tree(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let place = root.join(&folder);
        found.extend(file_names(&place)?.into_iter().map(|name| folder.join(name)));
        for name in folder_names(&place)? {
            found.push(folder.join(&name));
            folders.push(folder.join(&name));
        }
    }
    found.sort();
    Ok(found)
}

/// The names of a folder's cases: its files that end in a certain way, without that ending.
pub(crate) fn case_names(folder: &Path, ending: &str) -> Result<Vec<String>> {
    let names = file_names(folder)?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(ending)).map(str::to_owned).collect())
}

/// The bytes of a recording.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("the recording is incomplete: {}", path.display()))
}

/// A recording that is text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let text = String::from_utf8(read(path)?);
    text.with_context(|| format!("{} is no text", path.display()))
}

/// The exit status in a recording: a decimal number and a line end.
pub(crate) fn recorded_status(bytes: &[u8]) -> Result<i32> {
    let text = String::from_utf8_lossy(bytes);
    text.trim().parse().with_context(|| format!("expected an exit status, found {text:?}"))
}

/// A recorded message without the line end behind it.
pub(crate) fn sentence(recorded: &[u8]) -> &[u8] {
    recorded.strip_suffix(b"\n").unwrap_or(recorded)
}

/// The bytes of a recording in hexadecimal: pairs of digits between white space.
pub(crate) fn from_hex(text: &str) -> Result<Vec<u8>> {
    text.split_ascii_whitespace()
        .map(|pair| {
            let is_pair = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            let byte = u8::from_str_radix(pair, 16).ok().filter(|_| is_pair);
            byte.with_context(|| format!("expected two hexadecimal digits, found `{pair}`"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_named_in_order_and_without_their_ending() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.exit", "a.exit", "a.stdout"] {
            std::fs::write(folder.path().join(name), "1\n").unwrap();
        }
        std::fs::create_dir(folder.path().join("c.exit")).unwrap();
        assert_eq!(case_names(folder.path(), ".exit").unwrap(), ["a", "b"]);
        assert_eq!(folder_names(folder.path()).unwrap(), ["c.exit"]);
        let missing = read(&folder.path().join("a.stderr")).unwrap_err().to_string();
        assert!(missing.starts_with("the recording is incomplete: "), "{missing}");
    }

    #[test]
    fn small_texts_are_read_strictly() {
        assert_eq!(recorded_status(b"1\n").unwrap(), 1);
        assert!(recorded_status(b"one\n").is_err());
        assert_eq!(sentence(b"no\n\n"), b"no\n");
        assert_eq!(from_hex("01 ff\n00\n").unwrap(), [1, 255, 0]);
        assert!(from_hex("1 ff").is_err());
        assert!(from_hex("+1").is_err());
    }
}
