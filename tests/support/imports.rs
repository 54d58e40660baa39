//! Which file imports which, read out of the sources themselves: `mod`, `#[path]`, `use` with its trees and renames, and paths
//! that are written out. A name that a module only passes on leads to the file that it passes on.
//!
//! What is compiled for tests only does not count. Macros are read as text, which finds the paths in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module by its crate and the names below it.
type ModulePath = Vec<String>;

/// The files of some crates, and what each of them uses.
pub(crate) struct Graph {
    modules: BTreeMap<ModulePath, Module>,
    /// Every `#[path]` with the file that it is in.
    pub(crate) path_attributes: Vec<(PathBuf, String)>,
}

struct Module {
    file: PathBuf,
    /// What `use` brings into it, by the name that it has there.
    names: BTreeMap<String, ModulePath>,
    /// Paths that it uses, as they are written.
    used: BTreeSet<ModulePath>,
}

/// One file of a crate that uses another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) from: ModulePath,
    pub(crate) to: ModulePath,
}

impl Graph {
    /// Reads crates from their root files. A crate uses another by the name that it has here.
    pub(crate) fn read(crates: &[(&str, &Path)]) -> Self {
        let mut graph = Self { modules: BTreeMap::new(), path_attributes: Vec::new() };
        for (name, root) in crates {
            graph.load(vec![(*name).to_owned()], root, true);
        }
        graph
    }

    fn load(&mut self, module: ModulePath, file: &Path, is_crate: bool) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let code = without_tests(&without_comments(&text));
        let folder = file.parent().unwrap();
        let is_folders_own = file.file_name().is_some_and(|name| name == "mod.rs") || is_crate;
        let parts = if is_folders_own { folder.to_owned() } else { file.with_extension("") };
        for (path, name) in declared_modules(&code) {
            let child = match &path {
                Some(path) => folder.join(path),
                None => {
                    let flat = parts.join(format!("{name}.rs"));
                    if flat.exists() { flat } else { parts.join(&name).join("mod.rs") }
                }
            };
            self.path_attributes.extend(path.map(|path| (file.to_owned(), path)));
            self.load([module.clone(), vec![name]].concat(), &child, false);
        }
        let (uses, rest) = use_trees(&code);
        let names = uses.iter().map(|(path, name)| (name.clone(), path.clone())).collect();
        let used = uses.into_iter().map(|(path, _)| path).chain(written_paths(&rest)).collect();
        self.modules.insert(module, Module { file: file.to_owned(), names, used });
    }

    /// The file of a module.
    pub(crate) fn file(&self, module: &[String]) -> &Path {
        &self.modules[module].file
    }

    /// Every import of one file by another, sorted.
    pub(crate) fn imports(&self) -> BTreeSet<Import> {
        let mut imports = BTreeSet::new();
        for (from, module) in &self.modules {
            let found = module.used.iter().filter_map(|path| self.resolve(&self.absolute(from, path)?, 0));
            imports.extend(found.filter(|to| to != from).map(|to| Import { from: from.clone(), to }));
        }
        imports
    }

    /// A path from the root of its crate; `None` if it is of a crate that is not here.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<ModulePath> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let own_crate = &module[..1];
        Some(match path.first()?.as_str() {
            "crate" => [own_crate, &path[1..]].concat(),
            "self" => [module, &path[1..]].concat(),
            "super" => [&module[..module.len().checked_sub(supers)?], &path[supers..]].concat(),
            first if self.modules.contains_key(&path[..1]) && first != own_crate[0] => path.to_vec(),
            _ if self.modules.contains_key(&[module, &path[..1]].concat()) => [module, path].concat(),
            _ => return None,
        })
    }

    /// The module that a path leads to, through names that are passed on.
    fn resolve(&self, path: &[String], depth: usize) -> Option<ModulePath> {
        let length = (1..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
        let (module, rest) = path.split_at(length);
        let passed_on = rest.first().and_then(|name| {
            let leads_to = self.absolute(module, self.modules[module].names.get(name)?)?;
            let is_elsewhere = depth < 8 && leads_to != path;
            is_elsewhere.then(|| self.resolve(&[&leads_to, &rest[1..]].concat(), depth + 1)).flatten()
        });
        Some(passed_on.unwrap_or_else(|| module.to_vec()))
    }

    /// Modules side by side that use each other, each with all that is below it: a module's own file and the parts of its
    /// folder are one thing cut in pieces and may know each other, two parts may not. One entry for each circle.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<ModulePath>> {
        let mut beside: BTreeMap<ModulePath, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for Import { from, to } in self.imports() {
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if common > 0 && common < from.len() && common < to.len() {
                let uses = beside.entry(from[..common].to_vec()).or_default();
                uses.entry(from[common].clone()).or_default().insert(to[common].clone());
            }
        }
        let in_circles = |(parent, uses): (ModulePath, BTreeMap<String, BTreeSet<String>>)| {
            let mut circles = BTreeSet::new();
            for name in uses.keys() {
                let reached = reached(&uses, name);
                if reached.contains(name.as_str()) {
                    let circle = reached
                        .into_iter()
                        .filter(|other| self::reached(&uses, other).contains(name.as_str()));
                    let circle = circle.map(|other| [parent.clone(), vec![other.to_owned()]].concat());
                    circles.insert(circle.collect::<BTreeSet<_>>());
                }
            }
            circles
        };
        beside.into_iter().flat_map(in_circles).collect()
    }
}

/// Whom something uses, and whom they use, and so on.
fn reached<'a>(uses: &'a BTreeMap<String, BTreeSet<String>>, from: &'a str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(next) = open.pop() {
        let used = uses.get(next).into_iter().flatten().map(String::as_str);
        open.extend(used.filter(|used| reached.insert(*used)));
    }
    reached
}

/// The code of a file: comments are left out, and of texts and characters only those of `#[path]` attributes are kept.
pub(crate) fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let raw = rest.trim_start_matches('b').strip_prefix('r').filter(|_| !is_word);
        let hashes = raw.map_or(0, |raw| raw.bytes().take_while(|byte| *byte == b'#').count());
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(raw) = raw.filter(|raw| raw[hashes..].starts_with('"')) {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = rest.len() - raw.len() + hashes + 1;
            rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
        } else if c == '"' {
            let length = text_length(rest);
            if code.ends_with("#[path = ") {
                code.push_str(&rest[..length]);
            } else {
                code.push_str("\"\"");
            }
            length
        } else {
            character_length(rest)
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length of a text with its quotes.
fn text_length(rest: &str) -> usize {
    let mut bytes = rest.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of a character with its quotes; 0 where there is none, as before the name of a lifetime.
fn character_length(rest: &str) -> usize {
    let Some(inside) = rest.strip_prefix('\'') else { return 0 };
    let escaped = inside.starts_with('\\');
    let content: usize = inside.chars().take(if escaped { 2 } else { 1 }).map(char::len_utf8).sum();
    let end = inside[content..].find('\'');
    match end {
        Some(0) => content + 2,
        Some(more) if escaped && more <= 8 => content + more + 2,
        _ => 0,
    }
}

/// Code without what `#[cfg(test)]` stands before.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let mut depth = 0;
        let end = rest.bytes().position(|byte| {
            depth += i32::from(byte == b'{') - i32::from(byte == b'}');
            depth == 0 && (byte == b'}' || byte == b';')
        });
        rest = end.map_or("", |end| &rest[end + 1..]);
    }
    kept + rest
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Places where a keyword stands, each with what follows it.
fn after_keyword<'a>(code: &'a str, keyword: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    code.match_indices(keyword).filter_map(move |(at, _)| {
        let rest = &code[at + keyword.len()..];
        let is_whole = !code[..at].ends_with(is_of_a_name) && rest.starts_with(char::is_whitespace);
        is_whole.then_some((at, rest))
    })
}

/// Files that a file declares as modules, each with its `#[path]`.
fn declared_modules(code: &str) -> Vec<(Option<String>, String)> {
    let declared = after_keyword(code, "mod").filter_map(|(at, rest)| {
        let name: String = rest.trim_start().chars().take_while(|c| is_of_a_name(*c)).collect();
        rest.trim_start()[name.len()..].trim_start().strip_prefix(';')?;
        let before = code[..at].trim_end();
        let before = before.rfind("pub").map_or(before, |visibility| {
            let between = before[visibility + 3..].trim();
            let is_its_own = between.is_empty() || (between.starts_with('(') && between.ends_with(')'));
            if is_its_own { before[..visibility].trim_end() } else { before }
        });
        let path = before.strip_suffix("\"]").and_then(|path| {
            let begin = path.rfind("#[path = \"")?;
            Some(path[begin + "#[path = \"".len()..].to_owned())
        });
        Some((path, name))
    });
    declared.collect()
}

/// What `use` brings in, each path with its name, and the code that is left.
fn use_trees(code: &str) -> (Vec<(ModulePath, String)>, String) {
    let (mut found, mut left, mut end) = (Vec::new(), String::new(), 0);
    for (at, rest) in after_keyword(code, "use") {
        if at < end {
            continue;
        }
        let length = rest.find(';').unwrap_or(rest.len());
        tree(&rest[..length], &[], &mut found);
        left.push_str(&code[end..at]);
        end = code.len() - rest.len() + length;
    }
    left.push_str(&code[end..]);
    (found, left)
}

fn tree(text: &str, before: &[String], found: &mut Vec<(ModulePath, String)>) {
    let parts = |text: &str| -> ModulePath {
        text.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
    };
    let Some(open) = text.find('{') else {
        let mut words = text.split_whitespace();
        let (path, name) = (words.next().unwrap_or_default(), words.nth(1));
        let mut path = [before, &parts(path)].concat();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(last) = path.last().cloned() {
            found.push((path, name.map_or(last, str::to_owned)));
        }
        return;
    };
    let before = [before, &parts(&text[..open])].concat();
    let inside = &text[open + 1..text.rfind('}').unwrap_or(text.len())];
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            tree(&inside[begin..at], &before, found);
            begin = (at + 1).min(inside.len());
        }
    }
}

/// Paths of at least two parts that are written out in code.
fn written_paths(code: &str) -> BTreeSet<ModulePath> {
    let mut paths = BTreeSet::new();
    for word in code.split(|c: char| !is_of_a_name(c) && c != ':') {
        let is_path = word.contains("::") && !word.starts_with(':');
        if is_path {
            let parts: Vec<&str> = word.split("::").collect();
            let parts = parts.into_iter().take_while(|part| !part.is_empty() && !part.contains(':'));
            paths.insert(parts.map(str::to_owned).collect());
        }
    }
    paths
}
