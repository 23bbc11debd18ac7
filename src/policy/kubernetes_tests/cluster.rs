//! The cluster-wide kinds.

use super::*;

/// The cluster-wide kinds, and how tiers follow one another.
#[test]
fn cluster_wide_policies() {
    let text = r#"
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: admin}
spec:
  priority: 5
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress:
  - {name: no-z, action: Deny, from: [{namespaces: {matchLabels: {ns: z}}}]}
  - {action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}]}
  - {action: Allow, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 81}}, {portRange: {start: 90, end: 99}}, {namedPort: web}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: later}
spec:
  tier: Admin
  priority: 7
  subject: {pods: {podSelector: {matchLabels: {pod: a}}}}
  egress:
  - {action: Deny, to: [{networks: ["192.0.2.0/25", "2001:db8::/48"]}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 65535}}}}]}
  - {action: Accept, to: [{networks: ["192.0.2.0/24"]}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 81}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lock, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: y}}}]}]
"#;
    let world = World::new();
    let mut engine = new_engine();
    let namespaces = world.yaml(&[]);
    let set =
        language::parse(&[("n.yaml", &namespaces), ("p.yaml", text)]).unwrap_or_else(|e| panic!("{}", e[0]));
    let names: Vec<_> = set.policies.iter().map(|p| set.full_name(p)).collect();
    assert_eq!(names, ["admin/admin", "admin/later", "default/x/lock", "baseline/default"]);
    world.tell(&mut engine, &[]);
    engine.set_policies(Arc::new(set));
    let pod = |namespace: &str, pod: &str| {
        world
            .pods
            .iter()
            .position(|p| p.namespace == namespace && p.labels["pod"] == pod)
            .map(End::Pod)
            .unwrap()
    };
    for (from, to, protocol, port, want) in [
        // Denied by the administrator before anything else.
        (pod("z", "a"), pod("x", "b"), Protocol::TCP, 81, false),
        // Passed on; the namespace's own policy decides, or the baseline.
        (pod("x", "b"), pod("x", "a"), Protocol::TCP, 80, true),
        (pod("y", "b"), pod("x", "a"), Protocol::TCP, 81, false),
        (pod("y", "b"), pod("x", "b"), Protocol::TCP, 81, false),
        // Allowed by the administrator: the policy of the namespace has no say.
        (pod("y", "a"), pod("x", "a"), Protocol::TCP, 81, true),
        (pod("y", "a"), pod("x", "a"), Protocol::TCP, 95, true),
        (pod("y", "a"), pod("x", "a"), Protocol::TCP, 80, false),
        // The baseline only counts where no policy of a namespace selects.
        (pod("y", "c"), pod("z", "a"), Protocol::TCP, 80, false),
        (pod("x", "c"), pod("z", "a"), Protocol::TCP, 80, true),
        (pod("x", "c"), pod("x", "a"), Protocol::TCP, 80, true),
        // Egress of pods with `pod: a`.
        (pod("y", "a"), End::Outside(0), Protocol::TCP, 80, false),
        (pod("y", "a"), End::Outside(0), Protocol::UDP, 9, false),
        (pod("y", "a"), End::Outside(1), Protocol::TCP, 80, true),
        (pod("y", "a"), End::Outside(0), Protocol::TCP, 82, true),
    ] {
        let flow = Flow::new(world.addr(&from, false), world.addr(&to, false), protocol, port);
        let explanation = engine.explain(&flow, |_| false);
        assert_eq!(explanation.allowed, want, "{flow}: {explanation:#?}");
    }
}

/// Objects of different kinds may have one name, objects of one kind may not.
#[test]
fn one_name_for_several_kinds() {
    let admin = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: p}\n\
        spec: {priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}\n";
    let cluster = |tier: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\n\
             spec: {{tier: {tier}, priority: 1, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n"
        )
    };
    let parsed = |files: &[(&str, &str)]| {
        let set = language::parse(files).map_err(|errors| errors[0].to_string())?;
        Ok::<_, String>(set.policies.iter().map(|p| set.full_name(p)).collect::<Vec<_>>())
    };
    let both = parsed(&[("a.yaml", admin), ("b.yaml", &cluster("Admin"))]).unwrap();
    assert_eq!(both, ["admin/ClusterNetworkPolicy:p", "admin/p"]);
    let twice = parsed(&[("a.yaml", &cluster("Admin")), ("b.yaml", &cluster("Baseline"))]).unwrap_err();
    assert!(twice.contains("ClusterNetworkPolicy `p` is defined twice, first at a.yaml:3"), "{twice}");
    let twice = parsed(&[("a.yaml", admin), ("b.yaml", admin)]).unwrap_err();
    assert!(twice.contains("AdminNetworkPolicy `p` is defined twice"), "{twice}");
}
