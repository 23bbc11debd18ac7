//! Calico's policies (projectcalico.org/v3) with the semantics they have there.
//!
//! - `NetworkPolicy` and `GlobalNetworkPolicy`, their staged forms, `Tier`, `NetworkSet`, `GlobalNetworkSet`, and of
//!   `Profile` what says how namespaces behave that no policy selects (`kns.NAME`).
//! - A workload's namespace is its label `namespace`; `projectcalico.org/namespace` is another name for it. A
//!   container without that label is in no namespace: `global()` finds it, a namespaced policy does not.
//! - Network sets are found by the selectors of rules, as endpoints are.
//! - Runtimes do not tell service accounts: they are the containers' labels `projectcalico.org/serviceaccount` and, for
//!   the accounts' own labels, `pcsa.KEY`, which is how Calico itself calls them in selectors of endpoints.
//! - What is about host endpoints (`doNotTrack`, `preDNAT`, `applyOnForward`), services, domains and HTTP is refused:
//!   leaving it out would change what a policy allows.

mod rule;

use std::ops::Range;

use super::{
    BUILT_IN_TIERS, Builder, DEFAULT_TIER, Definitions,
    kubernetes::{Meta, NAMESPACE, in_namespace, staged_action},
    origin,
    tree::{Data, Node},
    walk::{Source, Table},
};
use crate::{
    model::{Family, Labels, Prefix},
    policy::{Direction, Policy, Profile, Rule, Tier, TierDefault, ranges::Ranges, selector::Selector},
};

/// How Calico calls the label with the namespace.
const CALICO_NAMESPACE: &str = "projectcalico.org/namespace";
/// What Calico puts before labels of namespaces where labels of endpoints are asked for.
const NAMESPACE_LABELS: &str = "pcns.";
/// The same for labels of service accounts. Nobody else tells them here, so containers have them as labels of their own.
const ACCOUNT_LABELS: &str = "pcsa.";
/// The label with the name of the service account.
const ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// The kinds of projectcalico.org/v3 that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CalicoKind {
    Tier,
    /// Whether it is in a namespace.
    NetworkSet(bool),
    Profile,
    Policy {
        namespaced: bool,
        staged: bool,
    },
    /// Of Kubernetes' shape.
    StagedKubernetes,
}

impl CalicoKind {
    /// The kind of a name.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "Tier" => Self::Tier,
            "NetworkSet" => Self::NetworkSet(true),
            "GlobalNetworkSet" => Self::NetworkSet(false),
            "Profile" => Self::Profile,
            "NetworkPolicy" => Self::Policy { namespaced: true, staged: false },
            "GlobalNetworkPolicy" => Self::Policy { namespaced: false, staged: false },
            "StagedNetworkPolicy" => Self::Policy { namespaced: true, staged: true },
            "StagedGlobalNetworkPolicy" => Self::Policy { namespaced: false, staged: true },
            "StagedKubernetesNetworkPolicy" => Self::StagedKubernetes,
            _ => return None,
        })
    }
}

/// A network set with what selectors see of it.
#[derive(Debug)]
pub(super) struct LabelledSet {
    labels: Labels,
    ranges: Ranges,
}

impl Definitions {
    /// The addresses of network sets that a selector of endpoints matches.
    fn set_ranges(&self, selector: &Selector) -> Ranges {
        let matching = self.labelled_sets.iter().filter(|set| selector.matches(&set.labels));
        matching.fold(Ranges::default(), |all, set| all.union(&set.ranges))
    }

    /// The endpoints and network sets that a `namespaceSelector` matches: unlike Kubernetes', it can also match what
    /// is in no namespace.
    fn calico_namespaces(&self, selector: &Selector) -> Selector {
        let outside = selector.rewrite(&|leaf| match leaf {
            Selector::Has(key) if key == Selector::GLOBAL => Selector::All,
            _ => Selector::Nothing,
        });
        let inside = self.namespaces(&selector.rewrite(&|leaf| match leaf {
            Selector::Has(key) if key == Selector::GLOBAL => Selector::Nothing,
            other => other.clone(),
        }));
        let nowhere = Selector::Has(NAMESPACE.into()).not();
        Selector::or([inside, Selector::and([nowhere, outside])])
    }
}

/// The tier that Calico's name means.
fn tier_name(name: &str) -> &str {
    match name {
        "adminnetworkpolicy" | "kube-admin" => "admin",
        "baselineadminnetworkpolicy" | "kube-baseline" => "baseline",
        // Names of ours that mean nothing to Calico.
        "admin" => "calico:admin",
        "baseline" => "calico:baseline",
        other => other,
    }
}

impl Source<'_> {
    /// An order: any number; absent or null means last.
    fn calico_order(&mut self, node: Option<&Node>) -> f64 {
        match node.map(|n| &n.data) {
            None | Some(Data::Null) => f64::INFINITY,
            Some(Data::Integer(Some(n))) => *n as f64,
            Some(Data::Float(n)) if n.is_finite() => *n,
            _ => {
                let node = node.expect("an absent node is handled above");
                self.error(node.span(), format!("order must be a number, not {}", node.kind()));
                f64::INFINITY
            }
        }
    }

    /// A selector of endpoints in Calico's syntax; an empty one matches everything.
    fn calico_selector(&mut self, node: &Node, known: &Definitions) -> Option<Selector> {
        let selector = self.calico_text(node, false)?;
        Some(selector.rewrite(&|leaf| {
            let key = leaf.keys().first().map(|k| (*k).to_owned()).unwrap_or_default();
            if let Some(label) = key.strip_prefix(NAMESPACE_LABELS) {
                return known.namespaces(&leaf.with_keys(&|_| label.to_owned()));
            }
            leaf.with_keys(&|key| if key == CALICO_NAMESPACE { NAMESPACE.into() } else { key.to_owned() })
        }))
    }

    /// A `namespaceSelector`, as the endpoints and sets it matches.
    fn calico_namespace_selector(&mut self, node: &Node, known: &Definitions) -> Option<Selector> {
        self.calico_text(node, true).map(|selector| known.calico_namespaces(&selector))
    }

    /// A selector of service accounts, as one of the containers with their labels.
    fn calico_account_selector(&mut self, node: &Node) -> Option<Selector> {
        let selector = self.calico_text(node, false)?;
        Some(selector.with_keys(&|key| format!("{ACCOUNT_LABELS}{key}")))
    }

    /// `serviceAccounts` of a rule: one of the names, and the selector.
    fn calico_accounts(&mut self, node: &Node) -> Option<Selector> {
        let mut table = self.table(node, "`serviceAccounts`")?;
        let mut parts = Vec::new();
        if let Some(list) = table.take("names").filter(|n| !is_empty(n)) {
            let names: Option<Vec<_>> =
                self.items(list).into_iter().map(|n| self.string(n, "a service account")).collect();
            let names = names?;
            if !names.is_empty() {
                parts.push(Selector::any_value(ACCOUNT, names));
            }
        }
        if let Some(selector) = table.take("selector").filter(|n| !is_empty(n)) {
            parts.push(self.calico_account_selector(selector)?);
        }
        table.finish(self);
        Some(Selector::and(parts))
    }

    fn calico_text(&mut self, node: &Node, global: bool) -> Option<Selector> {
        if matches!(node.data, Data::Null) {
            return Some(Selector::All);
        }
        let text = self.string(node, "a selector")?;
        if text.trim().is_empty() {
            return Some(Selector::All);
        }
        let parsed = if global { Selector::parse_with_global(text) } else { text.parse() };
        match parsed {
            Ok(selector) => Some(selector),
            Err(error) => {
                let span = self.inside(node.span(), text, error.at);
                self.error(span, error.message);
                None
            }
        }
    }

    /// A list of addresses and CIDRs; none if it is absent or empty. Calico lets sets have bits beyond the length, and
    /// rules not; nor may a rule have CIDRs of both families, or of another than its `ipVersion`: `family` is what the
    /// first CIDR of a rule says.
    fn calico_nets(&mut self, node: Option<&Node>, rule: Option<&mut Option<Family>>) -> Option<Ranges> {
        let mut list = Vec::new();
        let strict = rule.is_some();
        let mut unused = None;
        let family = rule.unwrap_or(&mut unused);
        for item in node.map(|n| self.items(n)).unwrap_or_default() {
            let Some(text) = self.string(item, "an address or CIDR") else { continue };
            let prefix = if strict { text.parse() } else { Prefix::parse_lenient(text) };
            if let Ok(prefix) = &prefix
                && strict
                && *family.get_or_insert(prefix.family()) != prefix.family()
            {
                let message = "this rule is about the other family: IPv4 and IPv6 cannot be in one rule";
                self.error_with_help(item.span(), message, "write a rule for each");
            }
            match prefix {
                Ok(prefix) => list.push(prefix),
                Err(error) => self.error(item.span(), error.to_string()),
            }
        }
        (!list.is_empty()).then(|| list.into_iter().collect())
    }

    /// Refuses a key that is there and says something.
    fn refuse(&mut self, table: &mut Table<'_>, key: &'static str, why: &str) {
        let Some(node) = table.take(key) else { return };
        let says_nothing = match &node.data {
            Data::Null | Data::Boolean(false) => true,
            Data::String(text) => text.trim().is_empty(),
            Data::List(items) => items.is_empty(),
            Data::Table(entries) => entries.is_empty(),
            _ => false,
        };
        if !says_nothing {
            self.error(node.span(), format!("`{key}` is not supported: {why}"));
        }
    }

    fn spec<'v>(&mut self, meta: &Meta, document: &'v Node, what: &'static str) -> Option<Table<'v>> {
        let spec = document.get("spec");
        if spec.is_none() {
            self.error(meta.span.clone(), "the object has no `spec`");
        }
        spec.and_then(|spec| self.table(spec, what))
    }
}

impl Builder {
    /// What policies refer to.
    pub(super) fn calico_definition(&mut self, source: &mut Source<'_>, document: &Node, kind: CalicoKind) {
        match kind {
            CalicoKind::Tier => self.calico_tier(source, document),
            CalicoKind::NetworkSet(namespaced) => self.calico_set(source, document, namespaced),
            _ => {}
        }
    }

    /// Policies and profiles.
    pub(super) fn calico_object(&mut self, source: &mut Source<'_>, document: &Node, kind: CalicoKind) {
        match kind {
            CalicoKind::Policy { namespaced, staged } => {
                self.calico_policy(source, document, namespaced, staged);
            }
            CalicoKind::StagedKubernetes => self.network_policy(source, document, true),
            CalicoKind::Profile => self.calico_profile(source, document),
            CalicoKind::Tier | CalicoKind::NetworkSet(_) => {}
        }
    }

    fn calico_tier(&mut self, source: &mut Source<'_>, document: &Node) {
        let Some(meta) = source.meta(document) else { return };
        let mut tier =
            Tier { name: tier_name(&meta.name).to_owned(), order: LAST, default: TierDefault::Deny };
        // A tier without a spec is one with all defaults.
        if let Some(spec) = document.get("spec") {
            let Some(mut table) = source.table(spec, "the spec of a Tier") else { return };
            let order = table.take("order");
            let number = source.calico_order(order);
            if number.is_finite() {
                tier.order = number as i64;
                if let Some(node) = order.filter(|_| number.fract() != 0.0) {
                    source.error(node.span(), "the order of a tier must be a whole number");
                }
            }
            if let Some(node) = table.take("defaultAction") {
                let words = [("Deny", TierDefault::Deny), ("Pass", TierDefault::Pass)];
                tier.default = source.word(node, "defaultAction", &words).unwrap_or(TierDefault::Deny);
            }
            table.finish(source);
        }
        if let Some((name, order, default)) = BUILT_IN_TIERS.into_iter().find(|(name, ..)| *name == tier.name)
        {
            // Policies of Kubernetes rely on these; Calico refuses to change them as well.
            if tier.order == LAST {
                tier.order = order;
            }
            if tier.order != order || tier.default != default {
                source.error(
                    meta.span,
                    format!(
                        "the tier `{}` cannot be changed: it is slash32's `{name}`, its order is {order} and its default action {}",
                        meta.name,
                        if default == TierDefault::Deny { "Deny" } else { "Pass" }
                    ),
                );
                return;
            }
        }
        self.add_tier(source, meta.span, tier);
    }

    fn calico_set(&mut self, source: &mut Source<'_>, document: &Node, namespaced: bool) {
        let Some(meta) = source.meta(document) else { return };
        let node = document.get("metadata").and_then(|m| m.get("labels"));
        let mut labels = node.map(|l| source.labels(l)).unwrap_or_default();
        if let Some(node) = node.filter(|_| labels.has(CALICO_NAMESPACE)) {
            // Selectors mean the set's own namespace by it.
            let message =
                format!("`{CALICO_NAMESPACE}` is not a label of a set: a NetworkSet has `namespace`");
            source.error(node.span(), message);
        }
        labels.remove(NAMESPACE);
        if namespaced && let Err(error) = labels.insert(NAMESPACE, meta.namespace.as_str()) {
            source.error(meta.span.clone(), error.to_string());
        }
        let mut ranges = None;
        if let Some(spec) = document.get("spec") {
            let Some(mut table) = source.table(spec, "the spec of a network set") else { return };
            ranges = source.calico_nets(table.take("nets"), None);
            source.refuse(&mut table, "allowedEgressDomains", "names of domains are not resolved here");
            table.finish(source);
        }
        let name = if namespaced { format!("{}/{}", meta.namespace, meta.name) } else { meta.name };
        let kind = if namespaced { "NetworkSet" } else { "GlobalNetworkSet" };
        if self.claim(source, meta.span, kind, name) {
            self.known.labelled_sets.push(LabelledSet { labels, ranges: ranges.unwrap_or_default() });
        }
    }

    fn calico_policy(&mut self, source: &mut Source<'_>, document: &Node, namespaced: bool, staged: bool) {
        let Some(meta) = source.meta(document) else { return };
        let Some(mut table) = source.spec(&meta, document, "the spec of a Calico policy") else { return };
        let before = source.errors.len();
        let tier = match table.take("tier") {
            Some(node) => source.string(node, "tier").map_or((DEFAULT_TIER, node.span()), |t| {
                (if t.is_empty() { DEFAULT_TIER } else { tier_name(t) }, node.span())
            }),
            None => (DEFAULT_TIER, table.span.clone()),
        };
        let tier = self.tier_index(source, tier.0, tier.1, "Tier");
        let order = source.calico_order(table.take("order"));
        let namespace = namespaced.then_some(meta.namespace.as_str());
        let mut select = vec![match table.take("selector") {
            Some(node) => source.calico_selector(node, &self.known),
            None => Some(Selector::All),
        }];
        if let Some(namespace) = namespace {
            select.push(Some(in_namespace(namespace)));
        } else if let Some(node) = table.take("namespaceSelector")
            && !is_empty(node)
        {
            select.push(source.calico_namespace_selector(node, &self.known));
        }
        if let Some(node) = table.take("serviceAccountSelector").filter(|n| !is_empty(n)) {
            select.push(source.calico_account_selector(node));
        }
        for key in ["doNotTrack", "preDNAT", "applyOnForward"].into_iter().filter(|_| !namespaced) {
            source.refuse(
                &mut table,
                key,
                "it is about host endpoints, which slash32 protects by `[[host_policy]]`",
            );
        }
        for hint in table.take("performanceHints").map(|v| source.items(v)).unwrap_or_default() {
            source.word(hint, "performance hint", &[("AssumeNeededOnEveryNode", ())]);
        }
        if staged && let Some(action) = table.take("stagedAction") {
            staged_action(source, action);
        }
        let (ingress, egress) = (table.take("ingress"), table.take("egress"));
        let types = table.take("types");
        let span = table.span.clone();
        table.finish(source);
        let mut rules = |list: Option<&Node>, direction| -> Vec<Rule> {
            let items = list.map(|l| source.items(l)).unwrap_or_default();
            let rules = items.into_iter();
            rules.filter_map(|item| source.calico_rule(item, direction, namespace, &self.known)).collect()
        };
        let ingress = rules(ingress, Direction::Ingress);
        let egress = rules(egress, Direction::Egress);
        let types = match types {
            Some(list) if !source.items(list).is_empty() => types_of(source, list),
            // Without rules for egress only, a policy is about ingress.
            _ => (egress.is_empty() || !ingress.is_empty(), !egress.is_empty()),
        };
        let (Some(tier), Some(select)) = (tier, select.into_iter().collect::<Option<Vec<_>>>()) else {
            return;
        };
        if source.errors.len() > before {
            return;
        }
        let name = namespace.map_or_else(|| meta.name.clone(), |ns| format!("{ns}/{}", meta.name));
        let policy = Policy {
            name: format!("{}:{name}", if staged { "staged-calico" } else { "calico" }),
            tier,
            order: if order.is_finite() { order.floor() as i64 } else { LAST },
            select: Selector::and(select),
            ingress: types.0.then_some(ingress),
            egress: types.1.then_some(egress),
            staged,
            origin: origin(source, &span),
        };
        self.add_policy(source, meta.span, order, policy);
    }

    /// `kns.NAMESPACE` with one rule for everything in each direction, which is all that Calico itself makes.
    fn calico_profile(&mut self, source: &mut Source<'_>, document: &Node) {
        let Some(meta) = source.meta(document) else { return };
        let Some(namespace) = meta.name.strip_prefix("kns.") else {
            source.error_with_help(
                meta.span,
                format!("the profile `{}` belongs to no namespace, so nothing is known to use it", meta.name),
                "write [[profile]] with a selector, or a policy in a late tier",
            );
            return;
        };
        let Some(mut table) = source.spec(&meta, document, "the spec of a Profile") else { return };
        let labels = "give the labels to the containers, or to the namespace";
        source.refuse(&mut table, "labelsToApply", labels);
        let mut side = |key, direction| -> Option<bool> {
            // A direction without rules allows nothing.
            let Some(node) = table.take(key) else { return Some(false) };
            let items = source.items(node);
            let rules: Vec<Rule> = items
                .iter()
                .filter_map(|item| source.calico_rule(item, direction, Some(namespace), &self.known))
                .collect();
            match &rules[..] {
                [] => Some(false),
                [rule]
                    if rule.peers.is_empty() && rule.services.is_empty() && rule.not_services.is_empty() =>
                {
                    Some(rule.action == crate::policy::Action::Allow)
                }
                _ => {
                    source.error_with_help(
                        node.span(),
                        "a profile can only allow or deny everything",
                        "write the rules as a policy in a tier after `default`",
                    );
                    None
                }
            }
        };
        let (ingress, egress) = (side("ingress", Direction::Ingress), side("egress", Direction::Egress));
        table.finish(source);
        let select = in_namespace(namespace);
        if self.claim(source, meta.span, "profile", meta.name.clone()) {
            self.profiles.push(Profile { name: meta.name, select, ingress, egress });
        }
    }
}

/// The order of what comes last: it says none.
pub(super) const LAST: i64 = i64::MAX;

fn is_empty(node: &Node) -> bool {
    match &node.data {
        Data::Null => true,
        Data::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// Whether a policy is for ingress and for egress.
fn types_of(source: &mut Source<'_>, list: &Node) -> (bool, bool) {
    let mut types = (false, false);
    for item in source.items(list) {
        let there = match source.word(item, "type", &[("Ingress", true), ("Egress", false)]) {
            Some(true) => &mut types.0,
            Some(false) => &mut types.1,
            None => continue,
        };
        if std::mem::replace(there, true) {
            source.error(item.span(), "this type is there twice");
        }
    }
    types
}

/// The place of an object for errors about the whole of it.
pub(super) fn start_of(node: &Node) -> Range<usize> {
    node.span().start..node.span().start + 1
}
