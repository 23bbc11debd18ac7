//! docs/policy-yaml.md has a row for each field of each kind of YAML that is read; here are the smallest documents with
//! each of them, and what becomes of it.

mod admin;
mod calico;
mod cluster;
mod kubernetes;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use super::{parse, walk, yaml};
use crate::policy::{Direction, Peer, PolicySet, Rate, Rule};

/// What becomes of a field.
pub(super) enum Want {
    /// Accepted: what is read says this.
    Says(&'static str),
    /// Accepted, and without it the same is read.
    Same,
    /// Refused at this line and column, with this in the message.
    Error(&'static str, &'static str),
}

/// A field, what stands for the `@` of the document, and what becomes of it.
type Case = (&'static str, &'static str, Want);

/// Cases of one section of the page that have a document in common.
pub(super) struct Section {
    /// The heading on the page.
    title: &'static str,
    document: &'static str,
    cases: &'static [Case],
}

/// What a set of policies says, in one line a policy, tier and profile; built-in tiers are left out.
fn said(set: &PolicySet) -> String {
    let mut lines = Vec::new();
    for tier in &set.tiers {
        if !super::BUILT_IN_TIERS.contains(&(tier.name.as_str(), tier.order, tier.default)) {
            let order = if tier.order == i64::MAX { "last".into() } else { tier.order.to_string() };
            lines.push(format!("tier {} {order} {}", tier.name, tier.default.as_str()));
        }
    }
    for policy in &set.policies {
        let order = if policy.order == i64::MAX { "last".into() } else { policy.order.to_string() };
        let staged = if policy.staged { " staged" } else { "" };
        let mut line = format!("{} {order}{staged} on {}", set.full_name(policy), policy.select);
        for direction in Direction::ALL {
            if let Some(rules) = policy.rules(direction) {
                let rules: Vec<String> = rules.iter().map(rule).collect();
                let _ = write!(line, "; {} [{}]", direction.as_str(), rules.join(" + "));
            }
        }
        lines.push(line);
    }
    let word = |allow: Option<bool>| match allow {
        Some(true) => "allow",
        Some(false) => "deny",
        None => "-",
    };
    let profiles = set.profiles.iter();
    lines.extend(profiles.map(|p| {
        format!("profile {} on {}: ingress {}, egress {}", p.name, p.select, word(p.ingress), word(p.egress))
    }));
    for policy in &set.host_policies {
        let staged = if policy.staged { " staged" } else { "" };
        let interfaces =
            if policy.interfaces.is_empty() { "all".into() } else { policy.interfaces.join(", ") };
        let rules: Vec<String> = policy.ingress.iter().map(rule).collect();
        let rules = rules.join(" + ");
        lines.push(format!(
            "host {} {}{staged} on {interfaces}; ingress [{rules}]",
            policy.name, policy.order
        ));
    }
    let ports = set.named_ports.iter();
    lines.extend(ports.map(|p| format!("port {} on {}: {}/{}", p.name, p.select, p.protocol, p.port)));
    lines.join("\n")
}

fn rule(rule: &Rule) -> String {
    let mut text = format!("{:?}", rule.action).to_lowercase();
    let mut add = |what: &str, parts: Vec<String>, by: &str| {
        if !parts.is_empty() {
            let _ = write!(text, " {what} {}", parts.join(by));
        }
    };
    add("peer", rule.peers.iter().map(peer).collect(), " | ");
    add("service", rule.services.iter().map(ToString::to_string).collect(), ", ");
    add("not", rule.not_services.iter().map(ToString::to_string).collect(), ", ");
    let ports = rule.source_ports.iter().flatten().map(|(low, high)| format!("{low}-{high}"));
    add("source", ports.collect(), ", ");
    add("log", rule.log.iter().map(rate_of).collect(), "");
    add("limit", rule.limit.iter().map(rate_of).collect(), "");
    text
}

fn rate_of(rate: &Rate) -> String {
    format!("{}/{} burst {}", rate.events, rate.per, rate.burst)
}

fn peer(peer: &Peer) -> String {
    let mut parts = Vec::new();
    parts.extend(peer.selector.iter().map(ToString::to_string));
    parts.extend(peer.ranges.iter().map(|ranges| format!("in {ranges}")));
    parts.extend(peer.entity.iter().map(|entity| format!("{entity:?}").to_lowercase()));
    parts.extend(peer.not_selector.iter().map(|not| format!("not ({not})")));
    parts.extend(peer.own.iter().map(|own| format!("own ({})", self::peer(own))));
    parts.join(" & ")
}

/// What is read, or all errors.
fn read(file: &str, text: &str) -> Result<String, Vec<String>> {
    let set = parse(&[(file, text)]);
    set.map(|set| said(&set)).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// The word for what becomes of a field, or why it is not what the case wants.
fn judge(file: &str, section: &Section, (field, text, want): &Case) -> Result<&'static str, String> {
    let got = read(file, &section.document.replace('@', text));
    let (fine, word, wants) = match want {
        Want::Says(part) => {
            (got.as_ref().is_ok_and(|said| said.contains(part)), "accepted", (*part).to_owned())
        }
        Want::Same => {
            let without = read(file, &section.document.replace('@', ""));
            (got.is_ok() && got == without, "ignored", format!("{without:?}"))
        }
        Want::Error(at, part) => {
            let start = format!("{file}:{at}: ");
            let is_it = |error: &String| error.starts_with(&start) && error.contains(part);
            (got.as_ref().is_err_and(|errors| errors.iter().any(is_it)), "refused", format!("{at}: {part}"))
        }
    };
    if fine {
        return Ok(word);
    }
    let got = got.unwrap_or_else(|errors| format!("errors:\n{}", errors.join("\n")));
    Err(format!("{}: {field}: `{text}`\n  wants {wants}\n  got {got}", section.title))
}

/// The rows of the page: heading and field, and the word that says what becomes of it.
fn rows(page: &str) -> BTreeMap<(String, String), String> {
    let mut rows = BTreeMap::new();
    let mut title = "";
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            title = heading;
        }
        let mut cells = line.strip_prefix("| `").unwrap_or_default().split('|').map(str::trim);
        if let (Some(fields), Some(word)) = (cells.next().filter(|f| !f.is_empty()), cells.next()) {
            for field in format!("`{fields}").split('`').skip(1).step_by(2) {
                let twice = rows.insert((title.to_owned(), field.to_owned()), word.to_owned());
                assert!(twice.is_none(), "{title}: `{field}` is there twice");
            }
        }
    }
    rows
}

#[test]
fn fields_of_yaml() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy-yaml.md");
    let page = fs::read_to_string(path).unwrap();
    for (version, kind) in yaml::KNOWN {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let names = |row: &str, word: &str| row.split([' ', ',', '/']).any(|part| part == word);
        let mut rows = page.lines().filter(|line| line.starts_with("| "));
        let found = rows.any(|row| names(row, kind) && names(row, version) && row.contains(group));
        assert!(found, "the page does not have {kind} of {group}/{version} among the kinds");
    }
    let rows = rows(&page);
    let sections =
        [kubernetes::SECTIONS, admin::SECTIONS, cluster::SECTIONS, calico::SECTIONS].into_iter().flatten();
    let mut wrong = Vec::new();
    let mut outcomes: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    for section in sections {
        for case in section.cases {
            match judge("a.yaml", section, case) {
                Ok(word) => {
                    let key = (section.title.to_owned(), case.0.to_owned());
                    outcomes.entry(key).or_default().insert(word);
                }
                Err(error) => wrong.push(error),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Of a field that is accepted, some values may be refused or mean what is meant without them.
    let word = |words: &BTreeSet<&'static str>| {
        ["accepted", "ignored", "refused"].into_iter().find(|word| words.contains(word)).unwrap_or_default()
    };
    let cases: BTreeMap<(String, String), String> =
        outcomes.iter().map(|(key, words)| (key.clone(), word(words).to_owned())).collect();
    let differ: Vec<_> = rows.iter().filter(|(key, word)| cases.get(*key) != Some(*word)).collect();
    assert!(differ.is_empty(), "rows of the page without a case, or with another outcome: {differ:#?}");
    let without: Vec<_> = cases.keys().filter(|key| !rows.contains_key(*key)).collect();
    assert!(without.is_empty(), "cases without a row: {without:#?}");
    // What the code asks for and the page does not know.
    let known: BTreeSet<&str> = rows
        .keys()
        .flat_map(|(_, field)| field.split(['.', '[']))
        .map(|part| part.trim_end_matches(']'))
        .collect();
    let unknown: Vec<_> = walk::asked::all().into_iter().filter(|key| !known.contains(key)).collect();
    assert!(unknown.is_empty(), "read, and not on the page: {unknown:?}");
}
