//! The program that goes into guests from a cloud image, and the libraries that go along if it needs any: in a folder of
//! their own, where no program of the image finds them.
//!
//! Whether they are used is decided in the guest, at its first start. Where the program runs with the image's own libraries
//! it stays as it is. Otherwise a script of its name runs it with those that came along, and tells it its name in
//! [`OWN_PROGRAM_VARIABLE`], because the system takes the loader for the program then.

use super::{GUEST_CLUSTER_PROGRAM, OWN_PROGRAM_VARIABLE};

/// Name of the program there.
const NAME: &str = "allocdb-local-cluster";

/// Folder of libraries and scripts in a guest, and of the program if it runs with them.
const HOME: &str = "/usr/local/lib/allocdb";

const SETTLE: &str = include_str!("guest/settle.sh");
const WRAPPER: &str = include_str!("guest/wrapper.sh");

/// What is copied into guests to be a replica there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestProgram {
    /// What its file holds.
    pub bytes: Vec<u8>,
    /// What it is linked with, if it is not complete in itself.
    pub linked: Option<Linked>,
}

/// What a program is linked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Finds and loads the others.
    pub loader: CarriedFile,
    /// The libraries that it loads.
    pub libraries: Vec<CarriedFile>,
}

/// A file that goes along with a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedFile {
    /// Its name, without a folder.
    pub name: String,
    bytes: Vec<u8>,
}

impl CarriedFile {
    /// A file of this name that holds these bytes.
    ///
    /// # Errors
    /// A phrase on the name, when scripts could not be trusted with it.
    pub fn new(name: &str, bytes: Vec<u8>) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let is_taken = ["settle", "wrapper", NAME].contains(&name);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) || is_taken {
            return Err(format!("has the name {name:?}, expected letters, digits and `+-._`"));
        }
        Ok(Self { name: name.to_owned(), bytes })
    }
}

/// A file in a guest, beside the program itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// Its absolute path in the guest.
    pub path: String,
    /// Its permissions, in octal digits.
    pub mode: &'static str,
    /// The bytes that are written into it.
    pub content: Content,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A script, as it is run.
    Text(String),
    /// A library, byte for byte.
    Binary(Vec<u8>),
}

impl Linked {
    /// The command that decides what the program runs with. It comes before any that needs the program.
    #[must_use]
    pub fn settle_command() -> String {
        format!("{HOME}/settle")
    }

    /// The files that a guest needs for it.
    #[must_use]
    pub fn files(&self) -> Vec<GuestFile> {
        let library = |library: &CarriedFile, mode| GuestFile {
            path: format!("{HOME}/{}", library.name),
            mode,
            content: Content::Binary(library.bytes.clone()),
        };
        let script = |path: String, text: &str| {
            let filled_in = [
                ("@PROGRAM@", GUEST_CLUSTER_PROGRAM),
                ("@HOME@", HOME),
                ("@NAME@", NAME),
                ("@LOADER@", &self.loader.name),
                ("@VARIABLE@", OWN_PROGRAM_VARIABLE),
            ];
            let text =
                filled_in.iter().fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value));
            GuestFile { path, mode: "0755", content: Content::Text(text) }
        };
        let mut files = vec![library(&self.loader, "0755")];
        files.extend(self.libraries.iter().map(|file| library(file, "0644")));
        files.push(script(format!("{HOME}/wrapper"), WRAPPER));
        files.push(script(Self::settle_command(), SETTLE));
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_scripts_cannot_be_trusted_with_are_refused() {
        for name in ["libz.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2"] {
            assert_eq!(CarriedFile::new(name, Vec::new()).unwrap().name, name);
        }
        for name in ["", ".", "..", "a b", "a/b", "a\nb", "$(x)", NAME, "settle", "wrapper"] {
            let why = CarriedFile::new(name, Vec::new()).unwrap_err();
            assert_eq!(why, format!("has the name {name:?}, expected letters, digits and `+-._`"));
        }
    }

    #[test]
    fn libraries_and_scripts_are_in_a_folder_of_their_own() {
        let file = |name: &str| CarriedFile::new(name, name.into()).unwrap();
        let linked = Linked { loader: file("ld.so.2"), libraries: vec![file("libz.so.1")] };
        let files = linked.files();
        let listed: Vec<(&str, &str)> = files.iter().map(|file| (file.path.as_str(), file.mode)).collect();
        assert_eq!(
            listed,
            [
                ("/usr/local/lib/allocdb/ld.so.2", "0755"),
                ("/usr/local/lib/allocdb/libz.so.1", "0644"),
                ("/usr/local/lib/allocdb/wrapper", "0755"),
                ("/usr/local/lib/allocdb/settle", "0755"),
            ]
        );
        assert_eq!(files[1].content, Content::Binary(b"libz.so.1".to_vec()));
        let Content::Text(wrapper) = &files[2].content else { panic!("{:?}", files[2]) };
        assert!(
            wrapper.ends_with(
                "\nALLOCDB_OWN_PROGRAM=/usr/local/bin/allocdb-local-cluster\nexport ALLOCDB_OWN_PROGRAM\n\
                 exec /usr/local/lib/allocdb/ld.so.2 --library-path /usr/local/lib/allocdb \
                 /usr/local/lib/allocdb/allocdb-local-cluster \"$@\"\n"
            ),
            "{wrapper}"
        );
        let Content::Text(settle) = &files[3].content else { panic!("{:?}", files[3]) };
        assert!(!settle.contains('@'), "{settle}");
    }
}
