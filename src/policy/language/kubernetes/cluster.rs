//! The cluster-wide kinds: `AdminNetworkPolicy`, its baseline, and `ClusterNetworkPolicy`, which took the place of both.

use std::collections::BTreeMap;

use super::{
    NAMESPACE, is_name,
    ports::{admin_port, cluster_protocol},
    selected,
};
use crate::{
    model::Prefix,
    policy::{
        Action, Direction, Peer, Policy, Ports, Rule,
        language::{
            Builder, Definitions,
            tree::Node,
            walk::{Source, Table},
        },
        selector::Selector,
    },
};

/// The cluster-wide kinds of policy.network.k8s.io.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy::language) enum ClusterKind {
    Admin,
    Baseline,
    /// Whether CIDRs must have no bits beyond their length, as since v1beta1.
    Cluster {
        masked: bool,
    },
}

impl ClusterKind {
    const NAMES: [&str; 3] = ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"];

    /// Whether it is the one kind that took the place of the two others.
    const fn is_cluster(self) -> bool {
        matches!(self, Self::Cluster { .. })
    }

    const fn name(self) -> &'static str {
        let [admin, baseline, cluster] = Self::NAMES;
        match self {
            Self::Admin => admin,
            Self::Baseline => baseline,
            Self::Cluster { .. } => cluster,
        }
    }
}

/// Kinds of peers that nothing here can answer, and why.
const UNSUPPORTED_PEERS: [(&str, &str); 2] = [
    ("nodes", "hosts have no labels; use `networks` with the hosts' addresses"),
    ("domainNames", "names of domains are not resolved here; use `networks`"),
];

impl Definitions {
    /// Namespaces that have all of the labels, with the same values as the subject's namespace; or with a different value of
    /// one of them at least. One peer for each group of namespaces that agree.
    ///
    /// Namespaces that are not defined have no labels that could be the same as others', not even of the name, as
    /// nobody knows which there are.
    fn like_subject(&self, keys: &[String], same: bool) -> Vec<Peer> {
        let mut groups: BTreeMap<Vec<Option<&str>>, Vec<&str>> = BTreeMap::new();
        for (name, labels) in &self.namespaces {
            let value = |key: &String| if is_name(key) { Some(name.as_str()) } else { labels.get(key) };
            groups.entry(keys.iter().map(value).collect()).or_default().push(name);
        }
        let complete = |values: &[Option<&str>]| values.iter().all(Option::is_some);
        let within = |names: &[&str]| Selector::any_value(NAMESPACE, names.iter().copied());
        let peer = |selector, own| Peer {
            selector: Some(selector),
            own: Some(Box::new(selected(own))),
            ..Peer::default()
        };
        let mut peers = Vec::new();
        if keys.is_empty() {
            // Kubernetes: then nothing is selected.
        } else if same {
            let whole = groups.iter().filter(|(values, _)| complete(values));
            peers.extend(whole.map(|(_, names)| peer(within(names), within(names))));
        } else {
            let others = |of: Option<&Vec<Option<&str>>>| -> Vec<&str> {
                let others = groups.iter().filter(|(v, _)| complete(v) && Some(*v) != of);
                others.flat_map(|(_, names)| names.iter().copied()).collect()
            };
            let each = groups.iter().map(|(values, names)| (others(Some(values)), within(names)));
            let undefined = Selector::and([
                Selector::Has(NAMESPACE.into()),
                Selector::any_value(NAMESPACE, self.namespaces.keys()).not(),
            ]);
            let each = each.chain([(others(None), undefined)]);
            peers.extend(each.filter(|(far, _)| !far.is_empty()).map(|(far, own)| peer(within(&far), own)));
        }
        if peers.is_empty() {
            peers.push(selected(Selector::Nothing));
        }
        peers
    }
}

impl Builder {
    /// `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy` and `ClusterNetworkPolicy`.
    pub(in crate::policy::language) fn cluster_policy(
        &mut self,
        source: &mut Source<'_>,
        document: &Node,
        kind: ClusterKind,
    ) {
        let Some(meta) = source.meta(document) else { return };
        let Some(spec) = document.get("spec") else {
            source.error(meta.span, "the policy has no `spec`");
            return;
        };
        let Some(mut table) = source.table(spec, "the spec of a cluster-wide policy") else { return };
        if kind == ClusterKind::Baseline && meta.name != "default" {
            source.error(
                meta.span.clone(),
                "there is one BaselineAdminNetworkPolicy, and its name is `default`",
            );
        }
        let tier = match kind {
            ClusterKind::Admin => Some("admin"),
            ClusterKind::Baseline => Some("baseline"),
            ClusterKind::Cluster { .. } => table
                .need(source, "tier")
                .and_then(|v| source.word(v, "tier", &[("Admin", "admin"), ("Baseline", "baseline")])),
        };
        let order = match kind {
            ClusterKind::Baseline => Some(0),
            _ => table.need(source, "priority").and_then(|v| source.integer(v, 0..=1000, "priority")),
        };
        let subject = table.need(source, "subject").and_then(|v| self.subject(source, v, kind));
        let mut rules = |table: &mut Table<'_>, key, direction| {
            let node = table.take(key)?;
            let items = source.items(node);
            let rules: Vec<Rule> = items
                .into_iter()
                .filter_map(|item| self.cluster_rule(source, item, direction, kind))
                .collect();
            // A policy without rules for a direction does not concern it.
            (!rules.is_empty()).then_some(rules)
        };
        let ingress = rules(&mut table, "ingress", Direction::Ingress);
        let egress = rules(&mut table, "egress", Direction::Egress);
        let span = table.span.clone();
        table.finish(source);
        if let (Some(tier), Some(order), Some(select)) = (tier, order, subject) {
            if !self.claim(source, meta.span.clone(), kind.name(), meta.name.clone()) {
                return;
            }
            // Objects of different kinds may have the same name; the later one says which it is.
            let mut others = ClusterKind::NAMES.into_iter().filter(|other| *other != kind.name());
            let taken = others.any(|other| self.names.contains_key(&(other, meta.name.clone())))
                && self.names.contains_key(&("policy", format!("{tier}/{}", meta.name)));
            let name = if taken { format!("{}:{}", kind.name(), meta.name) } else { meta.name.clone() };
            self.add_kubernetes(source, &meta, span, |builder, origin| Policy {
                name,
                tier: builder.known.tier(tier),
                order,
                select,
                ingress,
                egress,
                staged: false,
                origin,
            });
        }
    }

    /// `namespaces` or `pods`, exactly one.
    fn subject(&self, source: &mut Source<'_>, node: &Node, kind: ClusterKind) -> Option<Selector> {
        let mut table = source.table(node, "a subject")?;
        let (namespaces, pods) = (table.take("namespaces"), table.take("pods"));
        let span = table.span.clone();
        table.finish(source);
        match (namespaces, pods) {
            (Some(node), None) => Some(self.known.namespaces(&source.label_selector(node)?)),
            (None, Some(node)) => self.namespaced_pods(source, node, kind),
            _ => {
                source.error(span, "give exactly one of `namespaces` and `pods`");
                None
            }
        }
    }

    /// Pods by both of their selectors. That of namespaces may be left out since v1alpha2.
    fn namespaced_pods(&self, source: &mut Source<'_>, node: &Node, kind: ClusterKind) -> Option<Selector> {
        let mut table = source.table(node, "`pods`")?;
        let namespaces = match table.take("namespaceSelector") {
            Some(node) => source.label_selector(node)?,
            None if kind.is_cluster() => Selector::All,
            None => {
                source.error_with_help(
                    table.span.clone(),
                    "`pods` needs `namespaceSelector`",
                    "`namespaceSelector: {}` selects all namespaces",
                );
                return None;
            }
        };
        let pods = table.need(source, "podSelector").and_then(|v| source.label_selector(v));
        table.finish(source);
        Some(Selector::and([self.known.namespaces(&namespaces), pods?]))
    }

    fn cluster_rule(
        &self,
        source: &mut Source<'_>,
        node: &Node,
        direction: Direction,
        kind: ClusterKind,
    ) -> Option<Rule> {
        let mut table = source.table(node, "a rule of a cluster-wide policy")?;
        if let Some(node) = table.take("name")
            && source.string(node, "name").is_some_and(|name| name.chars().count() > 100)
        {
            source.error(node.span(), "the name of a rule has at most 100 characters");
        }
        let actions: &[(&str, Action)] = match kind {
            ClusterKind::Admin => &[("Allow", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)],
            ClusterKind::Baseline => &[("Allow", Action::Allow), ("Deny", Action::Deny)],
            ClusterKind::Cluster { .. } => {
                &[("Accept", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)]
            }
        };
        let action = table.need(source, "action").and_then(|v| source.word(v, "action", actions));
        let side = if direction == Direction::Ingress { "from" } else { "to" };
        let peers = table.need(source, side);
        let key = if kind.is_cluster() { "protocols" } else { "ports" };
        let services = table.take(key);
        let span = table.span.clone();
        table.finish(source);
        let before = source.errors.len();
        if let Some(node) = services.filter(|node| source.items(node).is_empty()) {
            source.error_with_help(
                node.span(),
                format!("`{key}` must not be empty"),
                "leave it out for all protocols and ports",
            );
        }
        let mut all = Vec::new();
        for item in source.items(peers?) {
            all.extend(self.cluster_peer(source, item, direction, kind));
        }
        if all.is_empty() && source.errors.len() == before {
            source.error(span, format!("`{side}` must not be empty"));
        }
        let mut list = Vec::new();
        for item in services.map(|s| source.items(s)).unwrap_or_default() {
            list.extend(match kind {
                ClusterKind::Cluster { .. } => cluster_protocol(source, item),
                _ => admin_port(source, item),
            });
        }
        let networks = all.iter().any(|p| p.ranges.is_some());
        if networks && list.iter().any(|s| matches!(s.ports, Ports::Named(_))) {
            source.error(
                node.span(),
                "a named port cannot be combined with `networks`: addresses name no ports",
            );
        }
        if source.errors.len() > before {
            return None;
        }
        Some(source.rule_from(node, action?, all, list))
    }

    /// The ways in which a peer can be the other side; none after an error.
    fn cluster_peer(
        &self,
        source: &mut Source<'_>,
        node: &Node,
        direction: Direction,
        kind: ClusterKind,
    ) -> Vec<Peer> {
        let Some(mut table) = source.table(node, "a peer of a cluster-wide policy") else {
            return Vec::new();
        };
        let span = table.span.clone();
        let (namespaces, pods) = (table.take("namespaces"), table.take("pods"));
        let egress = direction == Direction::Egress;
        let networks = if egress { table.take("networks") } else { None };
        for (key, why) in UNSUPPORTED_PEERS {
            if let Some(node) = egress.then(|| table.take(key)).flatten() {
                source.error(node.span(), format!("peers by `{key}` are not supported: {why}"));
                return Vec::new();
            }
        }
        table.finish(source);
        match (namespaces, pods, networks) {
            (Some(node), None, None) => self.namespaces_peer(source, node, kind).unwrap_or_default(),
            (None, Some(node), None) => self.pods_peer(source, node, kind).unwrap_or_default(),
            (None, None, Some(node)) => {
                let items = source.items(node);
                if items.is_empty() {
                    source.error(node.span(), "`networks` must not be empty");
                }
                let masked = kind == ClusterKind::Cluster { masked: true };
                let prefix = |item| if masked { source.masked_cidr(item) } else { source.cidr(item) };
                let prefixes: Vec<Prefix> = items.into_iter().filter_map(prefix).collect();
                vec![Peer { ranges: Some(prefixes.into_iter().collect()), ..Peer::default() }]
            }
            _ => {
                source.error(span, "a peer must have exactly one kind of selector");
                Vec::new()
            }
        }
    }

    /// `pods`, with the namespaces in the form of today or in the one of the first releases of v1alpha1.
    fn pods_peer(&self, source: &mut Source<'_>, node: &Node, kind: ClusterKind) -> Option<Vec<Peer>> {
        if node.get("namespaces").is_none() || kind.is_cluster() {
            return self.namespaced_pods(source, node, kind).map(|selector| vec![selected(selector)]);
        }
        let mut table = source.table(node, "`pods`")?;
        let namespaces = table.need(source, "namespaces").and_then(|v| self.namespaces_peer(source, v, kind));
        let pods = table.need(source, "podSelector").and_then(|v| source.label_selector(v));
        table.finish(source);
        let pods = pods?;
        let and_pods = |peer: Peer| {
            let selector = Selector::and(peer.selector.into_iter().chain([pods.clone()]));
            Peer { selector: Some(selector), ..peer }
        };
        Some(namespaces?.into_iter().map(and_pods).collect())
    }

    /// A selector of namespaces; or, as the first releases of v1alpha1 had it, one of `namespaceSelector`, `sameLabels`
    /// and `notSameLabels`.
    fn namespaces_peer(&self, source: &mut Source<'_>, node: &Node, kind: ClusterKind) -> Option<Vec<Peer>> {
        const KEYS: [&str; 3] = ["namespaceSelector", "sameLabels", "notSameLabels"];
        if kind.is_cluster() || KEYS.iter().all(|key| node.get(key).is_none()) {
            let selector = source.label_selector(node)?;
            return Some(vec![selected(self.known.namespaces(&selector))]);
        }
        let mut table = source.table(node, "`namespaces`")?;
        let [selector, same, different] = KEYS.map(|key| table.take(key));
        let span = table.span.clone();
        table.finish(source);
        match (selector, same, different) {
            (Some(node), None, None) => {
                let selector = source.label_selector(node)?;
                Some(vec![selected(self.known.namespaces(&selector))])
            }
            (None, Some(list), None) => Some(self.known.like_subject(&source.keys(list)?, true)),
            (None, None, Some(list)) => Some(self.known.like_subject(&source.keys(list)?, false)),
            _ => {
                source
                    .error(span, "give exactly one of `namespaceSelector`, `sameLabels` and `notSameLabels`");
                None
            }
        }
    }
}

impl Source<'_> {
    /// A list of keys of labels.
    fn keys(&mut self, node: &Node) -> Option<Vec<String>> {
        let items = self.items(node);
        items.into_iter().map(|item| self.string(item, "the key of a label").map(str::to_owned)).collect()
    }

    /// The same without bits beyond the length.
    fn masked_cidr(&mut self, node: &Node) -> Option<Prefix> {
        self.cidr(node)?;
        match self.string(node, "a CIDR")?.parse::<Prefix>() {
            Ok(prefix) => Some(prefix),
            Err(error) => {
                let help = "policy.networking.k8s.io/v1beta1 refuses bits beyond the length";
                self.error_with_help(node.span(), error.to_string(), help);
                None
            }
        }
    }
}
