//! Kubernetes policies with the semantics they have in a cluster.
//!
//! - `NetworkPolicy` (networking.k8s.io/v1) goes into the default tier, `AdminNetworkPolicy` and its baseline
//!   (policy.networking.k8s.io/v1alpha1) and `ClusterNetworkPolicy` (v1alpha2) into the tiers `admin` and `baseline`.
//! - A pod's namespace is its label `namespace`. Labels of namespaces come from `Namespace` objects or `[[namespace]]`
//!   and are worked in when the files are read: a selector of namespaces becomes `namespace in {…}`, which hosts can
//!   answer for remote endpoints too.
//! - Port names come from `[[named_port]]`, as nobody tells us the pods' container ports; a name that is not defined
//!   matches nothing.

mod cluster;
mod network_policy;
mod ports;

use std::ops::Range;

pub(super) use self::cluster::ClusterKind;
use super::{
    Builder, Definitions, origin,
    tree::{Data, Node},
    walk::Source,
};
use crate::{
    model::{Labels, Prefix},
    policy::{Action, Origin, Peer, Policy, Rule, Service, selector::Selector},
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
        let key = table.need(self, "key").and_then(|v| self.label_part(v, None));
        let operator =
            table.need(self, "operator").and_then(|v| self.string(v, "operator").map(|o| (o, v.span())));
        let values_at = table.take("values");
        let mut values = Vec::new();
        for item in values_at.map(|v| self.items(v)).unwrap_or_default() {
            values.extend(self.label_part(item, Some(key.unwrap_or("a"))).map(str::to_owned));
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

    /// The key of a label, or a value of one with this key.
    fn label_part<'v>(&mut self, node: &'v Node, key: Option<&str>) -> Option<&'v str> {
        let text = self.string(node, if key.is_some() { "a value" } else { "key" })?;
        let (key, value) = key.map_or((text, ""), |key| (key, text));
        match Labels::new().insert(key, value) {
            Ok(()) => Some(text),
            Err(error) => {
                self.error(node.span(), error.to_string());
                None
            }
        }
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

    fn cidr(&mut self, node: &Node) -> Option<Prefix> {
        let text = self.string(node, "a CIDR")?;
        // IPv4 written as IPv6 would match no packet.
        let is_cidr = text.contains('/') && !(text.contains(':') && text.contains('.'));
        if let Some(Ok(prefix)) = is_cidr.then(|| Prefix::parse_lenient(text)) {
            return Some(prefix);
        }
        self.error(node.span(), format!("`{text}` is not a CIDR such as 10.0.0.0/8"));
        None
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

pub(super) fn in_namespace(namespace: &str) -> Selector {
    Selector::equals(NAMESPACE, namespace)
}

fn selected(selector: Selector) -> Peer {
    Peer { selector: Some(selector), ..Peer::default() }
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
