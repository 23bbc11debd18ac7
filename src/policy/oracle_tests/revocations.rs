//! Revocations that are none: connections would be judged anew for nothing, at each container that comes anywhere.

use super::*;

/// A set in which everybody new can only add permissions: rules allow, by what labels say and not by what they do not.
fn only_allows(mut set: PolicySet) -> PolicySet {
    let positive: Vec<Selector> = [
        "all()",
        "role == 'a'",
        "role == 'b'",
        "role in {'a', 'c'}",
        "has(env)",
        "role == 'a' && env == 'x'",
    ]
    .map(|text| text.parse().unwrap())
    .into();
    let is_positive = |peer: &Peer| {
        peer.not_selector.is_none()
            && peer.own.is_none()
            && peer.selector.as_ref().is_none_or(|selector| positive.contains(selector))
    };
    let tame = |rules: &mut Vec<Rule>| {
        for rule in rules {
            rule.action = Action::Allow;
            rule.peers.retain(is_positive);
            rule.not_services.clear();
        }
    };
    set.policies = set
        .policies
        .iter()
        .map(|policy| {
            let mut policy = Policy::clone(policy);
            policy.ingress.iter_mut().chain(&mut policy.egress).for_each(tame);
            Arc::new(policy)
        })
        .collect();
    set.host_policies = set
        .host_policies
        .iter()
        .map(|policy| {
            let mut policy = HostPolicy::clone(policy);
            tame(&mut policy.ingress);
            Arc::new(policy)
        })
        .collect();
    set
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Who is new, here or elsewhere, cuts nobody off, and neither do new labels that only add to permissions.
    #[test]
    fn who_comes_revokes_nothing_where_rules_only_allow(
        set in policy_set(),
        before in prop::collection::vec(event(), 4..12),
        known in prop::collection::vec((6u8..12, labels()), 0..3),
        here in (0u8..4, labels()),
        there in (4u8..6, labels()),
    ) {
        // Both families have pools, so nothing depends on who is the first with an address of one.
        let mut engine = Engine::new(config(true, false));
        engine.set_policies(Arc::new(only_allows(set)));
        let concerns = |event: &Event| match event {
            Event::Local(i, _) | Event::LocalGone(i) => *i == here.0,
            Event::Remote(i, _) | Event::RemoteGone(i) => *i == here.0 || *i == here.0 + 6 || *i == there.0,
            Event::Policies(_) | Event::Config(..) => true,
        };
        for event in before.iter().filter(|event| !concerns(event)) {
            event.apply(&mut engine);
        }
        for (i, labels) in known.iter().filter(|(i, _)| *i != here.0 + 6) {
            Event::Remote(*i, labels.clone()).apply(&mut engine);
        }
        engine.snapshot();
        Event::Local(here.0, here.1.clone()).apply(&mut engine);
        let delta = engine.changes();
        prop_assert!(!delta.revokes, "a container here: {delta:#?}");
        Event::Remote(there.0, there.1.clone()).apply(&mut engine);
        let delta = engine.changes();
        prop_assert!(!delta.revokes, "one elsewhere: {delta:#?}");
        // A change that is none.
        Event::Remote(there.0, there.1).apply(&mut engine);
        Event::Local(here.0, here.1).apply(&mut engine);
        prop_assert!(engine.changes().is_empty());
    }

    /// And who goes, here or elsewhere, takes permissions along, which is told if there is any rule that allowed by his labels.
    #[test]
    fn who_goes_takes_his_permissions_along(
        set in policy_set(),
        here in (0u8..4, own_labels()),
        there in (4u8..6, labels()),
        local in any::<bool>(),
        flows in prop::collection::vec(flow(), 24),
    ) {
        let mut engine = Engine::new(config(true, false));
        engine.set_policies(Arc::new(set));
        Event::Local(here.0, here.1).apply(&mut engine);
        Event::Remote(there.0, there.1).apply(&mut engine);
        let rules = engine.snapshot();
        let before: Vec<_> = flows.iter().map(|f| passes(&engine, &rules, f, 8, false, 0)).collect();
        if local {
            Event::LocalGone(here.0).apply(&mut engine);
        } else {
            Event::RemoteGone(there.0).apply(&mut engine);
        }
        let delta = engine.changes();
        let rules = engine.compiled();
        let after: Vec<_> = flows.iter().map(|f| passes(&engine, &rules, f, 8, false, 0)).collect();
        let cut = before.iter().zip(&after).any(|(b, a)| *b == Some(true) && *a == Some(false));
        prop_assert!(!cut || delta.revokes);
    }
}
