//! YAML documents: which kind of object each is.

use super::{
    Builder,
    calico::CalicoKind,
    kubernetes::ClusterKind,
    tree::{Data, Node},
    walk::Source,
};

/// What a document is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Namespace,
    NetworkPolicy,
    Cluster(ClusterKind),
    Calico(CalicoKind),
}

impl Builder {
    /// What other objects refer to.
    pub(super) fn yaml_definitions(&mut self, source: &mut Source<'_>, document: &Node) {
        for (object, typed) in objects(document) {
            let kind = kind(source, object, typed);
            if kind.is_some() {
                top_keys(source, object);
            }
            match kind {
                Some(Kind::Namespace) => self.namespace_object(source, object),
                Some(Kind::Calico(kind)) => self.calico_definition(source, object, kind),
                _ => {}
            }
        }
    }

    /// The policies.
    pub(super) fn yaml_policies(&mut self, source: &mut Source<'_>, document: &Node) {
        for (object, typed) in objects(document) {
            // What is unknown was told the first time.
            let told = source.errors.len();
            let kind = kind(source, object, typed);
            source.errors.truncate(told);
            match kind {
                Some(Kind::NetworkPolicy) => self.network_policy(source, object, false),
                Some(Kind::Cluster(kind)) => self.cluster_policy(source, object, kind),
                Some(Kind::Calico(kind)) => self.calico_object(source, object, kind),
                Some(Kind::Namespace) | None => {}
            }
        }
    }
}

/// Version and kind of the items of a typed list, which need not say it themselves.
type Typed<'v> = Option<(&'v Node, &'v str)>;

/// The objects of a document: itself, or the items of a list.
fn objects(document: &Node) -> Vec<(&Node, Typed<'_>)> {
    let kind = document.get("kind").and_then(Node::text);
    let Some(item_kind) = kind.and_then(|k| k.strip_suffix("List")) else { return vec![(document, None)] };
    let typed = document.get("apiVersion").filter(|_| !item_kind.is_empty()).map(|v| (v, item_kind));
    match document.get("items").map(|i| &i.data) {
        Some(Data::List(items)) => items.iter().map(|item| (item, typed)).collect(),
        None | Some(Data::Null) => Vec::new(),
        Some(_) => vec![(document, None)],
    }
}

fn kind(source: &mut Source<'_>, object: &Node, typed: Typed<'_>) -> Option<Kind> {
    let (version, kind, place) = match (object.get("apiVersion"), object.get("kind"), typed) {
        (Some(version), Some(kind), _) => {
            (source.string(version, "apiVersion")?, source.string(kind, "kind")?, kind.span())
        }
        (None, None, Some((version, kind))) => {
            (source.string(version, "apiVersion")?, kind, object.span().start..object.span().start + 1)
        }
        _ => {
            source.error_with_help(
                object.span().start..object.span().start + 1,
                "this is not a Kubernetes object: it needs both `apiVersion` and `kind`",
                "policies in slash32's own language go into files that end with .toml",
            );
            return None;
        }
    };
    let found = match (version, kind) {
        ("v1", "Namespace") => Some(Kind::Namespace),
        ("networking.k8s.io/v1", "NetworkPolicy") => Some(Kind::NetworkPolicy),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy") => {
            Some(Kind::Cluster(ClusterKind::Admin))
        }
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy") => {
            Some(Kind::Cluster(ClusterKind::Baseline))
        }
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
            Some(Kind::Cluster(ClusterKind::Cluster { masked: false }))
        }
        ("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy") => {
            Some(Kind::Cluster(ClusterKind::Cluster { masked: true }))
        }
        ("projectcalico.org/v3", kind) => CalicoKind::of(kind).map(Kind::Calico),
        _ => None,
    };
    if found.is_none() {
        let versions: Vec<&str> = KNOWN.iter().filter(|(_, k)| *k == kind).map(|(v, _)| *v).collect();
        let help = if versions.is_empty() {
            let mut kinds: Vec<&str> = KNOWN.iter().map(|(_, k)| *k).collect();
            kinds.dedup();
            format!("known kinds: {}", kinds.join(", "))
        } else {
            format!("{kind} is read in {}", versions.join(" and "))
        };
        source.error_with_help(
            place,
            format!("objects of kind {kind} in {version} do not belong in a policy folder"),
            help,
        );
    }
    found
}

/// Reports keys that no object has at its top: rules that stand there by mistake would be left out.
fn top_keys(source: &mut Source<'_>, object: &Node) {
    let Some(mut table) = source.table(object, "an object") else { return };
    for key in ["apiVersion", "kind", "metadata", "spec", "status"] {
        table.take(key);
    }
    table.finish(source);
}

/// What is read, for people.
pub(super) const KNOWN: [(&str, &str); 15] = [
    ("v1", "Namespace"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("projectcalico.org/v3", "NetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
    ("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy"),
    ("projectcalico.org/v3", "GlobalNetworkPolicy"),
    ("projectcalico.org/v3", "StagedNetworkPolicy"),
    ("projectcalico.org/v3", "StagedGlobalNetworkPolicy"),
    ("projectcalico.org/v3", "StagedKubernetesNetworkPolicy"),
    ("projectcalico.org/v3", "Tier"),
    ("projectcalico.org/v3", "NetworkSet"),
    ("projectcalico.org/v3", "GlobalNetworkSet"),
    ("projectcalico.org/v3", "Profile"),
];
