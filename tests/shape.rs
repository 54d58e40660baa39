//! The shape of the program: imports point down only, no file is in a cycle with another, and the root of the binary holds
//! nothing but the parse, the dispatch and the exit code.

#[path = "support/imports.rs"]
mod imports;

use imports::{Graph, without_comments};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Parts of one module of the library that still use each other. What is mended goes from this list.
const KNOWN_CIRCLES: &[&[&str]] = &[];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file, without comments and texts.
fn code(path: &Path) -> String {
    without_comments(&fs::read_to_string(path).unwrap())
}

/// Modules of the library in the reading order that `lib.rs` gives, each of which may use those before it.
fn reading_order() -> Vec<String> {
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    let documented = text.lines().filter_map(|line| line.strip_prefix("//! "));
    let names = |line: &str| -> Vec<String> {
        let found = line.match_indices("[`").filter_map(|(at, _)| line[at + 2..].split_once("`]:"));
        found.map(|(name, _)| name.to_owned()).filter(|name| !name.contains('`')).collect()
    };
    documented.flat_map(names).collect()
}

fn graph() -> Graph {
    let (library, binary) = (root().join("lib.rs"), root().join("bin/allocdb-jepsen.rs"));
    Graph::read(&[("allocdb_node", &library), ("bin", &binary)])
}

fn shown(module: &[String]) -> String {
    module[1..].join("/")
}

/// `cargo test --test shape -- --nocapture import_graph` prints it: each file of the package with the files that it uses.
#[test]
fn the_import_graph_has_no_circle() {
    let graph = graph();
    let imports = graph.imports();
    let mut of_file: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    let relative = |module: &[String]| graph.file(module).strip_prefix(root()).unwrap();
    imports
        .iter()
        .for_each(|import| of_file.entry(relative(&import.from)).or_default().push(relative(&import.to)));
    for (file, uses) in &of_file {
        let uses: Vec<String> = uses.iter().map(|used| used.display().to_string()).collect();
        println!("{}: {}", file.display(), uses.join(" "));
    }
    assert!(imports.len() > 800, "only {} imports were seen", imports.len());
    let circles: BTreeSet<BTreeSet<String>> =
        graph.circles().iter().map(|circle| circle.iter().map(|module| shown(module)).collect()).collect();
    let known: BTreeSet<BTreeSet<String>> =
        KNOWN_CIRCLES.iter().map(|circle| circle.iter().map(|name| (*name).to_owned()).collect()).collect();
    let new: Vec<_> = circles.difference(&known).collect();
    assert!(new.is_empty(), "these files import each other: {new:#?}");
    let mended: Vec<_> = known.difference(&circles).collect();
    assert!(mended.is_empty(), "no circles any more, take them from the list: {mended:#?}");
}

#[test]
fn the_library_imports_downward_only() {
    let order = reading_order();
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    let declared: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(
        order.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        declared,
        "lib.rs documents other modules"
    );
    let level = |module: &[String]| order.iter().position(|known| Some(known) == module.get(1));
    for import in graph().imports().iter().filter(|import| import.from[0] != "bin") {
        assert_eq!(import.to[0], import.from[0]);
        let (from, to) = (level(&import.from), level(&import.to));
        assert!(
            to <= from || from.is_none(),
            "{} uses {}, which is above it",
            shown(&import.from),
            shown(&import.to)
        );
    }
}

#[test]
fn what_stores_bytes_knows_no_allocator() {
    let of_storage = |module: &[String]| module[0] == "allocdb_node" && module[1] == "storage";
    let imports = graph().imports();
    let mut used = imports.iter().filter(|import| of_storage(&import.from)).map(|import| &import.to[1]);
    assert!(used.clone().any(|module| module == "ids"), "no imports of storage were seen");
    assert_eq!(used.find(|module| *module == "allocator"), None);
}

#[test]
fn links_that_break_know_no_database() {
    let imports = graph().imports();
    let of_faultnet = |module: &[String]| module[0] == "allocdb_node" && module[1] == "faultnet";
    let used: Vec<_> = imports.iter().filter(|import| of_faultnet(&import.from)).collect();
    assert!(!used.is_empty(), "no imports of faultnet were seen");
    for import in used {
        assert!(of_faultnet(&import.to), "{} uses {}", shown(&import.from), shown(&import.to));
    }
}

#[test]
fn what_judges_histories_knows_no_database() {
    for import in graph().imports() {
        if import.from[0] == "allocdb_node" && ["history", "check"].contains(&import.from[1].as_str()) {
            assert!(
                ["history", "check"].contains(&import.to[1].as_str()),
                "{} uses {}",
                shown(&import.from),
                shown(&import.to)
            );
        }
    }
}

#[test]
fn no_path_attribute_leaves_its_folder() {
    for (file, path) in graph().path_attributes {
        assert!(!path.starts_with('/') && !path.contains(".."), "{}: {path}", file.display());
    }
}

#[test]
fn every_file_with_tests_is_part_of_a_program() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(package.join(name)).unwrap();
    let (all, manifest) = (read("tests/all.rs"), read("Cargo.toml"));
    for entry in fs::read_dir(package.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_file() {
            let is_module = all.lines().any(|line| line == format!("mod {name};"));
            let is_program = manifest.contains(&format!("[[test]]\nname = \"{name}\"\n"));
            assert!(is_module || is_program, "neither tests/all.rs nor Cargo.toml names {}", path.display());
        }
    }
}

/// Targets of `#[path]` attributes in the files below some folders of a package that are below its `src`.
fn borrowed(package: &Path, folders: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| sources(&package.join(folder), &mut files));
    let src = package.join("src");
    let mut borrowed = Vec::new();
    for file in files {
        let code = code(&file);
        for path in code.split("#[path = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            // Inside inline modules a path begins further down, so that any way up to `src` counts.
            let climbs = path.rsplit_once("../").is_some_and(|(_, rest)| rest.starts_with("src/"));
            let whole = file.parent().unwrap().join(path);
            if climbs || plainly(&whole).starts_with(&src) {
                borrowed.push(format!("{}: {path}", file.strip_prefix(package).unwrap().display()));
            }
        }
    }
    borrowed
}

/// A path without `..`, of files that need not be there.
fn plainly(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
        plain
    })
}

#[test]
fn nothing_outside_compiles_files_of_the_package_into_itself() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests", "benches", "examples", "fuzz/fuzz_targets"];
    assert_eq!(borrowed(package, &folders), Vec::<String>::new());
    let planted = tempfile::tempdir().unwrap();
    let deep = planted.path().join("examples/deep");
    fs::create_dir_all(&deep).unwrap();
    for (text, is_found) in [
        ("#[path = \"../../src/bin/allocdb-jepsen/args.rs\"]\nmod args;\n", true),
        ("#[path = \"../../src/bin/allocdb-jepsen\"]\nmod harness { pub mod args; }\n", true),
        ("mod inner { #[path = \"../../../src/lib.rs\"]\nmod lib; }\n", true),
        ("// #[path = \"../../src/lib.rs\"]\n#[path = \"../src.rs\"]\nmod src;\n", false),
        ("#[path = \"../../tests/support/mod.rs\"]\nmod support;\n", false),
    ] {
        fs::write(deep.join("planted.rs"), text).unwrap();
        assert_eq!(borrowed(planted.path(), &["examples"]).len(), usize::from(is_found), "{text}");
    }
}

#[test]
fn a_planted_circle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let circles = |files: &[(&str, &str)]| -> Vec<Vec<String>> {
        let root = folder.path().join("planted");
        let _ = fs::remove_dir_all(&root);
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let graph = Graph::read(&[("planted", &root.join("lib.rs"))]);
        graph.circles().iter().map(|circle| circle.iter().map(|module| shown(module)).collect()).collect()
    };
    let lib = ("lib.rs", "mod one;\n#[path = \"elsewhere/second.rs\"]\npub(crate) mod two;\nmod three;\n");
    let three = ("three/mod.rs", "mod part;\npub use part::Part;\n");
    let part =
        ("three/part.rs", "pub struct Part; // use crate::one::One;\nfn f() { \"crate::one::One\"; }\n");
    let one = ("one.rs", "use crate::two::{self, Two as Other};\npub struct One;\n");
    let two = ("elsewhere/second.rs", "use super::three::Part;\npub struct Two;\n");
    assert!(circles(&[lib, one, two, three, part]).is_empty());
    let none = Vec::<Vec<String>>::new();
    let back = [("one", "two"), ("three", "two")].map(|(a, b)| vec![vec![a.to_owned(), b.to_owned()]]);
    // By a use, by a path in the code, by a name that a third module passes on.
    for (name, text, expected) in [
        ("elsewhere/second.rs", "use crate::{one::One, three};\npub struct Two;\n", &back[0]),
        ("three/part.rs", "pub struct Part;\nfn f() { super::super::two::f() }\n", &back[1]),
        ("elsewhere/second.rs", "#[cfg(test)]\nmod tests { use crate::one::One; }\npub struct Two;\n", &none),
    ] {
        let files = [lib, one, two, three, part].map(|file| if file.0 == name { (name, text) } else { file });
        assert_eq!(circles(&files), *expected, "{text}");
    }
    let passes_on = ("elsewhere/second.rs", "pub use crate::three::Part;\n");
    let takes = ("one.rs", "use crate::two::Part;\npub struct One;\n");
    let returns = ("three/part.rs", "use crate::one::One;\npub struct Part;\n");
    let found = circles(&[lib, takes, passes_on, three, returns]);
    assert!(
        found.iter().flatten().any(|name| name == "one")
            && found.iter().flatten().any(|name| name == "three")
    );
}

/// Which other modules of the binary each of them uses, with the parts that it has.
fn binary_imports() -> BTreeMap<String, BTreeSet<String>> {
    let mut of_module: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for import in graph().imports() {
        if import.from[0] == "bin" && import.to[0] == "bin" && import.from.len() > 1 && import.to.len() > 1 {
            of_module.entry(import.from[1].clone()).or_default().insert(import.to[1].clone());
        }
    }
    of_module
}

#[test]
fn scripts_and_backends_keep_their_distance() {
    let imports = binary_imports();
    let uses = |own: &str, used: &str| imports.get(own).is_some_and(|uses| uses.contains(used));
    // What opens testbeds knows every backend, and else only this.
    let others = ["args", "interrupt", "testbed", "trace"];
    let mut backends: Vec<&str> = imports["backends"].iter().map(String::as_str).collect();
    backends.retain(|name| !others.contains(name));
    backends.push("remote");
    assert!(backends.len() >= 4, "{backends:?}");
    for backend in backends {
        for other in ["scenarios", "nemesis", "stage", "events", "runs", "cluster"] {
            assert!(!uses(backend, other) && !uses(other, backend), "{backend} and {other}");
        }
    }
    for mechanics in ["testbed", "nemesis", "actions", "cluster", "support", "tracker", "sink"] {
        assert!(!uses("scenarios", mechanics), "scenarios uses {mechanics}");
    }
    let folder = root().join("bin/allocdb-jepsen");
    let mut files = Vec::new();
    sources(&folder, &mut files);
    for file in files {
        let code = code(&file);
        for compared in
            ["backend() == ", "backend == ", "action == ", "backend() != ", "backend != ", "action != "]
        {
            assert!(!code.contains(compared), "{} compares what is a word: {compared}", file.display());
        }
    }
}

#[test]
fn a_run_writes_and_keeps_nothing_beside_its_sinks() {
    let folder = root().join("bin/allocdb-jepsen");
    for name in ["runs", "scenarios", "stage", "events", "cluster", "actions", "nemesis", "runtime"] {
        let code = code(&folder.join(format!("{name}.rs")));
        for output in ["stdout", "stderr", "print(", "println!", "fs::write", "File::create"] {
            assert!(!code.contains(output), "{name} has {output}");
        }
        let keeps = code
            .lines()
            .find(|line| line.trim_start().trim_start_matches("pub(crate) ").starts_with("static "));
        assert_eq!(keeps, None, "{name} keeps something for every run of a process");
    }
}

#[test]
fn the_binarys_root_only_parses_dispatches_and_exits() {
    let text = fs::read_to_string(root().join("bin/allocdb-jepsen.rs")).unwrap();
    assert!(text.lines().count() < 120, "{} lines", text.lines().count());
    for line in text.lines() {
        let item = line.trim_start_matches("pub ");
        assert!(!item.starts_with("const ") && !item.starts_with("static "), "{line}");
    }
    let functions: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("fn "))
        .filter_map(|line| line.split('(').next())
        .collect();
    assert_eq!(functions, ["main", "carry_out"]);
}

#[test]
fn only_the_operator_says_what_a_failover_and_a_rejoin_do() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "benches", "examples"]
        .iter()
        .for_each(|folder| sources(&package.join(folder), &mut files));
    // What decides between files, and what makes the files of one replica out of those of another.
    let steps = ["plan_failover", "rewrite_for_failover", "rewrite_for_rejoin", "rewrite_from", "would_lose"];
    let mut users = BTreeSet::new();
    for file in files {
        let name = file.strip_prefix(package).unwrap().to_str().unwrap().to_owned();
        let code = code(&file);
        if name != "tests/shape.rs" && steps.iter().any(|step| code.contains(step)) {
            users.insert(name);
        }
    }
    let is_theirs = |name: &String| {
        name.starts_with("src/operator/")
            || name.starts_with("src/replica/staging/")
            // Without an operator, which is above it: what the files that these make are worth to a node.
            || name == "src/replica/node/tests.rs"
            || name == "tests/integrity.rs"
    };
    assert!(users.iter().any(|name| name.starts_with("src/operator/")), "{users:?}");
    assert!(users.iter().all(is_theirs), "these do what the operator does: {users:?}");
}

/// Words that are no names here: the field has others for what they were used for.
const DIALECT: &[&str] = &[
    "Road",
    "Way",
    "Lesson",
    "Standing",
    "Tie",
    "Wish",
    "Wanted",
    "Told",
    "Life",
    "Peace",
    "Backstage",
    "Cast",
    "backstage",
    "cast",
    "find_cast",
    "complain",
    "foresee",
    "foretell",
    "lower",
    "raise",
    "raised",
    "hurt",
    "mend",
    "mended",
    "awake",
    "is_awake",
    "salvage",
    "put_away",
    "road",
    "Teller",
    "teller",
    "Talk",
    "Hands",
    "Lonely",
    "Manner",
    "lesson",
    "wish",
    "tie",
];

#[test]
fn names_are_the_fields() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]
        .iter()
        .for_each(|folder| sources(&package.join(folder), &mut files));
    let mut found = BTreeSet::new();
    // This file names them all.
    for file in files.iter().filter(|file| !file.ends_with("tests/shape.rs")) {
        let code = code(file);
        let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let dialect = DIALECT.iter().filter(|word| words.contains(*word));
        found.extend(dialect.map(|word| (file.clone(), (*word).to_owned())));
    }
    assert!(found.is_empty(), "the glossary in docs/architecture.md has other words for these: {found:#?}");
}

/// With so few words a doc comment says nothing that a name could not.
const TOO_FEW_WORDS: usize = 2;

#[test]
fn a_doc_comment_says_more_than_two_words() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut terse = BTreeSet::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let is_doc = |line: &str| line.starts_with("///") || line.starts_with("//!");
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_doc(line)) {
            let is_alone =
                (at == 0 || !is_doc(lines[at - 1])) && !lines.get(at + 1).is_some_and(|next| is_doc(next));
            let words = line[3..].split_whitespace().count();
            let points_elsewhere = line[3..].trim_start().starts_with("See ") && words <= 3;
            if is_alone && (words <= TOO_FEW_WORDS || points_elsewhere) {
                terse.insert(format!("{}:{}: {line}", file.display(), at + 1));
            }
        }
    }
    assert!(terse.is_empty(), "say what it means, its unit, bound or source, or nothing: {terse:#?}");
}

/// Words that say nothing by themselves.
const FILLERS: &[&str] = &[
    "a", "an", "the", "which", "its", "his", "their", "it", "this", "that", "these", "those", "of", "is",
    "are", "was", "were", "one", "ones", "what", "who", "whose", "in", "on", "for", "to", "by", "with",
    "and", "or", "as", "has", "have", "be",
];

/// The words of a name or a sentence, in lower case and without the `s` of a plural.
fn words_of(text: &str) -> Vec<String> {
    let mut apart = String::new();
    let mut after_small = false;
    for c in text.chars() {
        if c.is_uppercase() && after_small {
            apart.push(' ');
        }
        after_small = c.is_lowercase() || c.is_ascii_digit();
        apart.push(if c.is_alphanumeric() { c } else { ' ' });
    }
    let words = apart.split_whitespace().map(str::to_lowercase);
    let singular = |word: String| match word.strip_suffix('s') {
        Some(rest) if rest.len() > 2 && !rest.ends_with('s') => rest.to_owned(),
        _ => word,
    };
    words.filter(|word| !FILLERS.contains(&word.as_str())).map(singular).collect()
}

/// The name of the item that a line begins; empty if it begins none.
fn name_in(line: &str) -> &str {
    let keywords =
        ["const", "static", "async", "fn", "struct", "enum", "trait", "type", "mod", "union", "impl"];
    let line = line.trim_start();
    let line = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(')').map_or(rest, |(_, rest)| rest),
        None => line.strip_prefix("pub ").unwrap_or(line),
    };
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.find(|word| !keywords.contains(word)).unwrap_or_default()
}

/// Doc comments of one line that hold no word that is not in the name of what they are about, with their line numbers.
fn repeated_names(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_doc = |at: usize| lines.get(at).is_some_and(|line| line.starts_with("///"));
    let alone = (0..lines.len()).filter(|at| is_doc(*at) && !is_doc(at + 1) && (*at == 0 || !is_doc(at - 1)));
    let says_nothing = |at: &usize| {
        let mut item = at + 1;
        while lines.get(item).is_some_and(|line| line.starts_with("#[")) {
            while lines.get(item).is_some_and(|line| !line.ends_with(']')) {
                item += 1;
            }
            item += 1;
        }
        let name = words_of(lines.get(item).map_or("", |line| name_in(line)));
        words_of(&lines[*at][3..]).iter().all(|word| name.contains(word))
    };
    alone.filter(says_nothing).map(|at| (at + 1, lines[at].to_owned())).collect()
}

#[test]
fn a_doc_comment_says_more_than_the_name_of_its_item() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut found = Vec::new();
    for file in &files {
        for (line, doc) in repeated_names(&fs::read_to_string(file).unwrap()) {
            found.push(format!("{}:{line}: {doc}", file.display()));
        }
    }
    assert!(found.is_empty(), "say what it means, its unit, bound or source, or nothing: {found:#?}");
}

#[test]
fn a_planted_repetition_of_a_name_is_found() {
    for (text, is_found) in [
        ("/// Which replica.\npub replica: ReplicaId,\n", true),
        (
            "    /// The slots of a request.\n    #[must_use]\n    pub(crate) fn request_slot(&self) -> Slot {\n",
            true,
        ),
        ("/// Its own.\npub struct Own;\n", true),
        ("/// What it is.\nvalue: u8,\n", true),
        ("/// The lease.\nLease(ReservationId),\n", true),
        ("/// The run plan.\n#[derive(\n    Debug,\n    Clone\n)]\npub enum RunPlan {\n", true),
        ("/// The one that was asked.\npub replica: ReplicaId,\n", false),
        ("/// In bytes.\nlength: u64,\n", false),
        ("/// The replica.\n///\n/// # Errors\n/// Never.\npub fn replica() {}\n", false),
    ] {
        assert_eq!(repeated_names(text).len(), usize::from(is_found), "{text}");
    }
}
