//! The cluster-wide kind that took the place of those.

use super::{
    Section,
    Want::{Error, Same, Says},
};

const CLUSTER: &str = "ClusterNetworkPolicy";

pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: CLUSTER,
        document: "apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: n}\n@",
        cases: &[
            ("spec", "", Error("3:18", "no `spec`")),
            (
                "spec",
                "spec: {tier: Admin, priority: 5, subject: {namespaces: {}}}\n",
                Says("admin/n 5 on has(namespace)"),
            ),
            (
                "spec.tier",
                "spec: {tier: Baseline, priority: 5, subject: {namespaces: {}}}\n",
                Says("baseline/n 5"),
            ),
            (
                "spec.tier",
                "spec: {tier: admin, priority: 5, subject: {namespaces: {}}}\n",
                Error("4:14", "did you mean `Admin`"),
            ),
            ("spec.tier", "spec: {priority: 5, subject: {namespaces: {}}}\n", Error("4:7", "needs `tier`")),
            (
                "spec.priority",
                "spec: {tier: Admin, priority: 0, subject: {namespaces: {}}}\n",
                Says("admin/n 0"),
            ),
            (
                "spec.priority",
                "spec: {tier: Admin, priority: -1, subject: {namespaces: {}}}\n",
                Error("4:31", "between 0 and 1000"),
            ),
            (
                "spec.subject",
                "spec: {tier: Admin, priority: 1, subject: {}}\n",
                Error("4:43", "exactly one of"),
            ),
            (
                "spec.subject",
                "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n",
                Says("on has(namespace)"),
            ),
            (
                "spec.subject.namespaces",
                "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n",
                Says("on has(namespace)"),
            ),
            (
                "spec.subject.pods",
                "spec: {tier: Admin, priority: 1, subject: {pods: {podSelector: {}}}}\n",
                Says("on has(namespace)"),
            ),
            (
                "spec.subject.pods.namespaceSelector",
                "spec: {tier: Admin, priority: 1, subject: {pods: {podSelector: {}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}}}\n",
                Says("on namespace == \"y\" && has(namespace)"),
            ),
            (
                "spec.subject.pods.podSelector",
                "spec: {tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {a: b}}}}}\n",
                Says("on a == \"b\" && has(namespace)"),
            ),
            (
                "spec.subject.pods.podSelector",
                "spec: {tier: Admin, priority: 1, subject: {pods: {}}}\n",
                Error("4:50", "needs `podSelector`"),
            ),
        ],
    },
    Section {
        title: CLUSTER,
        document: "apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: n}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}},\n  @}\n",
        cases: &[
            ("spec.ingress", "ingress: []", Same),
            (
                "spec.ingress",
                "ingress: [{action: Deny, from: [{namespaces: {}}]}]",
                Says("; ingress [deny peer has(namespace)]"),
            ),
            (
                "spec.egress",
                "egress: [{action: Deny, to: [{namespaces: {}}]}]",
                Says("; egress [deny peer has(namespace)]"),
            ),
            (
                "spec.ingress[].action",
                "ingress: [{action: Accept, from: [{namespaces: {}}]}]",
                Says("[allow peer"),
            ),
            (
                "spec.ingress[].action",
                "ingress: [{action: Pass, from: [{namespaces: {}}]}]",
                Says("[pass peer"),
            ),
            (
                "spec.ingress[].action",
                "ingress: [{action: Allow, from: [{namespaces: {}}]}]",
                Error("5:22", "unknown action `Allow`"),
            ),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: []}]",
                Error("5:13", "`from` must not be empty"),
            ),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: [{namespaces: {}}]}]",
                Says("[deny peer has(namespace)]"),
            ),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: [{domainNames: [a.b]}]}]",
                Error("5:36", "unknown key `domainNames`"),
            ),
        ],
    },
    Section {
        title: CLUSTER,
        document: "apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: n}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [\n  @]}]}\n",
        cases: &[
            (
                "spec.egress[].to",
                "{namespaces: {}}, {networks: [10.0.0.0/8]}",
                Says("[deny peer has(namespace) | in 10.0.0.0/8]"),
            ),
            ("spec.egress[].to", "", Error("4:70", "`to` must not be empty")),
            (
                "spec.egress[].to[].namespaces",
                "{namespaces: {matchLabels: {kubernetes.io/metadata.name: y}}}",
                Says("[deny peer namespace == \"y\" && has(namespace)]"),
            ),
            (
                "spec.egress[].to[].namespaces",
                "{namespaces: {sameLabels: [a]}}",
                Error("5:17", "unknown key `sameLabels`"),
            ),
            (
                "spec.egress[].to[].pods",
                "{pods: {podSelector: {matchLabels: {a: b}}}}",
                Says("[deny peer a == \"b\" && has(namespace)]"),
            ),
            (
                "spec.egress[].to[].pods.namespaceSelector",
                "{pods: {podSelector: {}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}}",
                Says("[deny peer namespace == \"y\" && has(namespace)]"),
            ),
            (
                "spec.egress[].to[].pods.podSelector",
                "{pods: {podSelector: {}}}",
                Says("[deny peer has(namespace)]"),
            ),
            (
                "spec.egress[].to[].pods.podSelector",
                "{pods: {namespaceSelector: {}}}",
                Error("5:10", "needs `podSelector`"),
            ),
            (
                "spec.egress[].to[].pods",
                "{pods: {namespaces: {}, podSelector: {}}}",
                Error("5:11", "unknown key `namespaces`"),
            ),
            (
                "spec.egress[].to[].networks",
                "{networks: [10.0.0.0/8, \"2001:db8::/32\"]}",
                Says("[deny peer in 10.0.0.0/8, 2001:db8::/32]"),
            ),
            (
                "spec.egress[].to[].networks",
                "{networks: [10.1.2.3/8]}",
                Error("5:15", "did you mean 10.0.0.0/8"),
            ),
            ("spec.egress[].to[].networks", "{networks: []}", Error("5:14", "must not be empty")),
            (
                "spec.egress[].to[].nodes",
                "{nodes: {}}",
                Error("5:11", "use `networks` with the hosts' addresses"),
            ),
            (
                "spec.egress[].to[].domainNames",
                "{domainNames: [a.b]}",
                Error("5:17", "names of domains are not resolved"),
            ),
        ],
    },
    Section {
        title: CLUSTER,
        document: "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: n}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [\n  @]}]}\n",
        cases: &[(
            "spec.egress[].to[].networks",
            "{networks: [10.1.2.3/8]}",
            Says("[deny peer in 10.0.0.0/8]"),
        )],
    },
    Section {
        title: CLUSTER,
        document: "apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: n}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}],\n  @}]}\n",
        cases: &[
            ("spec.ingress[].name", "name: why", Same),
            (
                "spec.ingress[].protocols",
                "protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {number: 81}}}]",
                Says("[deny peer has(namespace) service tcp/80, udp/81]"),
            ),
            ("spec.ingress[].protocols", "protocols: []", Error("5:14", "must not be empty")),
            ("spec.ingress[].protocols", "protocols: [{}]", Error("5:15", "exactly one of")),
            ("spec.ingress[].protocols", "ports: []", Error("5:3", "unknown key `ports`")),
            (
                "spec.ingress[].protocols[].tcp",
                "protocols: [{tcp: {destinationPort: {number: 80}}}]",
                Says("service tcp/80]"),
            ),
            (
                "spec.ingress[].protocols[].tcp",
                "protocols: [{tcp: {}}]",
                Error("5:21", "needs `destinationPort`"),
            ),
            (
                "spec.ingress[].protocols[].udp",
                "protocols: [{udp: {destinationPort: {number: 80}}}]",
                Says("service udp/80]"),
            ),
            ("spec.ingress[].protocols[].udp", "protocols: [{udp: }]", Error("5:15", "exactly one of")),
            (
                "spec.ingress[].protocols[].sctp",
                "protocols: [{sctp: {destinationPort: {number: 80}}}]",
                Says("service sctp/80]"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort",
                "protocols: [{tcp: {destinationPort: {}}}]",
                Error("5:39", "exactly one of"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort",
                "protocols: [{tcp: {destinationPort: {number: 80}}}]",
                Says("service tcp/80]"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.number",
                "protocols: [{tcp: {destinationPort: {number: 80}}}]",
                Says("service tcp/80]"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.number",
                "protocols: [{tcp: {destinationPort: {number: 0}}}]",
                Error("5:48", "between 1 and 65535"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.range",
                "protocols: [{tcp: {destinationPort: {range: {start: 1, end: 65535}}}}]",
                Says("service tcp/1-65535]"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.range",
                "protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}, number: 3}}}]",
                Error("5:39", "exactly one of"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.range.start",
                "protocols: [{tcp: {destinationPort: {range: {start: 2, end: 2}}}}]",
                Error("5:39", "less than its end"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.range.start",
                "protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]",
                Says("service tcp/1-2]"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.range.end",
                "protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]",
                Says("service tcp/1-2]"),
            ),
            (
                "spec.ingress[].protocols[].tcp.destinationPort.range.end",
                "protocols: [{tcp: {destinationPort: {range: {start: 1}}}}]",
                Error("5:47", "needs `end`"),
            ),
            (
                "spec.ingress[].protocols[].destinationNamedPort",
                "protocols: [{destinationNamedPort: web}]",
                Says("service tcp/web, udp/web, sctp/web]"),
            ),
        ],
    },
    Section {
        title: CLUSTER,
        document: "apiVersion: policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: n}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}],\n  @}]}\n",
        cases: &[
            (
                "spec.egress[].protocols",
                "protocols: [{destinationNamedPort: web}]",
                Error("4:70", "addresses name no ports"),
            ),
            (
                "spec.egress[].protocols",
                "protocols: [{tcp: {destinationPort: {number: 80}}}]",
                Says("service tcp/80]"),
            ),
        ],
    },
];
