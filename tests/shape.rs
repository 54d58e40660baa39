//! The shape of the program: imports point down only, no file is in a cycle with another, and the root of the binary holds
//! nothing but the parse, the dispatch and the exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library, each of which may use those before it.
const LIBRARY: &[&str] = &[
    "history",
    "check",
    "ids",
    "bytes",
    "planted",
    "keyvalue",
    "build_info",
    "allocator",
    "storage",
    "engine",
    "api",
    "client",
    "replica",
    "cluster",
    "daemon",
    "operator",
    "testbed",
    "jepsen",
    "lib",
];

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

/// The code of a file, without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let line =
        |line: &str| if line.trim_start().starts_with("//") { String::new() } else { format!("{line}\n") };
    text.lines().map(line).collect()
}

/// Names that follow a prefix such as `crate::`.
fn names_after<'a>(code: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    code.match_indices(prefix)
        .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == ':'))
        .map(|(at, _)| {
            let rest = &code[at + prefix.len()..];
            &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
        })
        .collect()
}

#[test]
fn the_library_imports_downward_only() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut checked = 0;
    for file in files {
        let relative = file.strip_prefix(root()).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        if module == "bin" {
            continue;
        }
        let level = LIBRARY.iter().position(|known| *known == module);
        let level = level.unwrap_or_else(|| panic!("{} belongs to no known module", relative.display()));
        let code = code(&file);
        for used in names_after(&code, "crate::") {
            let Some(of_used) = LIBRARY.iter().position(|known| *known == used) else { continue };
            assert!(of_used <= level, "{} uses crate::{used}, which is above it", relative.display());
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} imports were seen");
}

/// Which other files of the binary each file uses.
fn binary_imports() -> BTreeMap<String, BTreeSet<String>> {
    let folder = root().join("bin/allocdb-jepsen");
    let mut files = Vec::new();
    sources(&folder, &mut files);
    let names: BTreeSet<String> = files
        .iter()
        .filter(|file| file.parent() == Some(&folder))
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&folder).unwrap();
        let own = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let own = own.trim_end_matches(".rs").to_owned();
        let depth = relative.components().count();
        let code = code(&file);
        let prefix = "super::".repeat(depth);
        let used = names_after(&code, &prefix).into_iter().map(str::to_owned);
        let used: Vec<String> = used.filter(|used| names.contains(used) && *used != own).collect();
        imports.entry(own).or_default().extend(used);
    }
    imports
}

#[test]
fn no_file_of_the_binary_is_in_a_cycle() {
    let mut open = binary_imports();
    assert!(open.values().map(BTreeSet::len).sum::<usize>() > 30, "{open:#?}");
    while !open.is_empty() {
        let free: Vec<String> = open
            .iter()
            .filter(|(_, uses)| uses.iter().all(|used| !open.contains_key(used)))
            .map(|(own, _)| own.clone())
            .collect();
        assert!(!free.is_empty(), "these files import each other: {open:#?}");
        free.iter().for_each(|own| drop(open.remove(own)));
    }
}

#[test]
fn scripts_and_backends_keep_their_distance() {
    let imports = binary_imports();
    let uses = |own: &str, used: &str| imports[own].contains(used);
    for backend in ["local", "guests", "qemu", "kubevirt", "helper_pod", "kubectl"] {
        for other in ["scenarios", "nemesis", "stage", "events", "runs", "cluster"] {
            assert!(!uses(backend, other) && !uses(other, backend), "{backend} and {other}");
        }
    }
    for script in ["scenarios", "nemesis"] {
        for mechanics in ["testbed", "actions", "cluster", "support", "tracker"] {
            assert!(!uses(script, mechanics), "{script} uses {mechanics}");
        }
    }
    let folder = root().join("bin/allocdb-jepsen");
    let mut files = Vec::new();
    sources(&folder, &mut files);
    for file in files {
        let code = code(&file);
        assert!(!code.contains("backend() == ") && !code.contains("backend == "), "{}", file.display());
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
    assert_eq!(functions, ["main", "carry_out", "open"]);
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
