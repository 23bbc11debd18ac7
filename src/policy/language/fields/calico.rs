//! The kinds of projectcalico.org/v3.

use super::{
    Section,
    Want::{Error, Same, Says},
};

const POLICY: &str = "Calico NetworkPolicy and GlobalNetworkPolicy";
const RULES: &str = "Rules of Calico";

pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: POLICY,
        document: "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: n, namespace: x}\n@",
        cases: &[
            ("spec", "", Error("3:18", "no `spec`")),
            ("spec", "spec: {}\n", Says("default/calico:x/n last on namespace == \"x\"; ingress []")),
            (
                "spec.namespaceSelector",
                "spec: {namespaceSelector: all()}\n",
                Error("4:8", "unknown key `namespaceSelector`"),
            ),
            ("spec.doNotTrack", "spec: {doNotTrack: true}\n", Error("4:8", "unknown key `doNotTrack`")),
        ],
    },
    Section {
        title: POLICY,
        document: "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {t: '1'}}\n---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\nspec: {order: 5}\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: n}\nspec: {\n  @}\n",
        cases: &[
            ("spec.tier", "tier: t", Says("t/calico:n last on all()")),
            ("spec.tier", "tier: default", Same),
            ("spec.tier", "tier: \"\"", Same),
            ("spec.tier", "tier: kube-admin", Says("admin/calico:n last")),
            ("spec.tier", "tier: u", Error("14:9", "no Tier with the name `u`")),
            ("spec.order", "order: 5", Says("default/calico:n 5 on all()")),
            ("spec.order", "order: 5.5", Says("default/calico:n 5 on all()")),
            ("spec.order", "order: a", Error("14:10", "order must be a number")),
            ("spec.selector", "selector: a == 'b'", Says("on a == \"b\"; ingress []")),
            ("spec.selector", "selector: \"\"", Same),
            ("spec.selector", "selector: a = 'b'", Error("14:15", "write `==`")),
            (
                "spec.selector",
                "selector: global()",
                Error("14:13", "only makes sense in a `namespaceSelector`"),
            ),
            (
                "spec.selector",
                "selector: pcns.t == '1' && projectcalico.org/namespace == 'x'",
                Says("on namespace == \"x\""),
            ),
            (
                "spec.namespaceSelector",
                "namespaceSelector: t == '1'",
                Says("on namespace == \"x\"; ingress []"),
            ),
            ("spec.namespaceSelector", "namespaceSelector: all()", Says("on has(namespace); ingress []")),
            ("spec.namespaceSelector", "namespaceSelector: global()", Says("on !has(namespace); ingress []")),
            (
                "spec.serviceAccountSelector",
                "serviceAccountSelector: a == 'b'",
                Says("on pcsa.a == \"b\"; ingress []"),
            ),
            ("spec.types", "types: [Egress]", Says("on all(); egress []")),
            ("spec.types", "types: [Egress, Ingress]", Says("on all(); ingress []; egress []")),
            ("spec.types", "types: []", Same),
            ("spec.types", "types: [Both]", Error("14:11", "unknown type `Both`")),
            ("spec.types", "types: [Egress, Egress]", Error("14:19", "is there twice")),
            (
                "spec.ingress",
                "ingress: [{action: Deny}, {action: Allow}]",
                Says("on all(); ingress [deny + allow]"),
            ),
            ("spec.egress", "egress: [{action: Deny}]", Says("on all(); egress [deny]")),
            (
                "spec.egress",
                "ingress: [{action: Deny}], egress: [{action: Deny}]",
                Says("on all(); ingress [deny]; egress [deny]"),
            ),
            ("spec.performanceHints", "performanceHints: [AssumeNeededOnEveryNode]", Same),
            (
                "spec.performanceHints",
                "performanceHints: [Other]",
                Error("14:22", "unknown performance hint"),
            ),
            ("spec.doNotTrack", "doNotTrack: true", Error("14:15", "is not supported")),
            ("spec.preDNAT", "preDNAT: true", Error("14:12", "is not supported")),
            ("spec.applyOnForward", "applyOnForward: true", Error("14:19", "is not supported")),
            ("spec.stagedAction", "stagedAction: Set", Error("14:3", "unknown key `stagedAction`")),
        ],
    },
    Section {
        title: POLICY,
        document: "apiVersion: projectcalico.org/v3\nkind: StagedGlobalNetworkPolicy\nmetadata: {name: n}\nspec: {\n  @}\n",
        cases: &[
            ("spec.stagedAction", "stagedAction: Set", Says("default/staged-calico:n last staged on all()")),
            (
                "spec.stagedAction",
                "stagedAction: Delete",
                Error("5:17", "only `stagedAction: Set` is supported"),
            ),
            ("spec.stagedAction", "", Says("default/staged-calico:n last staged on all()")),
        ],
    },
    Section {
        title: POLICY,
        document: "apiVersion: projectcalico.org/v3\nkind: StagedNetworkPolicy\nmetadata: {name: n, namespace: x}\nspec: {\n  @}\n",
        cases: &[(
            "spec.stagedAction",
            "stagedAction: Set",
            Says("default/staged-calico:x/n last staged on namespace == \"x\""),
        )],
    },
    Section {
        title: RULES,
        document: "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: n}\nspec: {ingress: [{\n  @}]}\n",
        cases: &[
            ("action", "action: Allow", Says("[allow]")),
            ("action", "action: Pass", Says("[pass]")),
            ("action", "action: Log", Says("[log log 10/1 burst 5]")),
            ("action", "action: allow", Error("5:11", "did you mean `Allow`")),
            ("action", "", Error("4:18", "needs `action`")),
        ],
    },
    Section {
        title: RULES,
        document: "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {t: '1'}}\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: g, labels: {s: '1'}}\nspec: {nets: [192.0.2.0/24]}\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: n}\nspec: {ingress: [{action: Deny,\n  @}]}\n",
        cases: &[
            ("metadata", "metadata: {annotations: {a: b}}", Same),
            ("ipVersion", "ipVersion: 4", Says("[deny peer in 0.0.0.0/0]")),
            ("ipVersion", "ipVersion: 6", Says("[deny peer in ::/0]")),
            ("ipVersion", "ipVersion: 5", Error("14:14", "must be 4 or 6")),
            ("ipVersion", "ipVersion: 6, source: {nets: [10.0.0.0/8]}", Error("14:33", "the other family")),
            ("protocol", "protocol: UDP", Says("[deny service udp]")),
            ("protocol", "protocol: icmpv6", Says("[deny service icmpv6]")),
            ("protocol", "protocol: 47", Says("[deny service 47]")),
            ("protocol", "protocol: \"132\"", Says("[deny service sctp]")),
            ("protocol", "protocol: 0", Error("14:13", "between 1 and 255")),
            ("protocol", "protocol: GRE", Error("14:13", "unknown protocol")),
            ("protocol", "protocol: ICMP, ipVersion: 6", Error("13:18", "exclude each other")),
            ("notProtocol", "notProtocol: TCP", Says("[deny not tcp]")),
            ("notProtocol", "notProtocol: ICMPv6, ipVersion: 4", Error("13:18", "exclude each other")),
            ("icmp", "protocol: ICMP, icmp: {}", Says("[deny service icmp]")),
            ("icmp", "icmp: {type: 8}", Error("14:9", "need `protocol: ICMP`")),
            ("icmp.type", "protocol: ICMP, icmp: {type: 8}", Says("[deny service icmp type 8]")),
            ("icmp.type", "protocol: ICMP, icmp: {type: 255}", Error("14:32", "between 0 and 254")),
            (
                "icmp.code",
                "protocol: ICMPv6, icmp: {type: 128, code: 0}",
                Says("[deny service icmpv6 type 128 code 0]"),
            ),
            ("icmp.code", "protocol: ICMP, icmp: {code: 0}", Error("14:32", "needs a `type`")),
            (
                "notICMP",
                "protocol: ICMP, notICMP: {type: 8, code: 1}",
                Says("[deny service icmp not icmp type 8 code 1]"),
            ),
            ("notICMP", "notICMP: {type: 8}", Error("14:12", "need `protocol: ICMP`")),
            ("http", "http: {methods: [GET]}", Error("14:9", "`http` is not supported")),
            ("source", "source: {nets: [10.0.0.0/8]}", Says("[deny peer in 10.0.0.0/8]")),
            ("source", "source: {}", Same),
            ("destination", "destination: {nets: [10.0.0.0/8]}", Says("[deny peer own (in 10.0.0.0/8)]")),
            (
                "source.nets",
                "source: {nets: [10.0.0.0/8, 192.0.2.1]}",
                Says("[deny peer in 10.0.0.0/8, 192.0.2.1]"),
            ),
            ("source.nets", "source: {nets: [10.1.2.3/8]}", Error("14:19", "did you mean 10.0.0.0/8")),
            (
                "source.nets",
                "source: {nets: [10.0.0.0/8, \"2001:db8::/32\"]}",
                Error("14:31", "IPv4 and IPv6"),
            ),
            (
                "source.nets",
                "source: {nets: [10.0.0.0/8]}, destination: {nets: [\"::/0\"]}",
                Error("14:54", "IPv4 and IPv6"),
            ),
            ("source.nets", "source: {nets: []}", Same),
            (
                "source.notNets",
                "source: {nets: [10.0.0.0/8], notNets: [10.0.0.0/9]}",
                Says("[deny peer in 10.128.0.0/9]"),
            ),
            ("source.selector", "source: {selector: a == 'b'}", Says("[deny peer a == \"b\"]")),
            ("source.selector", "source: {selector: has(s)}", Says("[deny peer has(s) | in 192.0.2.0/24]")),
            ("source.selector", "source: {selector: a contains 'b'}", Error("14:22", "cannot be answered")),
            (
                "source.selector",
                "source: {selector: global()}",
                Error("14:22", "only makes sense in a `namespaceSelector`"),
            ),
            ("source.notSelector", "source: {notSelector: a == 'b'}", Says("[deny peer not (a == \"b\")]")),
            (
                "source.notSelector",
                "source: {notSelector: has(s)}",
                Says("in 0.0.0.0-192.0.1.255, 192.0.3.0-255.255.255.255, ::/0 & not (has(s))]"),
            ),
            (
                "source.namespaceSelector",
                "source: {namespaceSelector: t == '1'}",
                Says("[deny peer namespace == \"x\"]"),
            ),
            (
                "source.namespaceSelector",
                "source: {namespaceSelector: t == '1', selector: a == 'b'}",
                Says("[deny peer a == \"b\" && namespace == \"x\"]"),
            ),
            (
                "source.namespaceSelector",
                "source: {namespaceSelector: global()}",
                Says("[deny peer !has(namespace) | in 192.0.2.0/24]"),
            ),
            (
                "source.serviceAccounts.names",
                "source: {serviceAccounts: {names: [a]}}",
                Says("[deny peer projectcalico.org/serviceaccount == \"a\"]"),
            ),
            (
                "source.serviceAccounts.selector",
                "source: {serviceAccounts: {selector: a == 'b'}}",
                Says("[deny peer pcsa.a == \"b\"]"),
            ),
            ("source.serviceAccounts", "source: {serviceAccounts: {}}", Same),
            (
                "source.serviceAccounts",
                "source: {serviceAccounts: {names: [a], selector: has(b)}}",
                Says("[deny peer projectcalico.org/serviceaccount == \"a\" && has(pcsa.b)]"),
            ),
            (
                "source.ports",
                "protocol: TCP, source: {ports: [1, \"3:5\"]}",
                Says("[deny service tcp source 1-1, 3-5]"),
            ),
            (
                "source.ports",
                "protocol: TCP, source: {ports: [http]}",
                Error("14:26", "names are of ports that are served"),
            ),
            ("source.ports", "source: {ports: [1]}", Error("14:11", "need `protocol`")),
            (
                "source.notPorts",
                "protocol: TCP, source: {notPorts: [1]}",
                Says("[deny service tcp source 0-0, 2-65535]"),
            ),
            (
                "source.services",
                "source: {services: {name: a}}",
                Error("14:22", "select the endpoints behind it"),
            ),
            (
                "source.domains",
                "source: {domains: [a.b]}",
                Error("14:21", "names of domains are not resolved"),
            ),
            (
                "destination.ports",
                "protocol: TCP, destination: {ports: [80, \"90:99\", http]}",
                Says("[deny service tcp/80, tcp/90-99, tcp/http]"),
            ),
            (
                "destination.ports",
                "protocol: TCP, destination: {ports: [0]}",
                Error("14:40", "between 1 and 65535"),
            ),
            (
                "destination.ports",
                "protocol: TCP, destination: {ports: [\"0:9\"]}",
                Error("14:40", "between 1 and 65535"),
            ),
            (
                "destination.ports",
                "protocol: TCP, destination: {ports: [\"9:3\"]}",
                Error("14:40", "upside down"),
            ),
            (
                "destination.ports",
                "protocol: UDPLite, destination: {ports: [80]}",
                Error("14:35", "need `protocol` TCP, UDP or SCTP"),
            ),
            ("destination.ports", "protocol: 6, destination: {ports: [80]}", Says("[deny service tcp/80]")),
            (
                "destination.notPorts",
                "protocol: TCP, destination: {notPorts: [80]}",
                Says("[deny service tcp not tcp/80]"),
            ),
            (
                "destination.notPorts",
                "protocol: TCP, destination: {notPorts: [http]}",
                Error("14:42", "cannot be negated"),
            ),
        ],
    },
    Section {
        title: RULES,
        document: "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: n, namespace: x}\nspec: {ingress: [{action: Deny,\n  @}]}\n",
        cases: &[
            (
                "source.selector",
                "source: {selector: a == 'b'}",
                Says("[deny peer a == \"b\" && namespace == \"x\"]"),
            ),
            (
                "source.notSelector",
                "source: {notSelector: a == 'b'}",
                Says("[deny peer namespace == \"x\" & not (a == \"b\")]"),
            ),
            (
                "source.namespaceSelector",
                "source: {namespaceSelector: all()}",
                Says("[deny peer has(namespace)]"),
            ),
        ],
    },
    Section {
        title: "StagedKubernetesNetworkPolicy",
        document: "apiVersion: projectcalico.org/v3\nkind: StagedKubernetesNetworkPolicy\nmetadata: {name: n, namespace: x}\nspec: {\n  @}\n",
        cases: &[
            (
                "spec",
                "podSelector: {}",
                Says("default/staged:x/n 1000 staged on namespace == \"x\"; ingress []"),
            ),
            ("spec.stagedAction", "stagedAction: Set", Same),
            (
                "spec.stagedAction",
                "stagedAction: Learn",
                Error("5:17", "only `stagedAction: Set` is supported"),
            ),
        ],
    },
    Section {
        title: "Tier",
        document: "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\nspec: {\n  @}\n",
        cases: &[
            ("spec.order", "order: 5", Says("tier t 5 deny")),
            ("spec.order", "", Says("tier t last deny")),
            ("spec.order", "order: 5.5", Error("5:10", "whole number")),
            ("spec.defaultAction", "defaultAction: Pass", Says("tier t last pass")),
            ("spec.defaultAction", "defaultAction: Deny", Says("tier t last deny")),
            ("spec.defaultAction", "defaultAction: Allow", Error("5:18", "unknown defaultAction")),
        ],
    },
    Section {
        title: "Tier",
        document: "apiVersion: projectcalico.org/v3\nkind: Tier\n@",
        cases: &[
            ("metadata.name", "metadata: {name: t}\n", Says("tier t last deny")),
            (
                "metadata.name",
                "metadata: {name: default}\nspec: {order: 7}\n",
                Error("3:18", "cannot be changed"),
            ),
            ("metadata.name", "metadata: {name: default}\n", Says("")),
            (
                "metadata.name",
                "metadata: {name: default}\nspec: {order: 1000000, defaultAction: Deny}\n",
                Says(""),
            ),
            ("spec", "metadata: {name: t}\nspec: []\n", Error("4:7", "must be a table")),
            ("spec", "metadata: {name: t}\nspec: {}\n", Says("tier t last deny")),
            ("spec", "metadata: {name: t}\nspec:\n", Says("tier t last deny")),
        ],
    },
    Section {
        title: "NetworkSet and GlobalNetworkSet",
        document: "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: n}\nspec: {ingress: [{action: Deny, source: {selector: has(s)}}]}\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n@",
        cases: &[
            (
                "metadata.labels",
                "metadata: {name: g, labels: {s: '1'}}\nspec: {nets: [192.0.2.0/24]}\n",
                Says("[deny peer has(s) | in 192.0.2.0/24]"),
            ),
            (
                "metadata.labels",
                "metadata: {name: g, labels: {projectcalico.org/namespace: x}}\n",
                Error("8:29", "is not a label"),
            ),
            ("spec", "metadata: {name: g, labels: {s: '1'}}\n", Says("[deny peer has(s)]")),
            (
                "spec.nets",
                "metadata: {name: g, labels: {s: '1'}}\nspec: {nets: [192.0.2.1, 10.1.2.3/8, \"2001:db8::/32\"]}\n",
                Says("in 10.0.0.0/8, 192.0.2.1, 2001:db8::/32]"),
            ),
            ("spec.nets", "metadata: {name: g}\nspec: {nets: [a]}\n", Error("9:15", "is not an IP prefix")),
            (
                "spec.allowedEgressDomains",
                "metadata: {name: g}\nspec: {allowedEgressDomains: [a.b]}\n",
                Error("9:30", "names of domains are not resolved"),
            ),
        ],
    },
    Section {
        title: "NetworkSet and GlobalNetworkSet",
        document: "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: n, namespace: x}\nspec: {ingress: [{action: Deny, source: {selector: has(s)}}]}\n---\napiVersion: projectcalico.org/v3\nkind: NetworkSet\n@",
        cases: &[
            (
                "metadata.namespace",
                "metadata: {name: g, namespace: x, labels: {s: '1'}}\nspec: {nets: [192.0.2.0/24]}\n",
                Says("[deny peer namespace == \"x\" && has(s) | in 192.0.2.0/24]"),
            ),
            (
                "metadata.namespace",
                "metadata: {name: g, namespace: y, labels: {s: '1'}}\nspec: {nets: [192.0.2.0/24]}\n",
                Says("[deny peer namespace == \"x\" && has(s)]"),
            ),
        ],
    },
    Section {
        title: "Profile",
        document: "apiVersion: projectcalico.org/v3\nkind: Profile\n@",
        cases: &[
            (
                "metadata.name",
                "metadata: {name: kns.x}\nspec: {}\n",
                Says("profile kns.x on namespace == \"x\": ingress deny, egress deny"),
            ),
            ("metadata.name", "metadata: {name: p}\nspec: {}\n", Error("3:18", "belongs to no namespace")),
            ("spec", "metadata: {name: kns.x}\n", Error("3:18", "no `spec`")),
            ("spec", "metadata: {name: kns.x}\nspec: {}\n", Says("profile kns.x")),
            (
                "spec.ingress",
                "metadata: {name: kns.x}\nspec: {ingress: [{action: Allow}]}\n",
                Says("ingress allow, egress deny"),
            ),
            (
                "spec.ingress",
                "metadata: {name: kns.x}\nspec: {ingress: [{action: Allow, protocol: TCP}]}\n",
                Error("4:17", "can only allow or deny everything"),
            ),
            (
                "spec.egress",
                "metadata: {name: kns.x}\nspec: {egress: [{action: Allow}]}\n",
                Says("ingress deny, egress allow"),
            ),
            (
                "spec.labelsToApply",
                "metadata: {name: kns.x}\nspec: {labelsToApply: {a: b}}\n",
                Error("4:23", "`labelsToApply` is not supported"),
            ),
        ],
    },
];
