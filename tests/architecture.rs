//! The arrows of ARCHITECTURE.md: which room may import which, and which rooms stay free of I/O.
//!
//! A text check, on purpose: it needs no build and reads like the page it guards. It sees `use` and inline paths from
//! `crate::` or `slash32::`; a path through `super` that climbs to the root counts too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the ground up: each may import those listed, and itself.
const MAY_IMPORT: &[(&str, &[&str], &str)] = &[
    ("model", &[], "the nouns all rooms share depend on nobody"),
    ("netlink", &["model"], "kernel sockets know prefixes, not protocols"),
    ("api", &["model"], "the plugin and the command line link it without the agent"),
    ("bgp", &["api", "netlink", "model"], "a middle room never sees another: the agent translates"),
    ("routes", &["api", "netlink", "model"], "a middle room never sees another: the agent translates"),
    ("policy", &["api", "netlink", "model"], "a middle room never sees another: the agent translates"),
    ("cni", &["api", "netlink", "model"], "a middle room never sees another: the agent translates"),
    (
        "agent",
        &["cni", "routes", "policy", "bgp", "api", "netlink", "model"],
        "the agent does not know how it is started",
    ),
    ("cli", &["agent", "cni", "routes", "policy", "bgp", "api", "netlink", "model"], "the top floor"),
];

/// Rooms inside `bgp`, and what of `bgp` each may import.
const MAY_IMPORT_IN_BGP: &[(&str, &[&str], &str)] = &[
    ("wire", &["wire"], "the codec knows no state"),
    (
        "session",
        &["session", "wire", "config", "PeerId"],
        "a session carries routes, it does not compare them",
    ),
    ("bfd", &["bfd", "wire"], "liveness never waits behind route work"),
    ("rib", &["rib", "wire", "config", "identity", "PeerId"], "the RIB has peers, not connections"),
];

/// Files and directories with no I/O, no clock and no threads of their own. Each directory's `mod.rs`, or the file,
/// turns on the lints that clippy.toml feeds.
const SANS_IO: &[&str] = &[
    "model",
    "bgp/wire",
    "bgp/session",
    "bgp/bfd/packet",
    "bgp/bfd/session",
    "bgp/rib",
    "bgp/identity",
    "bgp/mrt",
    "bgp/bmp",
    "cni/ipam",
    "cni/types",
    "policy/selector",
    "policy/ir",
    "policy/engine",
    "policy/explain",
    "policy/reach",
    "policy/matrix",
];

/// The line that turns the lints on. Tests may read a clock: they need a first instant.
const LINTS: &str = "#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]";

/// What text alone shows to be I/O, beside what clippy finds by type.
const IO: &[&str] = &["tokio::", "std::fs::", "std::process::", "crate::netlink", "socket2::", "libc::"];

#[test]
fn rooms_import_only_what_is_below_them() {
    let mut wrong = BTreeSet::new();
    for (room, source) in sources() {
        let Some((_, allowed, reason)) = MAY_IMPORT.iter().find(|(name, ..)| *name == room) else {
            assert!(room == "lib" || room == "main", "src/{room} is in no row of MAY_IMPORT");
            continue;
        };
        for (target, line) in source.imports() {
            let is_room = MAY_IMPORT.iter().any(|(name, ..)| *name == target);
            if is_room && target != room && !allowed.contains(&target.as_str()) {
                wrong.insert(format!("{}:{line}: {room} imports {target}: {reason}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", Vec::from_iter(wrong).join("\n"));
}

#[test]
fn rooms_of_bgp_import_only_what_they_need() {
    let mut wrong = BTreeSet::new();
    for (room, source) in sources() {
        let inner = source.module.get(1).cloned().unwrap_or_default();
        let Some((_, allowed, reason)) = MAY_IMPORT_IN_BGP.iter().find(|(name, ..)| *name == inner) else {
            continue;
        };
        if room != "bgp" {
            continue;
        }
        for (target, line) in source.imports_below("bgp") {
            if !allowed.contains(&target.as_str()) {
                wrong.insert(format!(
                    "{}:{line}: bgp::{inner} imports bgp::{target}: {reason}",
                    source.path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", Vec::from_iter(wrong).join("\n"));
}

#[test]
fn protocol_logic_has_no_io() {
    let mut wrong = Vec::new();
    for place in SANS_IO {
        let path = root().join("src").join(place);
        let entrance = if path.is_dir() { path.join("mod.rs") } else { path.with_extension("rs") };
        let text =
            fs::read_to_string(&entrance).unwrap_or_else(|error| panic!("{}: {error}", entrance.display()));
        if !text.contains(LINTS) {
            wrong.push(format!("{}: the line `{LINTS}` is missing", entrance.display()));
        }
    }
    for (_, source) in sources() {
        let module = source.module.join("/");
        if !SANS_IO.iter().any(|place| module == *place || module.starts_with(&format!("{place}/"))) {
            continue;
        }
        for (number, line) in source.lines() {
            if let Some(found) = IO.iter().find(|io| line.contains(**io)) {
                wrong.push(format!("{}:{number}: {found} in a room without I/O", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_netlink_only() {
    let mut wrong = Vec::new();
    for (room, source) in sources() {
        for (number, line) in source.lines() {
            let allows = line.contains("unsafe_code") && !line.trim_start().starts_with("//");
            if allows && room != "netlink" {
                wrong.push(format!("{}:{number}: unsafe outside of src/netlink", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A source file without its comments and tests.
struct Source {
    path: PathBuf,
    /// `["bgp", "rib", "decision"]` for `src/bgp/rib/decision.rs`; `mod.rs` is its directory.
    module: Vec<String>,
    text: String,
}

impl Source {
    /// Lines with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The rooms named by `crate::ROOM`, `slash32::ROOM` and `use crate::{ROOM…, ROOM…}`.
    fn imports(&self) -> Vec<(String, usize)> {
        let mut found = self.after("crate::");
        found.extend(self.after("slash32::"));
        // From src/a/b/c.rs, `super::super::super::` is the root.
        let to_root = "super::".repeat(self.module.len());
        found.extend(self.after(&to_root));
        found
    }

    /// What is named below a room: `crate::ROOM::X`.
    fn imports_below(&self, room: &str) -> Vec<(String, usize)> {
        let mut found = self.after(&format!("crate::{room}::"));
        found.extend(self.after(&format!("{}{room}::", "super::".repeat(self.module.len()))));
        // From src/bgp/rib/x.rs, `super::super::` is bgp.
        let up = "super::".repeat(self.module.len() - 1);
        if !up.is_empty() {
            found.extend(self.after(&up));
        }
        found
    }

    /// The names that follow `prefix`: one, or those at the top of a `{…}`.
    fn after(&self, prefix: &str) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for (at, _) in self.text.match_indices(prefix) {
            // Not the tail of a longer word or path.
            if self.text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let number = self.text[..at].matches('\n').count() + 1;
            let rest = &self.text[at + prefix.len()..];
            for name in names(rest) {
                if name != "super" && name != "self" {
                    found.push((name, number));
                }
            }
        }
        found
    }
}

/// The identifier at the start of `text`, or those that start each item of a braced list.
fn names(text: &str) -> Vec<String> {
    let word =
        |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(list) = text.strip_prefix('{') else { return vec![word(text)] };
    let (mut depth, mut item, mut found) = (0, true, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => item = true,
            c if item && !c.is_whitespace() => {
                found.push(word(&list[at..]));
                item = false;
            }
            _ => {}
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file that is not a test, with its room.
fn sources() -> Vec<(String, Source)> {
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    assert!(found.len() > 20, "the check found too few files to be right");
    found
}

fn collect(dir: &Path, found: &mut Vec<(String, Source)>) {
    let entries: BTreeSet<_> =
        fs::read_dir(dir).expect("src can be listed").flatten().map(|entry| entry.path()).collect();
    for path in entries {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
            continue;
        }
        let relative = path.strip_prefix(root().join("src")).expect("below src").with_extension("");
        let mut module: Vec<String> =
            relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let text = fs::read_to_string(&path).expect("a source file is text");
        found.push((module[0].clone(), Source { path, module, text: bare(&text) }));
    }
}

/// The text with comments blanked and everything from `#[cfg(test)]` on removed: tests are at the bottom.
fn bare(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_check_sees_what_it_looks_for() {
    let source = |text: &str| Source {
        path: PathBuf::new(),
        module: vec!["bgp".into(), "rib".into(), "x".into()],
        text: bare(text),
    };
    let names = |found: Vec<(String, usize)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let text = "use crate::{\n    cni::attach,\n    model::{Prefix, netlink::X},\n};\n// crate::cli\nfn f() { crate::policy::g() }";
    assert_eq!(names(source(text).imports()), ["cni", "model", "policy"]);
    assert_eq!(names(source("use super::super::super::agent;").imports()), ["agent"]);
    assert_eq!(
        names(source("use super::super::session;\nuse crate::bgp::{wire, speaker::S};").imports_below("bgp")),
        ["wire", "speaker", "session"]
    );
    let tested = "use crate::model;\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}";
    assert_eq!(names(source(tested).imports()), ["model"]);
}
