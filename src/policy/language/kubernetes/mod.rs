//! Kubernetes policies with the semantics they have in a cluster.
//!
//! - `NetworkPolicy` (networking.k8s.io/v1) goes into the default tier, `AdminNetworkPolicy` and its baseline
//!   (policy.networking.k8s.io/v1alpha1) and `ClusterNetworkPolicy` (v1alpha2) into the tiers `admin` and `baseline`.
//! - A pod's namespace is its label `namespace`. Labels of namespaces come from `Namespace` objects or `[[namespace]]`
//!   and are worked in when the files are read: a selector of namespaces becomes `namespace in {…}`, which hosts can
//!   answer for remote endpoints too.
//! - Port names come from `[[named_port]]`, as nobody tells us the pods' container ports; a name that is not defined
//!   matches nothing.

mod ports;

use std::{collections::BTreeMap, ops::Range};

use self::ports::{admin_port, cluster_protocol, network_policy_port};
use super::{
    Builder, DEFAULT_ORDER, DEFAULT_TIER, Definitions, origin,
    tree::{Data, Node},
    walk::{Source, Table},
};
use crate::{
    model::{Labels, Prefix},
    policy::{
        Action, Direction, Origin, Peer, Policy, Ports, Rule, Service, ranges::Ranges, selector::Selector,
    },
};

/// The label that says which namespace an endpoint is in.
pub(super) const NAMESPACE: &str = "namespace";
/// The labels that every namespace has: its name, as Kubernetes and as Calico call it.
const NAMESPACE_NAMES: [&str; 2] = ["kubernetes.io/metadata.name", "projectcalico.org/name"];

/// Name and namespace of an object.
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) span: Range<usize>,
}

impl Definitions {
    /// The endpoints in the namespaces that a selector of namespaces matches.
    pub(super) fn namespaces(&self, selector: &Selector) -> Selector {
        let has = Selector::Has(NAMESPACE.into());
        if *selector == Selector::All {
            return has;
        }
        // The name is known of every namespace, so that needs no definition.
        if selector.keys().iter().all(|key| is_name(key)) {
            return Selector::and([has, selector.with_keys(&|_| NAMESPACE.to_owned())]);
        }
        let matching = self.namespaces.iter().filter(|(name, labels)| {
            let mut labels = (*labels).clone();
            for key in NAMESPACE_NAMES {
                // The name of a namespace is a valid value.
                let _ = labels.insert(key, *name);
            }
            selector.matches(&labels)
        });
        let matching = Selector::any_value(NAMESPACE, matching.map(|(name, _)| name.as_str()));
        // A namespace that is not defined has no label but its name.
        let undefined = selector.rewrite(&|leaf| match leaf {
            Selector::All => Selector::All,
            leaf if leaf.keys().iter().all(|key| is_name(key)) => leaf.with_keys(&|_| NAMESPACE.to_owned()),
            _ => Selector::Nothing,
        });
        let elsewhere = Selector::any_value(NAMESPACE, self.namespaces.keys()).not();
        Selector::or([matching, Selector::and([has, elsewhere, undefined])])
    }
}

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

/// Kinds of peers that nothing here can answer, and why.
const UNSUPPORTED_PEERS: [(&str, &str); 2] = [
    ("nodes", "hosts have no labels; use `networks` with the hosts' addresses"),
    ("domainNames", "names of domains are not resolved here; use `networks`"),
];

/// The keys of `metadata` (`ObjectMeta` of `k8s.io/apimachinery`) beside name and namespace.
const METADATA: [&str; 14] = [
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Whether a label of a namespace is the one that holds its name.
fn is_name(key: &str) -> bool {
    NAMESPACE_NAMES.contains(&key)
}

impl Source<'_> {
    /// `metadata` of an object.
    pub(super) fn meta(&mut self, document: &Node) -> Option<Meta> {
        let Some(metadata) = document.get("metadata") else {
            self.error(document.span().start..document.span().start + 1, "the object has no `metadata`");
            return None;
        };
        let mut table = self.table(metadata, "`metadata`")?;
        let (name, namespace) = (table.take("name"), table.take("namespace"));
        // Labels are read where they mean something; a mistyped key would lose them, or move the object to another
        // namespace.
        for key in METADATA {
            table.take(key);
        }
        table.finish(self);
        let Some(name) = name else {
            self.error(metadata.span(), "`metadata` has no `name`");
            return None;
        };
        let namespace = match namespace {
            Some(node) => self.object_name(node, "namespace", true)?,
            None => String::new(),
        };
        let namespace = if namespace.is_empty() { "default".to_owned() } else { namespace };
        Some(Meta { name: self.object_name(name, "name", false)?, namespace, span: name.span() })
    }

    /// The name of an object or of a namespace.
    fn object_name(&mut self, node: &Node, what: &str, may_be_empty: bool) -> Option<String> {
        let text = self.string(node, what)?;
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if text.len() > 253 || !text.bytes().all(fine) || (text.is_empty() && !may_be_empty) {
            let message = format!("a {what} has 1 to 253 letters, digits, `-`, `.` or `_`");
            self.error(node.span(), message);
            return None;
        }
        Some(text.to_owned())
    }

    /// A set of labels.
    pub(super) fn labels(&mut self, node: &Node) -> Labels {
        let mut labels = Labels::new();
        let Data::Table(entries) = &node.data else {
            if !matches!(node.data, Data::Null) {
                self.error(node.span(), format!("labels must be a table, not {}", node.kind()));
            }
            return labels;
        };
        for (key, value) in entries {
            let Some(text) = self.string(value, "the value of a label") else { continue };
            if let Err(error) = labels.insert(key.name.as_str(), text) {
                self.error(key.span.clone(), error.to_string());
            }
        }
        labels
    }

    /// A `LabelSelector`: all of `matchLabels` and `matchExpressions`; an empty one matches everything.
    fn label_selector(&mut self, node: &Node) -> Option<Selector> {
        if matches!(node.data, Data::Null) {
            return Some(Selector::All);
        }
        let mut table = self.table(node, "a label selector")?;
        let mut parts = Vec::new();
        if let Some(labels) = table.take("matchLabels") {
            let labels = self.labels(labels);
            parts.extend(labels.iter().map(|(key, value)| Selector::equals(key, value)));
        }
        if let Some(list) = table.take("matchExpressions") {
            for item in self.items(list) {
                parts.push(self.expression(item)?);
            }
        }
        table.finish(self);
        Some(Selector::and(parts))
    }

    fn expression(&mut self, node: &Node) -> Option<Selector> {
        let mut table = self.table(node, "a match expression")?;
        let key = table.need(self, "key").and_then(|v| self.string(v, "key"));
        let operator =
            table.need(self, "operator").and_then(|v| self.string(v, "operator").map(|o| (o, v.span())));
        let values_at = table.take("values");
        let mut values = Vec::new();
        for item in values_at.map(|v| self.items(v)).unwrap_or_default() {
            values.extend(self.string(item, "a value").map(str::to_owned));
        }
        let span = table.span.clone();
        table.finish(self);
        let (key, (operator, at)) = (key?, operator?);
        if !matches!(operator, "In" | "NotIn" | "Exists" | "DoesNotExist") {
            self.error(at, format!("unknown operator `{operator}`: use In, NotIn, Exists or DoesNotExist"));
            return None;
        }
        let wants_values = matches!(operator, "In" | "NotIn");
        if wants_values == values.is_empty() {
            let what = if wants_values { "needs" } else { "takes no" };
            self.error(span, format!("operator {operator} {what} values"));
            return None;
        }
        Some(match operator {
            "In" => Selector::any_value(key, values),
            // As in Kubernetes, true also for endpoints without the label.
            "NotIn" => Selector::any_value(key, values).not(),
            "Exists" => Selector::Has(key.to_owned()),
            _ => Selector::Has(key.to_owned()).not(),
        })
    }

    /// A list that may be absent or null.
    pub(super) fn items<'v>(&mut self, node: &'v Node) -> Vec<&'v Node> {
        match &node.data {
            Data::List(items) => items.iter().collect(),
            Data::Null => Vec::new(),
            _ => {
                self.error(node.span(), format!("this must be a list, not {}", node.kind()));
                Vec::new()
            }
        }
    }

    /// A list of keys of labels.
    fn keys(&mut self, node: &Node) -> Option<Vec<String>> {
        let items = self.items(node);
        items.into_iter().map(|item| self.string(item, "the key of a label").map(str::to_owned)).collect()
    }

    fn cidr(&mut self, node: &Node) -> Option<Prefix> {
        let text = self.string(node, "a CIDR")?;
        if let Some(Ok(prefix)) = text.contains('/').then(|| Prefix::parse_lenient(text)) {
            return Some(prefix);
        }
        self.error(node.span(), format!("`{text}` is not a CIDR such as 10.0.0.0/8"));
        None
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

    pub(super) fn rule_from(
        &self,
        node: &Node,
        action: Action,
        peers: Vec<Peer>,
        services: Vec<Service>,
    ) -> Rule {
        Rule {
            action,
            peers,
            services,
            not_services: Vec::new(),
            source_ports: None,
            log: None,
            limit: None,
            origin: Origin { file: self.name.into(), line: self.line(node.span().start) },
        }
    }
}

impl Builder {
    /// `Namespace`, of which only name and labels matter.
    pub(super) fn namespace_object(&mut self, source: &mut Source<'_>, document: &Node) {
        let Some(meta) = source.meta(document) else { return };
        let labels = document.get("metadata").and_then(|m| m.get("labels"));
        let labels = labels.map(|l| source.labels(l)).unwrap_or_default();
        if self.claim(source, meta.span, "namespace", meta.name.clone()) {
            self.known.namespaces.insert(meta.name, labels);
        }
    }

    /// `NetworkPolicy` of networking.k8s.io/v1, and Calico's staged form of it.
    pub(super) fn network_policy(&mut self, source: &mut Source<'_>, document: &Node, staged: bool) {
        let Some(meta) = source.meta(document) else { return };
        let Some(spec) = document.get("spec") else {
            source.error(meta.span, "the policy has no `spec`");
            return;
        };
        let Some(mut table) = source.table(spec, "the spec of a NetworkPolicy") else { return };
        // Absent, it is empty: every pod of the namespace.
        let pods = table.take("podSelector").map_or(Some(Selector::All), |v| source.label_selector(v));
        let ingress = table.take("ingress");
        let egress = table.take("egress");
        let types = match table.take("policyTypes") {
            Some(list) if !source.items(list).is_empty() => policy_types(source, list),
            // The default is ingress, and egress if there are such rules: `egress: []` has none.
            _ => (true, egress.is_some_and(|e| matches!(&e.data, Data::List(rules) if !rules.is_empty()))),
        };
        if staged && let Some(action) = table.take("stagedAction") {
            staged_action(source, action);
        }
        let span = table.span.clone();
        table.finish(source);
        let mut rules = |list: Option<&Node>, direction| {
            let items = list.map(|l| source.items(l)).unwrap_or_default();
            items
                .into_iter()
                .filter_map(|item| self.network_policy_rule(source, item, direction, &meta))
                .collect()
        };
        let ingress: Vec<Rule> = rules(ingress, Direction::Ingress);
        let egress: Vec<Rule> = rules(egress, Direction::Egress);
        let Some(pods) = pods else { return };
        self.add_kubernetes(source, &meta, span, |builder, origin| Policy {
            name: format!("{}{}/{}", if staged { "staged:" } else { "" }, meta.namespace, meta.name),
            tier: builder.known.tier(DEFAULT_TIER),
            order: DEFAULT_ORDER,
            select: Selector::and([in_namespace(&meta.namespace), pods]),
            ingress: types.0.then_some(ingress),
            egress: types.1.then_some(egress),
            staged,
            origin,
        });
    }

    fn network_policy_rule(
        &self,
        source: &mut Source<'_>,
        node: &Node,
        direction: Direction,
        meta: &Meta,
    ) -> Option<Rule> {
        if matches!(node.data, Data::Null) {
            return Some(source.rule_from(node, Action::Allow, Vec::new(), Vec::new()));
        }
        let mut table = source.table(node, "a rule of a NetworkPolicy")?;
        let side = if direction == Direction::Ingress { "from" } else { "to" };
        let peers = table.take(side);
        let ports = table.take("ports");
        table.finish(source);
        let before = source.errors.len();
        let mut all = Vec::new();
        for item in peers.map(|p| source.items(p)).unwrap_or_default() {
            all.extend(self.network_policy_peer(source, item, meta));
        }
        let mut services = Vec::new();
        for item in ports.map(|p| source.items(p)).unwrap_or_default() {
            services.extend(network_policy_port(source, item));
        }
        // With an error, an empty list would mean anyone.
        (source.errors.len() == before).then(|| source.rule_from(node, Action::Allow, all, services))
    }

    fn network_policy_peer(&self, source: &mut Source<'_>, node: &Node, meta: &Meta) -> Option<Peer> {
        let mut table = source.table(node, "a peer of a NetworkPolicy")?;
        let pods = table.take("podSelector").map(|v| source.label_selector(v));
        let namespaces = table.take("namespaceSelector").map(|v| source.label_selector(v));
        let block = table.take("ipBlock");
        let span = table.span.clone();
        table.finish(source);
        match (block, pods, namespaces) {
            (Some(block), None, None) => ip_block(source, block),
            (Some(block), ..) => {
                source.error(block.span(), "`ipBlock` cannot be combined with selectors");
                None
            }
            (None, None, None) => {
                source.error_with_help(
                    span,
                    "a peer needs `podSelector`, `namespaceSelector` or `ipBlock`",
                    "a selector without a value is none; `{}` selects everything",
                );
                None
            }
            (None, pods, namespaces) => {
                let place = match namespaces {
                    Some(selector) => self.known.namespaces(&selector?),
                    None => in_namespace(&meta.namespace),
                };
                let pods = pods.map_or(Some(Selector::All), |p| p)?;
                Some(selected(Selector::and([place, pods])))
            }
        }
    }

    /// `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy` and `ClusterNetworkPolicy`.
    pub(super) fn cluster_policy(&mut self, source: &mut Source<'_>, document: &Node, kind: ClusterKind) {
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
        table.take("name");
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
        if let Some(node) = services.filter(|node| kind.is_cluster() && source.items(node).is_empty()) {
            source.error_with_help(
                node.span(),
                "`protocols` must not be empty",
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
        let networks = if direction == Direction::Egress { table.take("networks") } else { None };
        for (key, why) in UNSUPPORTED_PEERS {
            if let Some(node) = table.take(key) {
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

    fn add_kubernetes(
        &mut self,
        source: &mut Source<'_>,
        meta: &Meta,
        span: Range<usize>,
        make: impl FnOnce(&Self, Origin) -> Policy,
    ) {
        let policy = make(self, origin(source, &span));
        self.add_policy(source, meta.span.clone(), policy.order as f64, policy);
    }
}

/// The cluster-wide kinds of policy.network.k8s.io.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterKind {
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

pub(super) fn in_namespace(namespace: &str) -> Selector {
    Selector::equals(NAMESPACE, namespace)
}

fn selected(selector: Selector) -> Peer {
    Peer { selector: Some(selector), ..Peer::default() }
}

fn ip_block(source: &mut Source<'_>, node: &Node) -> Option<Peer> {
    let mut table = source.table(node, "an ipBlock")?;
    let cidr = table.need(source, "cidr").and_then(|v| source.cidr(v));
    let except = table.take("except");
    table.finish(source);
    let cidr = cidr?;
    let mut holes = Vec::new();
    for item in except.map(|e| source.items(e)).unwrap_or_default() {
        let hole = source.cidr(item)?;
        if !cidr.covers(hole) || cidr == hole {
            source.error(item.span(), format!("{hole} is not inside of {cidr}"));
            return None;
        }
        holes.push(hole);
    }
    let ranges: Ranges = [cidr].into_iter().collect();
    Some(Peer { ranges: Some(ranges.minus(&holes.into_iter().collect())), ..Peer::default() })
}

/// Whether a policy is for ingress and for egress.
fn policy_types(source: &mut Source<'_>, list: &Node) -> (bool, bool) {
    let mut types = (false, false);
    for item in source.items(list) {
        match source.word(item, "policy type", &[("Ingress", true), ("Egress", false)]) {
            Some(true) => types.0 = true,
            Some(false) => types.1 = true,
            None => {}
        }
    }
    types
}

/// `stagedAction`: only a policy that is to be set can be tried.
pub(super) fn staged_action(source: &mut Source<'_>, node: &Node) {
    if source.string(node, "stagedAction").is_some_and(|action| action != "Set") {
        source.error(
            node.span(),
            "only `stagedAction: Set` is supported: the others say nothing about traffic",
        );
    }
}
