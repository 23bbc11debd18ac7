//! `NetworkPolicy` of networking.k8s.io/v1.

use super::{Meta, in_namespace, ports::network_policy_port, selected, staged_action};
use crate::policy::{
    Action, Direction, Peer, Policy, Rule,
    language::{
        Builder, DEFAULT_ORDER, DEFAULT_TIER,
        tree::{Data, Node},
        walk::Source,
    },
    ranges::Ranges,
    selector::Selector,
};

impl Builder {
    /// `NetworkPolicy` of networking.k8s.io/v1, and Calico's staged form of it.
    pub(in crate::policy::language) fn network_policy(
        &mut self,
        source: &mut Source<'_>,
        document: &Node,
        staged: bool,
    ) {
        let Some(meta) = source.meta(document) else { return };
        // Absent, it is empty, as for Kubernetes.
        let empty = Node::empty_table(meta.span.clone());
        let spec = document.get("spec").unwrap_or(&empty);
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
    let items = source.items(list);
    if items.len() > 2 {
        source.error(list.span(), "a policy has at most two types");
    }
    for item in items {
        match source.word(item, "policy type", &[("Ingress", true), ("Egress", false)]) {
            Some(true) => types.0 = true,
            Some(false) => types.1 = true,
            None => {}
        }
    }
    types
}
