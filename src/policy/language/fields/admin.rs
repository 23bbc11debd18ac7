//! The cluster-wide kinds of v1alpha1.

use super::{
    Section,
    Want::{Error, Same, Says},
};

const ADMIN: &str = "AdminNetworkPolicy and BaselineAdminNetworkPolicy";

pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: ADMIN,
        document: "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: n}\n@",
        cases: &[
            ("spec", "", Error("3:18", "no `spec`")),
            ("spec", "spec: {priority: 5, subject: {namespaces: {}}}\n", Says("admin/n 5 on has(namespace)")),
            ("spec.priority", "spec: {priority: 1000, subject: {namespaces: {}}}\n", Says("admin/n 1000")),
            (
                "spec.priority",
                "spec: {priority: 1001, subject: {namespaces: {}}}\n",
                Error("4:18", "between 0 and 1000"),
            ),
            ("spec.priority", "spec: {subject: {namespaces: {}}}\n", Error("4:7", "needs `priority`")),
            ("spec.subject", "spec: {priority: 1}\n", Error("4:7", "needs `subject`")),
            ("spec.subject", "spec: {priority: 1, subject: {}}\n", Error("4:30", "exactly one of")),
            ("spec.subject", "spec: {priority: 1, subject: {namespaces: {}}}\n", Says("on has(namespace)")),
            (
                "spec.subject.namespaces",
                "spec: {priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: y}}}}\n",
                Says("on namespace == \"y\" && has(namespace)"),
            ),
            (
                "spec.subject.pods",
                "spec: {priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}}\n",
                Says("on a == \"b\" && has(namespace)"),
            ),
            (
                "spec.subject.pods",
                "spec: {priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {}}, namespaces: {}}}\n",
                Error("4:30", "exactly one of"),
            ),
            (
                "spec.subject.pods.namespaceSelector",
                "spec: {priority: 1, subject: {pods: {podSelector: {}}}}\n",
                Error("4:37", "needs `namespaceSelector`"),
            ),
            (
                "spec.subject.pods.namespaceSelector",
                "spec: {priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {}}}}\n",
                Says("on has(namespace)"),
            ),
            (
                "spec.subject.pods.podSelector",
                "spec: {priority: 1, subject: {pods: {namespaceSelector: {}}}}\n",
                Error("4:37", "needs `podSelector`"),
            ),
            (
                "spec.subject.pods.podSelector",
                "spec: {priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}}\n",
                Says("on a == \"b\" && has(namespace)"),
            ),
        ],
    },
    Section {
        title: ADMIN,
        document: "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\n@",
        cases: &[
            (
                "metadata.name",
                "metadata: {name: default}\nspec: {subject: {namespaces: {}}}\n",
                Says("baseline/default 0"),
            ),
            (
                "metadata.name",
                "metadata: {name: other}\nspec: {subject: {namespaces: {}}}\n",
                Error("3:18", "its name is `default`"),
            ),
            (
                "spec.priority",
                "metadata: {name: default}\nspec: {priority: 1, subject: {namespaces: {}}}\n",
                Error("4:8", "unknown key `priority`"),
            ),
            (
                "spec.ingress[].action",
                "metadata: {name: default}\nspec: {subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}\n",
                Error("4:54", "use `Allow`, `Deny`"),
            ),
        ],
    },
    Section {
        title: ADMIN,
        document: "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: n}\nspec: {priority: 1, subject: {namespaces: {}},\n  @}\n",
        cases: &[
            ("spec.ingress", "ingress: []", Same),
            (
                "spec.ingress",
                "ingress: [{action: Deny, from: [{namespaces: {}}]}]",
                Says("; ingress [deny peer has(namespace)]"),
            ),
            ("spec.egress", "egress: []", Same),
            (
                "spec.egress",
                "egress: [{action: Allow, to: [{namespaces: {}}]}]",
                Says("; egress [allow peer has(namespace)]"),
            ),
            (
                "spec.ingress[].action",
                "ingress: [{action: Pass, from: [{namespaces: {}}]}]",
                Says("[pass peer"),
            ),
            (
                "spec.ingress[].action",
                "ingress: [{action: Accept, from: [{namespaces: {}}]}]",
                Error("5:22", "unknown action `Accept`"),
            ),
            (
                "spec.ingress[].action",
                "ingress: [{from: [{namespaces: {}}]}]",
                Error("5:13", "needs `action`"),
            ),
            ("spec.ingress[].from", "ingress: [{action: Deny}]", Error("5:13", "needs `from`")),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: []}]",
                Error("5:13", "`from` must not be empty"),
            ),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: [{}]}]",
                Error("5:35", "exactly one kind of selector"),
            ),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]",
                Error("5:36", "unknown key `networks`"),
            ),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: [{nodes: {}}]}]",
                Error("5:36", "unknown key `nodes`"),
            ),
            (
                "spec.ingress[].from",
                "ingress: [{action: Deny, from: [{namespaces: {}}, {namespaces: {}}]}]",
                Says("[deny peer has(namespace) | has(namespace)]"),
            ),
            (
                "spec.egress[].to",
                "egress: [{action: Deny, to: [{namespaces: {}, networks: [10.0.0.0/8]}]}]",
                Error("5:32", "exactly one kind of selector"),
            ),
            (
                "spec.egress[].to",
                "egress: [{action: Deny, to: [{namespaces: {}}]}]",
                Says("egress [deny peer has(namespace)]"),
            ),
        ],
    },
    Section {
        title: ADMIN,
        document: "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {t: '1'}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b, labels: {t: '1'}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: c, labels: {t: '2'}}\n---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: n}\nspec: {priority: 1, subject: {namespaces: {matchLabels: {t: '1'}}}, egress: [{action: Deny, to: [\n  @]}]}\n",
        cases: &[
            (
                "spec.egress[].to[].namespaces",
                "{namespaces: {matchLabels: {t: '2'}}}",
                Says("[deny peer namespace == \"c\"]"),
            ),
            (
                "spec.egress[].to[].namespaces.namespaceSelector",
                "{namespaces: {namespaceSelector: {matchLabels: {t: '2'}}}}",
                Says("[deny peer namespace == \"c\"]"),
            ),
            (
                "spec.egress[].to[].namespaces.namespaceSelector",
                "{namespaces: {namespaceSelector: {}, sameLabels: [t]}}",
                Error("17:16", "exactly one of"),
            ),
            (
                "spec.egress[].to[].namespaces.sameLabels",
                "{namespaces: {sameLabels: [t]}}",
                Says(
                    "[deny peer namespace in {\"a\", \"b\"} & own (namespace in {\"a\", \"b\"}) | namespace == \"c\" & own (namespace == \"c\")]",
                ),
            ),
            (
                "spec.egress[].to[].namespaces.sameLabels",
                "{namespaces: {sameLabels: []}}",
                Says("[deny peer !all()]"),
            ),
            (
                "spec.egress[].to[].namespaces.notSameLabels",
                "{namespaces: {notSameLabels: [t]}}",
                Says(
                    "[deny peer namespace == \"c\" & own (namespace in {\"a\", \"b\"}) | namespace in {\"a\", \"b\"} & own (namespace == \"c\")",
                ),
            ),
            (
                "spec.egress[].to[].pods",
                "{pods: {namespaceSelector: {matchLabels: {t: '2'}}, podSelector: {matchLabels: {a: b}}}}",
                Says("[deny peer a == \"b\" && namespace == \"c\"]"),
            ),
            (
                "spec.egress[].to[].pods.namespaceSelector",
                "{pods: {podSelector: {}}}",
                Error("17:10", "needs `namespaceSelector`"),
            ),
            (
                "spec.egress[].to[].pods.namespaceSelector",
                "{pods: {namespaceSelector: {}, podSelector: {}}}",
                Says("[deny peer has(namespace)]"),
            ),
            (
                "spec.egress[].to[].pods.podSelector",
                "{pods: {namespaceSelector: {}}}",
                Error("17:10", "needs `podSelector`"),
            ),
            (
                "spec.egress[].to[].pods.podSelector",
                "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}",
                Says("[deny peer a == \"b\" && has(namespace)]"),
            ),
            (
                "spec.egress[].to[].pods.namespaces",
                "{pods: {namespaces: {namespaceSelector: {matchLabels: {t: '2'}}}, podSelector: {matchLabels: {a: b}}}}",
                Says("[deny peer a == \"b\" && namespace == \"c\"]"),
            ),
            (
                "spec.egress[].to[].networks",
                "{networks: [10.1.2.3/8, \"2001:db8::/32\"]}",
                Says("[deny peer in 10.0.0.0/8, 2001:db8::/32]"),
            ),
            ("spec.egress[].to[].networks", "{networks: []}", Error("17:14", "must not be empty")),
            ("spec.egress[].to[].networks", "{networks: [10.0.0.0]}", Error("17:15", "not a CIDR")),
            (
                "spec.egress[].to[].nodes",
                "{nodes: {}}",
                Error("17:11", "use `networks` with the hosts' addresses"),
            ),
        ],
    },
    Section {
        title: ADMIN,
        document: "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: n}\nspec: {priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}],\n  @}]}\n",
        cases: &[
            ("spec.ingress[].name", "name: why", Same),
            ("spec.ingress[].name", "name: 5", Error("5:9", "put it in quotes")),
            (
                "spec.ingress[].name",
                "name: 0123456789x0123456789x0123456789x0123456789x0123456789x0123456789x0123456789x0123456789x0123456789x0123456789x",
                Error("5:9", "at most 100"),
            ),
            (
                "spec.ingress[].ports",
                "ports: [{portNumber: {port: 80}}, {portNumber: {port: 81}}]",
                Says("[deny peer has(namespace) service tcp/80, tcp/81]"),
            ),
            ("spec.ingress[].ports", "ports: []", Error("5:10", "must not be empty")),
            ("spec.ingress[].ports", "ports: [{}]", Error("5:11", "exactly one of")),
            (
                "spec.ingress[].ports[].portNumber",
                "ports: [{portNumber: {protocol: SCTP, port: 80}}]",
                Says("service sctp/80]"),
            ),
            (
                "spec.ingress[].ports[].portNumber.protocol",
                "ports: [{portNumber: {protocol: ICMP, port: 80}}]",
                Error("5:35", "unknown protocol"),
            ),
            (
                "spec.ingress[].ports[].portNumber.protocol",
                "ports: [{portNumber: {port: 80}}]",
                Says("service tcp/80]"),
            ),
            (
                "spec.ingress[].ports[].portNumber.port",
                "ports: [{portNumber: {port: 65535}}]",
                Says("service tcp/65535]"),
            ),
            (
                "spec.ingress[].ports[].portNumber.port",
                "ports: [{portNumber: {protocol: TCP}}]",
                Error("5:24", "needs `port`"),
            ),
            (
                "spec.ingress[].ports[].portNumber.port",
                "ports: [{portNumber: {port: 0}}]",
                Error("5:31", "between 1 and 65535"),
            ),
            (
                "spec.ingress[].ports[].portRange",
                "ports: [{portRange: {protocol: UDP, start: 5, end: 6}}]",
                Says("service udp/5-6]"),
            ),
            (
                "spec.ingress[].ports[].portRange.protocol",
                "ports: [{portRange: {start: 5, end: 6}}]",
                Says("service tcp/5-6]"),
            ),
            (
                "spec.ingress[].ports[].portRange.start",
                "ports: [{portRange: {start: 5, end: 5}}]",
                Error("5:23", "less than its end"),
            ),
            (
                "spec.ingress[].ports[].portRange.start",
                "ports: [{portRange: {start: 5, end: 6}}]",
                Says("service tcp/5-6]"),
            ),
            (
                "spec.ingress[].ports[].portRange.end",
                "ports: [{portRange: {start: 5}}]",
                Error("5:23", "needs `end`"),
            ),
            (
                "spec.ingress[].ports[].portRange.end",
                "ports: [{portRange: {start: 5, end: 6}}]",
                Says("service tcp/5-6]"),
            ),
            (
                "spec.ingress[].ports[].namedPort",
                "ports: [{namedPort: web}]",
                Says("service tcp/web, udp/web, sctp/web]"),
            ),
            (
                "spec.ingress[].ports[].namedPort",
                "ports: [{namedPort: web, portNumber: {port: 1}}]",
                Error("5:11", "exactly one of"),
            ),
            ("spec.egress[].ports", "ports: [{portNumber: {port: 80}}]", Says("service tcp/80]")),
        ],
    },
    Section {
        title: ADMIN,
        document: "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: n}\nspec: {priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}],\n  @}]}\n",
        cases: &[(
            "spec.egress[].ports",
            "ports: [{namedPort: web}]",
            Error("4:57", "addresses name no ports"),
        )],
    },
];
