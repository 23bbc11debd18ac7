//! What is the same in every object; namespaces; `NetworkPolicy`.

use super::{
    Section,
    Want::{Error, Same, Says},
};

const EVERY: &str = "Every object";
const SELECTORS: &str = "Label selectors";
const POLICY: &str = "NetworkPolicy";

/// Ways to write an object, with the metadata and the rest left open.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: EVERY,
        document: "@",
        cases: &[
            (
                "apiVersion",
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\n",
                Says("default/default/n 1000"),
            ),
            (
                "apiVersion",
                "kind: NetworkPolicy\nmetadata: {name: n}\n",
                Error("1:1", "it needs both `apiVersion` and `kind`"),
            ),
            (
                "apiVersion",
                "apiVersion: networking.k8s.io/v2\nkind: NetworkPolicy\n",
                Error("2:7", "NetworkPolicy is read in networking.k8s.io/v1"),
            ),
            (
                "kind",
                "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\n",
                Says("tier t last deny"),
            ),
            (
                "kind",
                "apiVersion: v1\nkind: Service\nmetadata: {name: n}\n",
                Error("2:7", "do not belong in a policy folder"),
            ),
            (
                "kind",
                "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: n}\n",
                Error("2:7", "do not belong in a policy folder"),
            ),
            ("metadata", "apiVersion: projectcalico.org/v3\nkind: Tier\n", Error("1:1", "no `metadata`")),
            (
                "metadata",
                "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\n",
                Says("tier t"),
            ),
            ("items", "apiVersion: v1\nkind: List\nitems:\n", Says("")),
            (
                "items",
                "apiVersion: v1\nkind: List\nmetadata: {}\nitems:\n- {apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: t}}\n",
                Says("tier t"),
            ),
            (
                "items",
                "apiVersion: projectcalico.org/v3\nkind: TierList\nitems:\n- {metadata: {name: t}}\n",
                Says("tier t"),
            ),
            (
                "items",
                "apiVersion: v1\nkind: List\nitems:\n- {metadata: {name: t}}\n",
                Error("4:3", "it needs both `apiVersion` and `kind`"),
            ),
        ],
    },
    Section {
        title: EVERY,
        document: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec: {}\n@",
        cases: &[
            ("status", "status: {conditions: []}\n", Same),
            ("spec", "ingress: []\n", Error("5:1", "unknown key `ingress` in an object")),
        ],
    },
    Section {
        title: EVERY,
        document: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {\n  @}\nspec: {}\n",
        cases: &[
            ("metadata.name", "name: n", Says("default/default/n 1000")),
            ("metadata.name", "name: \"a b\"", Error("4:9", "1 to 253 letters")),
            ("metadata.name", "namespace: x", Error("3:11", "`metadata` has no `name`")),
            ("metadata.namespace", "name: n, namespace: x", Says("default/x/n 1000 on namespace == \"x\"")),
            ("metadata.namespace", "name: n, namespace: \"\"", Says("on namespace == \"default\"")),
            ("metadata.namespace", "name: n, namespace: x/y", Error("4:23", "1 to 253 letters")),
        ],
    },
    Section {
        title: EVERY,
        document: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n,\n  @}\nspec: {}\n",
        cases: &[
            ("metadata.labels", "labels: {a: b}", Same),
            ("metadata.annotations", "annotations: {a: b}", Same),
            ("metadata.clusterName", "clusterName: c", Same),
            ("metadata.creationTimestamp", "creationTimestamp: null", Same),
            ("metadata.deletionGracePeriodSeconds", "deletionGracePeriodSeconds: 1", Same),
            ("metadata.deletionTimestamp", "deletionTimestamp: 2020-01-01", Same),
            ("metadata.finalizers", "finalizers: [a]", Same),
            ("metadata.generateName", "generateName: g", Same),
            ("metadata.generation", "generation: 3", Same),
            ("metadata.managedFields", "managedFields: []", Same),
            ("metadata.ownerReferences", "ownerReferences: []", Same),
            ("metadata.resourceVersion", "resourceVersion: \"7\"", Same),
            ("metadata.selfLink", "selfLink: /a", Same),
            ("metadata.uid", "uid: u", Same),
            ("metadata", "namspace: x", Error("4:3", "did you mean `namespace`")),
        ],
    },
    Section {
        title: EVERY,
        document: "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: n,\n  @}\nspec: {priority: 1, subject: {namespaces: {}}}\n",
        cases: &[("metadata.namespace", "namespace: x", Same)],
    },
    Section {
        title: SELECTORS,
        document: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec: {podSelector: {\n  @}}\n",
        cases: &[
            ("matchLabels", "matchLabels: {a: b, c: d}", Says("on a == \"b\" && c == \"d\" && namespace")),
            ("matchLabels", "matchLabels: {a: 1}", Error("5:20", "put it in quotes")),
            ("matchLabels", "matchLabels: {\"a b\": c}", Error("5:17", "label key")),
            (
                "matchExpressions",
                "matchExpressions: [{key: a, operator: Exists}, {key: b, operator: Exists}]",
                Says("has(a) && has(b)"),
            ),
            ("matchExpressions", "matchExpressions: {}", Error("5:21", "must be a list")),
            ("matchExpressions[].key", "matchExpressions: [{key: a/b, operator: Exists}]", Says("has(a/b)")),
            (
                "matchExpressions[].key",
                "matchExpressions: [{key: a b, operator: Exists}]",
                Error("5:28", "label key"),
            ),
            (
                "matchExpressions[].key",
                "matchExpressions: [{operator: Exists}]",
                Error("5:22", "needs `key`"),
            ),
            (
                "matchExpressions[].operator",
                "matchExpressions: [{key: a, operator: In, values: [x, y]}]",
                Says("a in {\"x\", \"y\"}"),
            ),
            (
                "matchExpressions[].operator",
                "matchExpressions: [{key: a, operator: NotIn, values: [x]}]",
                Says("a != \"x\""),
            ),
            (
                "matchExpressions[].operator",
                "matchExpressions: [{key: a, operator: DoesNotExist}]",
                Says("!has(a)"),
            ),
            (
                "matchExpressions[].operator",
                "matchExpressions: [{key: a, operator: Gt, values: [x]}]",
                Error("5:41", "unknown operator"),
            ),
            (
                "matchExpressions[].values",
                "matchExpressions: [{key: a, operator: In, values: [x]}]",
                Says("a == \"x\""),
            ),
            (
                "matchExpressions[].values",
                "matchExpressions: [{key: a, operator: In}]",
                Error("5:22", "needs values"),
            ),
            (
                "matchExpressions[].values",
                "matchExpressions: [{key: a, operator: Exists, values: [x]}]",
                Error("5:22", "takes no values"),
            ),
            (
                "matchExpressions[].values",
                "matchExpressions: [{key: a, operator: In, values: ['\"']}]",
                Error("5:54", "not valid"),
            ),
        ],
    },
    Section {
        title: "Namespace",
        document: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec: {ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: x,\n  @}\n",
        cases: &[
            ("metadata.labels", "labels: {team: a}", Says("ingress [allow peer namespace == \"x\"]")),
            ("metadata.labels", "labels: {team: 1}", Error("9:18", "put it in quotes")),
            ("metadata.namespace", "namespace: y", Same),
            ("spec", "labels: {}}\nspec: {finalizers: [kubernetes]", Same),
        ],
    },
    Section {
        title: POLICY,
        document: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: x}\n@",
        cases: &[
            ("spec", "", Says("default/x/n 1000 on namespace == \"x\"; ingress []")),
            ("spec", "spec: []", Error("4:7", "must be a table")),
        ],
    },
    Section {
        title: POLICY,
        document: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: x}\nspec: {\n  @}\n",
        cases: &[
            (
                "spec.podSelector",
                "podSelector: {matchLabels: {a: b}}",
                Says("on a == \"b\" && namespace == \"x\""),
            ),
            ("spec.podSelector", "podSelector: {}", Same),
            ("spec.policyTypes", "policyTypes: [Egress]", Says("on namespace == \"x\"; egress []")),
            ("spec.policyTypes", "policyTypes: []", Same),
            ("spec.policyTypes", "policyTypes: [Both]", Error("5:17", "unknown policy type")),
            ("spec.policyTypes", "policyTypes: [Ingress, Egress, Ingress]", Error("5:16", "at most two")),
            ("spec.ingress", "ingress: [{}]", Says("ingress [allow]")),
            ("spec.ingress", "ingress: []", Same),
            ("spec.egress", "egress: [{}]", Says("ingress []; egress [allow]")),
            ("spec.egress", "egress: []", Same),
            ("spec.ingress[].from", "ingress: [{from: []}]", Says("ingress [allow]")),
            ("spec.ingress[].from", "ingress: [{to: []}]", Error("5:14", "unknown key `to`")),
            ("spec.ingress[].from", "ingress: [{from: [{}]}]", Error("5:21", "a peer needs")),
            (
                "spec.ingress[].from[].podSelector",
                "ingress: [{from: [{podSelector: {matchLabels: {a: b}}}]}]",
                Says("[allow peer a == \"b\" && namespace == \"x\"]"),
            ),
            (
                "spec.ingress[].from[].namespaceSelector",
                "ingress: [{from: [{namespaceSelector: {}}]}]",
                Says("[allow peer has(namespace)]"),
            ),
            (
                "spec.ingress[].from[].namespaceSelector",
                "ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}]}]",
                Says("[allow peer a == \"b\" && has(namespace)]"),
            ),
            (
                "spec.ingress[].from[].ipBlock",
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]",
                Error("5:31", "cannot be combined"),
            ),
            (
                "spec.ingress[].from[].ipBlock",
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]",
                Says("[allow peer in 10.0.0.0/8]"),
            ),
            (
                "spec.ingress[].from[].ipBlock.cidr",
                "ingress: [{from: [{ipBlock: {cidr: \"2001:db8::/32\"}}]}]",
                Says("[allow peer in 2001:db8::/32]"),
            ),
            (
                "spec.ingress[].from[].ipBlock.cidr",
                "ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]",
                Says("[allow peer in 10.0.0.0/8]"),
            ),
            (
                "spec.ingress[].from[].ipBlock.cidr",
                "ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]",
                Error("5:38", "not a CIDR"),
            ),
            (
                "spec.ingress[].from[].ipBlock.cidr",
                "ingress: [{from: [{ipBlock: {cidr: 10.1.2.3}}]}]",
                Error("5:38", "not a CIDR"),
            ),
            (
                "spec.ingress[].from[].ipBlock.cidr",
                "ingress: [{from: [{ipBlock: {cidr: \"::ffff:10.0.0.0/104\"}}]}]",
                Error("5:38", "not a CIDR"),
            ),
            (
                "spec.ingress[].from[].ipBlock.cidr",
                "ingress: [{from: [{ipBlock: {}}]}]",
                Error("5:31", "needs `cidr`"),
            ),
            (
                "spec.ingress[].from[].ipBlock.except",
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9]}}]}]",
                Says("[allow peer in 10.128.0.0/9]"),
            ),
            (
                "spec.ingress[].from[].ipBlock.except",
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]",
                Error("5:59", "not inside of"),
            ),
            ("spec.ingress[].ports", "ingress: [{ports: []}]", Says("ingress [allow]")),
            ("spec.ingress[].ports", "ingress: [{ports: [{}]}]", Says("[allow service tcp]")),
            (
                "spec.ingress[].ports[].protocol",
                "ingress: [{ports: [{protocol: SCTP}]}]",
                Says("[allow service sctp]"),
            ),
            (
                "spec.ingress[].ports[].protocol",
                "ingress: [{ports: [{protocol: UDP, port: 53}]}]",
                Says("[allow service udp/53]"),
            ),
            (
                "spec.ingress[].ports[].protocol",
                "ingress: [{ports: [{protocol: udp}]}]",
                Error("5:33", "did you mean `UDP`"),
            ),
            (
                "spec.ingress[].ports[].port",
                "ingress: [{ports: [{port: 80}]}]",
                Says("[allow service tcp/80]"),
            ),
            (
                "spec.ingress[].ports[].port",
                "ingress: [{ports: [{port: http}]}]",
                Says("[allow service tcp/http]"),
            ),
            (
                "spec.ingress[].ports[].port",
                "ingress: [{ports: [{port: 0}]}]",
                Error("5:29", "between 1 and 65535"),
            ),
            (
                "spec.ingress[].ports[].port",
                "ingress: [{ports: [{port: \"80\"}]}]",
                Error("5:29", "write 80 without quotes"),
            ),
            (
                "spec.ingress[].ports[].port",
                "ingress: [{ports: [{port: a--b}]}]",
                Error("5:29", "is not the name of a port"),
            ),
            (
                "spec.ingress[].ports[].port",
                "ingress: [{ports: [{port: a-}]}]",
                Error("5:29", "is not the name of a port"),
            ),
            (
                "spec.ingress[].ports[].port",
                "ingress: [{ports: [{port: -a}]}]",
                Error("5:29", "is not the name of a port"),
            ),
            (
                "spec.ingress[].ports[].endPort",
                "ingress: [{ports: [{port: 80, endPort: 90}]}]",
                Says("[allow service tcp/80-90]"),
            ),
            (
                "spec.ingress[].ports[].endPort",
                "ingress: [{ports: [{port: 80, endPort: 79}]}]",
                Error("5:42", "between 80 and"),
            ),
            (
                "spec.ingress[].ports[].endPort",
                "ingress: [{ports: [{endPort: 79}]}]",
                Error("5:32", "needs `port`"),
            ),
            (
                "spec.ingress[].ports[].endPort",
                "ingress: [{ports: [{port: http, endPort: 79}]}]",
                Error("5:44", "with a number"),
            ),
            (
                "spec.egress[].to",
                "egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]",
                Says("egress [allow peer in 10.0.0.0/8]"),
            ),
            ("spec.egress[].to", "egress: [{from: []}]", Error("5:13", "unknown key `from`")),
            (
                "spec.egress[].ports",
                "egress: [{ports: [{port: 53, protocol: UDP}]}]",
                Says("egress [allow service udp/53]"),
            ),
        ],
    },
];
