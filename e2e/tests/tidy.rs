//! What the compiler does not check about the tree: who may import whom, where `unsafe` lives, that every module
//! says what it is, that names mean something, and that dependencies carry licences we may ship.
//!
//! `make lint` runs it. It reads the sources as text: comments and literals are blanked first, so a word in a
//! sentence is not taken for code.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates in the order of the design: a crate may import only crates before it.
const LAYERS: &[&str] = &["sys", "spec", "seccomp", "plan", "cgroup", "net", "init", "task", "api"];

/// Programs: each may import any layer, none another program.
const PROGRAMS: &[&str] = &["shim", "cli", "cni", "node"];

/// Last words of names that say nothing about the thing named.
const EMPTY_WORDS: &[&str] = &["manager", "helper", "helpers", "util", "utils", "common", "misc", "wrapper"];

#[test]
fn a_crate_imports_only_crates_above_it() {
    let mut wrong = Vec::new();
    for (name, dir) in crates() {
        let rank = LAYERS.iter().position(|layer| *layer == name);
        assert!(
            rank.is_some() || PROGRAMS.contains(&name.as_str()),
            "crates/{name} has no place in the order of the design: give it one"
        );
        // A crate may name itself, to test itself with other features.
        for imported in imports(&dir.join("Cargo.toml")).into_iter().filter(|imported| *imported != name) {
            let above = LAYERS.iter().position(|layer| *layer == imported);
            if above.is_none() || rank.is_some_and(|rank| above >= Some(rank)) {
                wrong.push(format!("{name} imports {imported}"));
            }
        }
    }
    for imported in imports(&root().join("e2e/Cargo.toml")) {
        wrong.push(format!("e2e imports {imported}: it starts programs and speaks to them over the wire"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_of_a_crate_do_not_import_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for (name, dir) in crates() {
        for circle in Modules::read(&dir.join("src")).circles() {
            wrong.push(format!("{name}: {circle}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_lives_in_sys_alone() {
    let mut wrong = Vec::new();
    for path in sources().into_iter().filter(|path| !path.starts_with(root().join("crates/sys"))) {
        let code = code(&path);
        if words(&code).any(|word| word == "unsafe") {
            wrong.push(format!("{}: unsafe", shown(&path)));
        }
    }
    for target in targets().into_iter().filter(|path| !path.starts_with(root().join("crates/sys"))) {
        if !code(&target).contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{}: no #![forbid(unsafe_code)]", shown(&target)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    // Unit tests that have a file of their own belong to the module above them.
    let headless = |path: &PathBuf| {
        let text = read(path);
        !text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//! "))
    };
    let wrong: Vec<String> =
        sources().iter().filter(|path| !is_test(path) && headless(path)).map(|path| shown(path)).collect();
    assert!(wrong.is_empty(), "no //! header:\n{}", wrong.join("\n"));
}

#[test]
fn names_end_in_a_word_that_means_something() {
    let mut wrong = Vec::new();
    for path in sources() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let code = code(&path);
        // A test's name is a sentence.
        let defined = definitions(&code).filter(|_| !is_test(&path)).map(str::to_owned);
        for name in defined.chain([stem]).filter(|name| EMPTY_WORDS.contains(&last_word(name).as_str())) {
            wrong.push(format!("{}: {name}", shown(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // The checkout's own place and what lies beside it are certainly no business of a reader.
    let beside = root().parent().filter(|dir| dir.components().count() > 1).map(fs::read_dir);
    let beside = beside.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
    let places: Vec<String> = beside.chain([root()]).map(|path| path.display().to_string()).collect();
    let mut wrong = Vec::new();
    for path in files(&root(), &|_| true) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| places.iter().any(|place| line.contains(place)))
        {
            wrong.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_dependency_is_from_the_registry_and_under_an_allowed_licence() {
    let allowed = allowed_licences();
    assert!(allowed.contains("Apache-2.0"), "deny.toml allows nothing");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if let Some(source) = package["source"].as_str()
            && source != "registry+https://github.com/rust-lang/crates.io-index"
        {
            wrong.push(format!("{name} comes from {source}"));
        }
        let licence = package["license"].as_str().unwrap_or("no licence");
        if !is_allowed(licence, &allowed) {
            wrong.push(format!("{name}: {licence}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_owned()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Name and folder of each crate.
fn crates() -> Vec<(String, PathBuf)> {
    let mut crates: Vec<_> = fs::read_dir(root().join("crates"))
        .expect("the workspace has crates")
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(_, dir)| dir.join("Cargo.toml").exists())
        .collect();
    crates.sort();
    crates
}

/// All Rust sources of the workspace.
fn sources() -> Vec<PathBuf> {
    let is_rust = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    ["crates", "e2e"].iter().flat_map(|dir| files(&root().join(dir), &is_rust)).collect()
}

/// The roots of libraries and programs.
fn targets() -> Vec<PathBuf> {
    let is_root = |path: &PathBuf| {
        let named = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        named || path.parent().is_some_and(|dir| dir.ends_with("src/bin"))
    };
    sources().into_iter().filter(is_root).collect()
}

fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.parent().is_some_and(|dir| dir.iter().any(|part| part == "tests"))
}

fn files(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    const SKIPPED: &[&str] = &["target", ".git", "cache"];
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !SKIPPED.iter().any(|name| entry.file_name() == *name) {
            found.extend(files(&path, wanted));
        } else if kind.is_file() && wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The crates of this workspace that a manifest names in any of its tables of dependencies.
fn imports(manifest: &Path) -> Vec<String> {
    let text = read(manifest);
    let imported = |line: &str| {
        let rest = line.strip_prefix("dunnage-")?;
        let end =
            rest.find(|letter: char| !(letter.is_alphanumeric() || letter == '-')).unwrap_or(rest.len());
        Some(rest[..end].to_owned())
    };
    text.lines().filter_map(imported).collect()
}

/// A source's text with comments and literals blanked, up to its unit tests.
fn code(path: &Path) -> String {
    let text = blank(&read(path));
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].to_owned()
}

/// Replaces comments and the inside of literals by spaces, keeping every line where it is.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (skipped, kept) = literal(rest, out.chars().last());
        if skipped > 0 {
            let inside = &rest[..skipped];
            out.push_str(kept);
            out.extend(inside.chars().skip(kept.len()).map(|letter| if letter == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        } else {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    out
}

/// How many bytes a comment or literal takes at the start of `text`, and what of it is kept.
fn literal(text: &str, before: Option<char>) -> (usize, &'static str) {
    let to = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return (text.find('\n').unwrap_or(text.len()), "");
    }
    if text.starts_with("/*") {
        return (to("*/", 2), "");
    }
    let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if !in_word && (text.starts_with("r\"") || text.starts_with("r#\"") || text.starts_with("r##\"")) {
        let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
        return (to(&format!("\"{}", "#".repeat(hashes)), hashes + 2), "");
    }
    if text.starts_with('"') {
        let mut escaped = false;
        for (at, letter) in text.char_indices().skip(1) {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return (at + 1, ""),
                _ => {}
            }
        }
        return (text.len(), "");
    }
    if text.starts_with("'\"'") || text.starts_with("'\\'") {
        return (if text.starts_with("'\\''") { 4 } else { 3 }, "");
    }
    (0, "")
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).filter(|word| !word.is_empty())
}

/// The names that a source defines.
fn definitions(code: &str) -> impl Iterator<Item = &str> {
    const KEYWORDS: &[&str] =
        &["struct", "enum", "trait", "mod", "fn", "type", "const", "static", "macro_rules"];
    let all: Vec<&str> = words(code).collect();
    let named = |pair: &[&str]| KEYWORDS.contains(&pair[0]) && pair[1] != "fn" && pair[1] != "mut";
    let found: Vec<&str> = all.windows(2).filter(|pair| named(pair)).map(|pair| pair[1]).collect();
    found.into_iter()
}

/// The last word of a name in any of Rust's cases, in small letters.
fn last_word(name: &str) -> String {
    let name = name.trim_end_matches('_');
    if let Some((_, last)) = name.rsplit_once(['_', '-']) {
        return last.to_lowercase();
    }
    let start = name.rfind(char::is_uppercase).unwrap_or(0);
    name[start..].to_lowercase()
}

/// The modules of a crate: which file imports which module.
struct Modules {
    imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
}

impl Modules {
    fn read(src: &Path) -> Self {
        let paths = files(src, &|path| path.extension().is_some_and(|extension| extension == "rs"));
        let known: BTreeSet<Vec<String>> = paths.iter().map(|path| module(src, path)).collect();
        let exports: Vec<Vec<String>> = paths
            .iter()
            .filter(|path| module(src, path).is_empty())
            .flat_map(|path| uses(&code(path)))
            .collect();
        let mut imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for path in &paths {
            let own = module(src, path);
            let mentioned = paths_in(&code(path), &own);
            let targets = mentioned.iter().map(|path| resolve(path, &known, &exports));
            imports.entry(own).or_default().extend(targets);
        }
        Self { imports }
    }

    /// Each group of sibling modules that import each other, directly or through others, with one import of each
    /// step of the circle.
    fn circles(&self) -> Vec<String> {
        let mut edges = Edges::new();
        for (from, targets) in &self.imports {
            for to in targets {
                let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
                // Between a module and what is inside it there is no order to break.
                if shared < from.len() && shared < to.len() {
                    let step = format!("{} imports {}", from.join("::"), to.join("::"));
                    edges
                        .entry(from[..=shared].to_vec())
                        .or_default()
                        .entry(to[..=shared].to_vec())
                        .or_insert(step);
                }
            }
        }
        let mut circles = BTreeMap::new();
        for start in edges.keys() {
            if let Some(way) = way_back(start, &edges) {
                let mut names: Vec<String> = way.iter().map(|module| module.join("::")).collect();
                let ends = way.iter().zip(way.iter().skip(1).chain([start]));
                let steps: Vec<&str> = ends.map(|(from, to)| edges[from][to].as_str()).collect();
                names.sort();
                circles.entry(names.join(" <-> ")).or_insert(steps.join(", "));
            }
        }
        circles.into_iter().map(|(names, steps)| format!("{names} ({steps})")).collect()
    }
}

/// For each module, the siblings it imports and by which import.
type Edges = BTreeMap<Vec<String>, BTreeMap<Vec<String>, String>>;

/// The shortest way from a module over others back to itself.
fn way_back(start: &Vec<String>, edges: &Edges) -> Option<Vec<Vec<String>>> {
    let mut ways: Vec<Vec<Vec<String>>> = vec![vec![start.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in edges.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push([way.clone(), vec![next.clone()]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

/// A source file's place in the module tree of its crate.
fn module(src: &Path, path: &Path) -> Vec<String> {
    let relative = path.strip_prefix(src).unwrap_or(path).with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts
        .last()
        .is_some_and(|last| last == "mod" || (parts.len() == 1 && (last == "lib" || last == "main")))
    {
        parts.pop();
    }
    parts
}

/// The module that a path leads into: the longest known one, seen through what the crate's root re-exports.
fn resolve(path: &[String], known: &BTreeSet<Vec<String>>, exports: &[Vec<String>]) -> Vec<String> {
    let longest = |path: &[String]| {
        (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| known.contains(module))
    };
    longest(path)
        .or_else(|| {
            let name = path.first()?;
            let exported = exports.iter().find(|export| export.last() == Some(name))?;
            longest(exported)
        })
        .unwrap_or_default()
}

/// Every path into the own crate that a source mentions, from the crate's root.
fn paths_in(code: &str, own: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (start, root) in [("crate::", Vec::new()), ("super::", own[..own.len().saturating_sub(1)].to_vec())] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().last();
            if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
                continue;
            }
            for mut tail in tree(&code[at + start.len()..]).0 {
                let mut base = root.clone();
                while tail.first().is_some_and(|word| word == "super") {
                    base.pop();
                    tail.remove(0);
                }
                found.push([base, tail].concat());
            }
        }
    }
    found
}

/// The paths of all `use` items of a crate's root that begin at a module of its own.
fn uses(code: &str) -> Vec<Vec<String>> {
    let starts = code.match_indices("use ").filter(|(at, _)| {
        !code[..*at].chars().last().is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    });
    starts.flat_map(|(at, found)| tree(code[at + found.len()..].trim_start_matches("crate::")).0).collect()
}

/// Reads `a::b`, `a::{b, c::d}` or `a::*` at the start of `text`: the paths and the length read.
fn tree(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut prefix = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            let (paths, length) = list(&text[at + 1..]);
            let joined = paths.into_iter().map(|path| [prefix.clone(), path].concat());
            return (joined.collect(), at + 1 + length);
        }
        let end = text[at..].find(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
        let word = &text[at..end.map_or(text.len(), |end| at + end)];
        if word.is_empty() {
            return (vec![prefix], at);
        }
        prefix.push(word.to_owned());
        at += word.len();
        if !text[at..].starts_with("::") {
            return (vec![prefix], at);
        }
        at += 2;
    }
}

/// Reads trees separated by commas up to the closing brace.
fn list(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < text.len() && !text[at..].starts_with('}') {
        let (found, length) = tree(&text[at..]);
        paths.extend(found.into_iter().filter(|path| !path.is_empty()));
        at += length;
        // Past `as name`, `*` and the comma.
        at += text[at..].find([',', '}']).unwrap_or(text.len() - at);
        if text[at..].starts_with(',') {
            at += 1;
        }
    }
    (paths, at + 1)
}

fn allowed_licences() -> BTreeSet<String> {
    let text = read(&root().join("deny.toml"));
    let list = text.split_once("[licenses]").map(|(_, rest)| rest).unwrap_or_default();
    let list = list.split_once("allow = [").map(|(_, rest)| rest).unwrap_or_default();
    let list = list.split_once(']').map(|(list, _)| list).unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether one of an SPDX expression's alternatives is allowed in all its parts.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    // `AND` binds closer than `OR`; parentheses in practice only group alternatives of one part.
    let every = |part: &str| {
        part.split(" AND ").all(|part| {
            let part = part.trim().trim_matches(['(', ')']);
            allowed.contains(part)
                || part.split(" OR ").any(|part| allowed.contains(part.trim_matches(['(', ')'])))
        })
    };
    if expression.contains('(') {
        // Parts first: `(A OR B) AND C`.
        return expression.split(" AND ").all(|part| {
            part.split(" OR ").any(|part| allowed.contains(part.trim().trim_matches(['(', ')'])))
        });
    }
    expression.split(" OR ").any(every)
}

mod own {
    //! The checks find what they look for.

    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let code = blank("let a = \"unsafe \\\" x\"; // unsafe\n/* unsafe */ let b = r#\"unsafe\"#; 'a");
        assert!(!code.contains("unsafe"), "{code}");
        assert!(code.contains("let a") && code.contains("let b") && code.ends_with("'a"), "{code}");
    }

    #[test]
    fn paths_are_read_with_their_branches() {
        let own = ["a".to_owned(), "b".to_owned()];
        let found = paths_in("use crate::{x::{y, z as w}, v}; super::c::d(); crate::q!()", &own);
        let shown: BTreeSet<String> = found.iter().map(|path| path.join("::")).collect();
        assert_eq!(shown, BTreeSet::from(["x::y", "x::z", "v", "a::c::d", "q"].map(str::to_owned)));
    }

    #[test]
    fn a_circle_over_three_modules_is_found_and_a_parent_is_no_circle() {
        let path = |text: &str| text.split("::").map(str::to_owned).collect::<Vec<_>>();
        let edge = |from: &str, to: &str| (path(from), BTreeSet::from([path(to)]));
        let circle =
            Modules { imports: BTreeMap::from([edge("a", "b"), edge("b::x", "c"), edge("c", "a::y")]) };
        assert_eq!(circle.circles(), ["a <-> b <-> c (a imports b, b::x imports c, c imports a::y)"]);
        let nested = Modules { imports: BTreeMap::from([edge("a", "a::b"), edge("a::b", "a")]) };
        assert!(nested.circles().is_empty());
    }

    #[test]
    fn licences_are_read_as_expressions() {
        let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned));
        for licence in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(licence, &allowed), "{licence}");
        }
        for licence in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0", "no licence"] {
            assert!(!is_allowed(licence, &allowed), "{licence}");
        }
    }

    #[test]
    fn the_last_word_of_a_name_is_found_in_every_case() {
        assert_eq!(
            ["TaskManager", "exec_util", "MISC", "Cgroup"].map(last_word),
            ["manager", "util", "c", "cgroup"]
        );
    }
}
