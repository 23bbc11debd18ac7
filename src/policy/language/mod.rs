//! Reads policy files: TOML, Kubernetes' or Calico's YAML in, a validated [`PolicySet`] out, or every error with its place.
//!
//! A folder is one unit: definitions (tiers, network sets, named ports) of any file can be used in all of them, and
//! one error anywhere refuses the whole folder, so that a host never runs half of a change.

mod calico;
pub mod expect;
mod kubernetes;
mod place;
mod rules;
mod tree;
mod walk;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{
    calico::LabelledSet,
    rules::Place,
    tree::{Data, Node},
    walk::{Source, Table},
};
use super::{
    Direction, HostPolicy, NamedPort, Origin, Policy, PolicySet, Profile, Tier, TierDefault, ranges::Ranges,
};
use crate::model::{Diagnostic, Labels};

/// The tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";

/// Tiers that exist without being written: before the default one for cluster administrators, after it for
/// baselines. Kubernetes policies of the kinds of the same names land in them. The orders are Calico's, so that its
/// tiers keep their places among them.
pub(super) const BUILT_IN_TIERS: [(&str, i64, TierDefault); 3] = [
    ("admin", 1_000, TierDefault::Pass),
    (DEFAULT_TIER, 1_000_000, TierDefault::Deny),
    ("baseline", 10_000_000, TierDefault::Pass),
];

/// The order of a policy that gives none.
const DEFAULT_ORDER: i64 = 1000;

/// Names that any file of the folder may use.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    tiers: Vec<Tier>,
    network_sets: BTreeMap<String, Ranges>,
    port_names: BTreeSet<String>,
    /// The labels of namespaces.
    namespaces: BTreeMap<String, Labels>,
    /// Calico's network sets.
    labelled_sets: Vec<LabelledSet>,
}

/// What the reading of policies depends on beside the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Labels that travel in full: `contains`, `starts with` and `ends with` can ask for them at remote endpoints.
    pub expand: BTreeSet<String>,
}

impl Definitions {
    /// The index of a tier that exists.
    fn tier(&self, name: &str) -> usize {
        self.tiers.iter().position(|t| t.name == name).unwrap_or(0)
    }
}

/// Reads every `*.toml`, `*.yaml`, `*.yml` and `*.json` file of a folder, in order of name. A folder that is not there is an empty one; files that
/// start with a dot are skipped, as editors and configuration managers make them.
pub fn load_dir(path: &Path, options: &Options) -> Result<PolicySet, Vec<Diagnostic>> {
    let files = read_dir(path)?;
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    parse_with(&files, options)
}

/// The policy files of a folder as (name, text), in order of name.
pub fn read_dir(path: &Path) -> Result<Vec<(String, String)>, Vec<Diagnostic>> {
    let unreadable = |path: &Path, error: io::Error| vec![Diagnostic::new(path, "", 0..0, error.to_string())];
    let mut files = Vec::new();
    for file in entries(path).map_err(|e| unreadable(path, e))? {
        if !is_policy(&file) {
            continue;
        }
        files.push((file.display().to_string(), read_file(&file).map_err(|error| vec![error])?));
    }
    Ok(files)
}

/// The policy files of a folder, in order of name; none of one that cannot be read.
pub fn policy_files(path: &Path) -> Vec<PathBuf> {
    entries(path).unwrap_or_default().into_iter().filter(|file| is_policy(file)).collect()
}

/// The text of one file. Only of a regular one: others can be without an end, or without a writer.
pub fn read_file(path: &Path) -> Result<String, Diagnostic> {
    let refused = |error: String| Diagnostic::new(path, "", 0..0, error);
    let kind = fs::metadata(path).map_err(|e| refused(e.to_string()))?;
    if !kind.is_file() {
        return Err(refused("this is not a regular file".to_owned()));
    }
    if kind.len() > MAX_FILE {
        return Err(refused(format!("the file has more than {} MiB", MAX_FILE >> 20)));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|e| refused(e.to_string()))?;
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| refused(e.to_string()))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Diagnostic::new(path, &text, at..at + 1, "the file is not text in UTF-8")
    })
}

/// More than anybody writes, and little enough to hold in memory.
const MAX_FILE: u64 = 64 << 20;

/// What is in a folder of policies and is not read, with the reason; so that nobody believes it in force.
pub fn unread(path: &Path) -> Vec<String> {
    let others = entries(path).unwrap_or_default().into_iter().filter(|file| !is_policy(file));
    let told = others.map(|file| {
        let reason = if file.is_dir() {
            "folders within the folder are not"
        } else {
            "only .toml, .yaml, .yml and .json are"
        };
        format!("{} is not read: {reason}", file.display())
    });
    told.collect()
}

/// What is in a folder, in order of name; nothing in one that is not there. Names that start with a dot are left out.
fn entries(path: &Path) -> io::Result<Vec<PathBuf>> {
    let found = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let mut files = found.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| !file.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")));
    files.sort();
    Ok(files)
}

fn is_policy(file: &Path) -> bool {
    let name = file.to_string_lossy();
    (is_yaml(&name) || extension(&name).as_deref() == Some("toml")) && !file.is_dir()
}

fn is_yaml(name: &str) -> bool {
    // What kubectl prints as JSON is YAML too.
    matches!(extension(name).as_deref(), Some("yaml" | "yml" | "json"))
}

fn extension(name: &str) -> Option<String> {
    Some(Path::new(name).extension()?.to_str()?.to_ascii_lowercase())
}

/// Parses files given as (name, text) with default options; the name's ending tells the language.
pub fn parse(files: &[(&str, &str)]) -> Result<PolicySet, Vec<Diagnostic>> {
    parse_with(files, &Options::default())
}

/// Parses files given as (name, text); the name's ending tells the language.
pub fn parse_with(files: &[(&str, &str)], options: &Options) -> Result<PolicySet, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let mut documents = Vec::new();
    for (name, text) in files {
        let source = Source::new(name, text, &options.expand);
        let parsed =
            if is_yaml(name) { tree::yaml(name, text) } else { tree::toml(name, text).map(|d| vec![d]) };
        match parsed {
            Ok(parsed) => documents.push((source, parsed)),
            Err(error) => errors.push(error),
        }
    }
    let mut builder = Builder::default();
    for (name, order, default) in BUILT_IN_TIERS {
        builder.known.tiers.push(Tier { name: name.to_owned(), order, default });
    }
    for (source, parsed) in &mut documents {
        for document in parsed {
            if is_yaml(source.name) {
                builder.yaml_definitions(source, document);
            } else {
                builder.definitions(source, document);
            }
        }
    }
    builder.known.tiers.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
    for (source, parsed) in &mut documents {
        for document in parsed {
            if is_yaml(source.name) {
                builder.yaml_policies(source, document);
            } else {
                builder.policies(source, document);
            }
        }
    }
    errors.extend(documents.into_iter().flat_map(|(source, _)| source.errors));
    errors.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    if errors.is_empty() { Ok(builder.finish()) } else { Err(errors) }
}

#[derive(Default)]
struct Builder {
    known: Definitions,
    written_tiers: BTreeMap<String, String>,
    names: BTreeMap<(&'static str, String), String>,
    /// With their exact orders, which need not be whole numbers.
    policies: Vec<(f64, Policy)>,
    profiles: Vec<Profile>,
    named_ports: Vec<NamedPort>,
    host_policies: Vec<HostPolicy>,
}

impl Builder {
    /// What other parts refer to: tiers, network sets and named ports.
    fn definitions(&mut self, source: &mut Source<'_>, document: &Node) {
        let Some(mut top) = source.table(document, "a policy file") else { return };
        for value in tables(source, &mut top, "tier") {
            self.tier(source, value);
        }
        for value in tables(source, &mut top, "network_set") {
            self.network_set(source, value);
        }
        for value in tables(source, &mut top, "named_port") {
            self.named_port(source, value);
        }
        for value in tables(source, &mut top, "namespace") {
            self.namespace(source, value);
        }
        // Only told apart here; the policies are read when all definitions are known.
        for key in ["policy", "host_policy", "profile"] {
            top.take(key);
        }
        top.finish(source);
    }

    fn policies(&mut self, source: &mut Source<'_>, document: &Node) {
        let Some(mut top) = source.table(document, "a policy file") else { return };
        for value in tables(source, &mut top, "policy") {
            self.policy(source, value);
        }
        for value in tables(source, &mut top, "host_policy") {
            self.host_policy(source, value);
        }
        for value in tables(source, &mut top, "profile") {
            self.profile(source, value);
        }
    }

    fn tier(&mut self, source: &mut Source<'_>, value: &Node) {
        let Some(mut table) = source.table(value, "[[tier]]") else { return };
        let name = table.need(source, "name").and_then(|v| name(source, v));
        let order = table.need(source, "order").and_then(|v| source.integer(v, ORDERS, "order"));
        let words = [("deny", TierDefault::Deny), ("pass", TierDefault::Pass), ("allow", TierDefault::Allow)];
        let default = match table.take("default") {
            Some(v) => source.word(v, "default", &words),
            None => Some(TierDefault::Deny),
        };
        let span = table.span.clone();
        table.finish(source);
        if let (Some(name), Some(order), Some(default)) = (name, order, default) {
            self.add_tier(source, span, Tier { name, order, default });
        }
    }

    /// A tier that is written replaces a built-in one of its name.
    fn add_tier(&mut self, source: &mut Source<'_>, span: Range<usize>, tier: Tier) {
        if let Some(first) = self.written_tiers.insert(tier.name.clone(), source.name.to_owned()) {
            source.error(span, format!("tier `{}` is defined twice, first in {first}", tier.name));
            return;
        }
        self.known.tiers.retain(|t| t.name != tier.name);
        self.known.tiers.push(tier);
    }

    /// The index of a tier; an error if there is none of that name.
    fn tier_index(
        &self,
        source: &mut Source<'_>,
        name: &str,
        span: Range<usize>,
        kind: &str,
    ) -> Option<usize> {
        let found = self.known.tiers.iter().position(|t| t.name == name);
        if found.is_none() {
            let known: Vec<_> = self.known.tiers.iter().map(|t| t.name.as_str()).collect();
            source.error_with_help(
                span,
                format!("there is no {kind} with the name `{name}`"),
                format!("known tiers: {}", known.join(", ")),
            );
        }
        found
    }

    /// Adds a policy if its name is free. `order` is the exact one.
    fn add_policy(&mut self, source: &mut Source<'_>, span: Range<usize>, order: f64, policy: Policy) {
        let tier = self.known.tiers.get(policy.tier).map_or_else(String::new, |t| t.name.clone());
        if self.claim(source, span, "policy", format!("{tier}/{}", policy.name)) {
            self.policies.push((order, policy));
        }
    }

    fn network_set(&mut self, source: &mut Source<'_>, value: &Node) {
        let Some(mut table) = source.table(value, "[[network_set]]") else { return };
        let name = self.unique_name(source, &mut table, "network_set");
        let inside = table.need(source, "cidr").map(|v| source.prefixes(v)).unwrap_or_default();
        let outside = table.take("except").map(|v| source.prefixes(v)).unwrap_or_default();
        table.finish(source);
        if let Some(name) = name {
            self.known.network_sets.insert(name, inside.minus(&outside));
        }
    }

    fn named_port(&mut self, source: &mut Source<'_>, value: &Node) {
        let Some(mut table) = source.table(value, "[[named_port]]") else { return };
        let name = table.need(source, "name").and_then(|v| {
            let name = name(source, v)?;
            if name.starts_with(|c: char| c.is_ascii_digit()) {
                source.error(v.span(), "the name of a port cannot start with a digit");
                return None;
            }
            Some(name)
        });
        let select = table.need(source, "select").and_then(|v| source.peer_selector(v));
        let protocol = match table.take("protocol") {
            Some(v) => source.protocol(v),
            None => Some(super::Protocol::TCP),
        };
        let port = table.need(source, "port").and_then(|v| source.integer(v, 1..=65535, "port"));
        table.finish(source);
        self.known.port_names.extend(name.clone());
        if let (Some(name), Some(select), Some(protocol), Some(port)) = (name, select, protocol, port) {
            self.named_ports.push(NamedPort { name, select, protocol, port: port as u16 });
        }
    }

    fn namespace(&mut self, source: &mut Source<'_>, value: &Node) {
        let Some(mut table) = source.table(value, "[[namespace]]") else { return };
        let name = self.unique_name(source, &mut table, "namespace");
        let labels = table.take("labels").map(|v| source.labels(v)).unwrap_or_default();
        table.finish(source);
        if let Some(name) = name {
            self.known.namespaces.insert(name, labels);
        }
    }

    fn policy(&mut self, source: &mut Source<'_>, value: &Node) {
        let Some(mut table) = source.table(value, "[[policy]]") else { return };
        let (tier_name, tier_span) = match table.take("tier") {
            Some(v) => (source.string(v, "tier").unwrap_or(DEFAULT_TIER).to_owned(), v.span()),
            None => (DEFAULT_TIER.to_owned(), table.span.clone()),
        };
        let tier = self.tier_index(source, &tier_name, tier_span, "[[tier]]");
        let name = table.need(source, "name").and_then(|v| Some((name(source, v)?, v.span())));
        let order = order(source, &mut table);
        let select = table.need(source, "select").and_then(|v| source.selector(v));
        let mut side = |key, direction| {
            table.take(key).map(|v| source.rules(v, Place::Endpoint(direction), &self.known))
        };
        let ingress = side("ingress", Direction::Ingress);
        let egress = side("egress", Direction::Egress);
        let staged = table.take("staged").and_then(|v| source.boolean(v, "staged")).unwrap_or(false);
        if ingress.is_none() && egress.is_none() {
            source.error_with_help(
                table.span.clone(),
                "the policy has neither `ingress` nor `egress`, so it does nothing",
                "`ingress = []` denies everything towards the selected endpoints",
            );
        }
        let origin = origin(source, &table.span);
        table.finish(source);
        if let (Some((name, span)), Some(tier), Some(order), Some(select)) = (name, tier, order, select) {
            let policy = Policy { name, tier, order, select, ingress, egress, staged, origin };
            self.add_policy(source, span, order as f64, policy);
        }
    }

    fn host_policy(&mut self, source: &mut Source<'_>, value: &Node) {
        let Some(mut table) = source.table(value, "[[host_policy]]") else { return };
        let name = self.unique_name(source, &mut table, "host_policy");
        let order = order(source, &mut table);
        let mut interfaces = Vec::new();
        if let Some(v) = table.take("interfaces") {
            for item in source.list(v) {
                interfaces.extend(interface(source, item));
            }
        }
        let ingress = table
            .need(source, "ingress")
            .map(|v| source.rules(v, Place::Host, &self.known))
            .unwrap_or_default();
        let staged = table.take("staged").and_then(|v| source.boolean(v, "staged")).unwrap_or(false);
        let origin = origin(source, &table.span);
        table.finish(source);
        if let (Some(name), Some(order)) = (name, order) {
            self.host_policies.push(HostPolicy { name, order, interfaces, ingress, staged, origin });
        }
    }

    fn profile(&mut self, source: &mut Source<'_>, value: &Node) {
        let Some(mut table) = source.table(value, "[[profile]]") else { return };
        let name = self.unique_name(source, &mut table, "profile");
        let select = table.need(source, "select").and_then(|v| source.selector(v));
        let words = [("allow", true), ("deny", false)];
        let mut side = |key| table.take(key).and_then(|v| source.word(v, key, &words));
        let (ingress, egress) = (side("ingress"), side("egress"));
        table.finish(source);
        if let (Some(name), Some(select)) = (name, select) {
            self.profiles.push(Profile { name, select, ingress, egress });
        }
    }

    fn unique_name(
        &mut self,
        source: &mut Source<'_>,
        table: &mut Table<'_>,
        kind: &'static str,
    ) -> Option<String> {
        let value = table.need(source, "name")?;
        let name = name(source, value)?;
        self.claim(source, value.span(), kind, name.clone()).then_some(name)
    }

    /// Takes a name for one object; false and an error if it is taken.
    fn claim(
        &mut self,
        source: &mut Source<'_>,
        span: Range<usize>,
        kind: &'static str,
        name: String,
    ) -> bool {
        let here = format!("{}:{}", source.name, source.line(span.start));
        match self.names.entry((kind, name)) {
            std::collections::btree_map::Entry::Occupied(first) => {
                source.error(
                    span,
                    format!("{kind} `{}` is defined twice, first at {}", first.key().1, first.get()),
                );
                false
            }
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(here);
                true
            }
        }
    }

    fn finish(mut self) -> PolicySet {
        self.policies.sort_by(|(x, a), (y, b)| {
            a.tier.cmp(&b.tier).then(x.total_cmp(y)).then_with(|| a.name.cmp(&b.name))
        });
        self.host_policies.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        PolicySet {
            tiers: self.known.tiers,
            policies: self.policies.into_iter().map(|(_, policy)| Arc::new(policy)).collect(),
            profiles: self.profiles,
            named_ports: self.named_ports,
            host_policies: self.host_policies.into_iter().map(Arc::new).collect(),
        }
    }
}

const ORDERS: std::ops::RangeInclusive<i64> = -1_000_000_000..=1_000_000_000;

fn order(source: &mut Source<'_>, table: &mut Table<'_>) -> Option<i64> {
    match table.take("order") {
        Some(v) => source.integer(v, ORDERS, "order"),
        None => Some(DEFAULT_ORDER),
    }
}

fn origin(source: &Source<'_>, span: &Range<usize>) -> Origin {
    Origin { file: source.name.into(), line: source.line(span.start) }
}

/// The entries of an array of tables.
fn tables<'v>(source: &mut Source<'_>, top: &mut Table<'v>, key: &'static str) -> Vec<&'v Node> {
    match top.take(key) {
        None => Vec::new(),
        Some(value) => {
            if !matches!(value.data, Data::List(_)) {
                source.error(
                    value.span(),
                    format!("write `[[{key}]]`, with two brackets: there can be several"),
                );
                return Vec::new();
            }
            source.list(value)
        }
    }
}

/// A name: it appears in nftables comments and tables on screen, so it is kept short and printable.
fn name(source: &mut Source<'_>, value: &Node) -> Option<String> {
    let text = source.string(value, "name")?;
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
    if text.is_empty() || text.len() > 120 || !text.chars().all(fine) {
        source.error(value.span(), "a name has 1 to 120 letters, digits, `-`, `_`, `.`, `:` or `/`");
        return None;
    }
    Some(text.to_owned())
}

/// An interface name of at most 15 bytes, perhaps with a `*` at the end.
fn interface(source: &mut Source<'_>, value: &Node) -> Option<String> {
    let text = source.string(value, "an interface")?;
    let stem = text.strip_suffix('*').unwrap_or(text);
    let fine = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '"' | '*' | '\\');
    if text.is_empty() || text.len() > 15 || !stem.chars().all(fine) {
        source.error(value.span(), format!("`{text}` is not an interface name"));
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod fields;
#[cfg(test)]
mod tests;
