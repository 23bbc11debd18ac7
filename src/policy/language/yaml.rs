//! YAML documents: which kind of object each is.

use super::{
    Builder,
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
}

impl Builder {
    /// What other objects refer to.
    pub(super) fn yaml_definitions(&mut self, source: &mut Source<'_>, document: &Node) {
        for object in objects(document) {
            if let Some(Kind::Namespace) = kind(source, object) {
                self.namespace_object(source, object);
            }
        }
    }

    /// The policies.
    pub(super) fn yaml_policies(&mut self, source: &mut Source<'_>, document: &Node) {
        for object in objects(document) {
            // What is unknown was told the first time.
            let mut quiet = Source { name: source.name, text: source.text, errors: Vec::new() };
            match kind(&mut quiet, object) {
                Some(Kind::NetworkPolicy) => self.network_policy(source, object),
                Some(Kind::Cluster(kind)) => self.cluster_policy(source, object, kind),
                Some(Kind::Namespace) | None => {}
            }
        }
    }
}

/// The objects of a document: itself, or the items of a list.
fn objects(document: &Node) -> Vec<&Node> {
    let list = document.get("kind").and_then(Node::text).is_some_and(|k| k.ends_with("List"));
    match document.get("items").map(|i| &i.data) {
        Some(Data::List(items)) if list => items.iter().collect(),
        _ => vec![document],
    }
}

fn kind(source: &mut Source<'_>, object: &Node) -> Option<Kind> {
    let (Some(version), Some(kind)) = (object.get("apiVersion"), object.get("kind")) else {
        source.error(
            object.span().start..object.span().start + 1,
            "this is not a Kubernetes object: it has no `apiVersion` and `kind`",
        );
        return None;
    };
    let found = match (version.text()?, kind.text()?) {
        ("v1", "Namespace") => Kind::Namespace,
        ("networking.k8s.io/v1", "NetworkPolicy") => Kind::NetworkPolicy,
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy") => Kind::Cluster(ClusterKind::Admin),
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy") => {
            Kind::Cluster(ClusterKind::Baseline)
        }
        (
            "policy.networking.k8s.io/v1alpha2" | "policy.networking.k8s.io/v1beta1",
            "ClusterNetworkPolicy",
        ) => Kind::Cluster(ClusterKind::Cluster),
        (version, name) => {
            source.error_with_help(
                kind.span(),
                format!("objects of kind {name} in {version} do not belong in a policy folder"),
                "known: Namespace, NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy, \
                 ClusterNetworkPolicy",
            );
            return None;
        }
    };
    Some(found)
}
