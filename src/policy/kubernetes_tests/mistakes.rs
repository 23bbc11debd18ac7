//! Errors in objects, with their places.

use super::language;

#[test]
fn mistakes_in_objects_have_their_place() {
    let np = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: n}}\nspec: {spec}\n"
        )
    };
    let cluster_peer = |peer: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: n}}\nspec:\n\
             \x20 tier: Admin\n  priority: 1\n  subject: {{namespaces: {{}}}}\n\
             \x20 egress: [{{action: Deny, to: [{peer}]}}]\n"
        )
    };
    let cluster_rule = |rule: &str| cluster_peer("{namespaces: {}}").replace("]}]", &format!("], {rule}}}]"));
    let admin = |subject: &str, peer: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: n}}\nspec:\n\
             \x20 priority: 1\n  subject: {subject}\n  egress: [{{action: Deny, to: [{peer}]}}]\n"
        )
    };
    let block = |selector: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: n}}\nspec:\n  selector: {selector}\n"
        )
    };
    let beta = |text: String| text.replace("v1alpha2", "v1beta1");
    let calico = |rule: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: n}}\nspec:\n\
             \x20 {{types: [Ingress], ingress: [{{action: Allow, {rule}}}]}}\n"
        )
    };
    let tier = |name: &str, spec: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    for (text, at, part) in [
        ("kind: Pod\n".to_owned(), "1:1", "needs both `apiVersion`"),
        ("apiVersion: v1\nkind: Pod\n".to_owned(), "2:7", "do not belong"),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: {}\n".to_owned(),
            "1:1",
            "no `metadata`",
        ),
        (format!("{}ingress: []\n", np("{podSelector: {}}")), "5:1", "unknown key `ingress` in an object"),
        (np("{podSelector: {matchLabels: {version: 1}}}"), "4:45", "put it in quotes: \"1\""),
        (np("{podSelektor: {}}"), "4:8", "did you mean `podSelector`"),
        (np("{podSelector: {}, ingress: [{ports: [{port: \"80\"}]}]}"), "4:51", "a name needs a letter"),
        (np("{podSelector: {}, ingres: []}"), "4:25", "did you mean `ingress`"),
        (np("{podSelector: {}, ingress: [{from: [{}]}]}"), "4:43", "a peer needs"),
        (np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}"), "4:60", "not a CIDR"),
        (
            np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}"),
            "4:81",
            "not inside",
        ),
        (
            np("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}"),
            "4:53",
            "cannot be combined",
        ),
        (np("{podSelector: {}, ingress: [{ports: [{endPort: 3}]}]}"), "4:54", "needs `port`"),
        (np("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 3}]}]}"), "4:64", "between 80"),
        (
            np("{podSelector: {}, ingress: [{ports: [{port: 80, protocol: ICMP}]}]}"),
            "4:65",
            "unknown protocol",
        ),
        (np("{podSelector: {matchLabels: {a: 1}}}"), "4:39", "must be a string"),
        (np("{podSelector: {matchExpressions: [{key: a, operator: In}]}}"), "4:41", "needs values"),
        (
            np("{podSelector: {matchExpressions: [{key: a, operator: Gt, values: [b]}]}}"),
            "4:60",
            "unknown operator",
        ),
        (np("{podSelector: {}, policyTypes: [Both]}"), "4:39", "unknown policy type"),
        (np("{podSelector: {}, ingress: [{ports: [{port: 010}]}]}"), "4:51", "octal"),
        (np("{}").replace("name: n", "name: n, namspace: x"), "3:21", "did you mean `namespace`"),
        (np("{}").replace("name: n", "name: \"\""), "3:18", "1 to 253"),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, lables: {a: b}}\n".to_owned(),
            "3:21",
            "unknown key `lables`",
        ),
        (cluster_peer("{nodes: {matchLabels: {a: b}}}"), "8:40", "use `networks` with the hosts' addresses"),
        (cluster_peer("{domainNames: [example.org]}"), "8:46", "use `networks`"),
        (beta(cluster_peer("{networks: [10.0.0.1/8]}")), "8:44", "did you mean 10.0.0.0/8"),
        (cluster_peer("{networks: [10.0.0.1/8]}"), "", ""),
        (admin("{namespaces: {}}", "{networks: [10.0.0.1/8]}"), "", ""),
        (cluster_rule("protocols: []"), "8:62", "leave it out for all"),
        (cluster_peer("{namespaces: {sameLabels: [a]}}"), "8:46", "unknown key `sameLabels`"),
        (admin("{namespaces: {}}", "{namespaces: {sameLabels: [a]}}"), "", ""),
        (cluster_peer("{pods: {namespaces: {}, podSelector: {}}}"), "8:40", "unknown key `namespaces`"),
        (cluster_peer("{pods: {podSelector: {}}}"), "", ""),
        (cluster_peer("{pods: {namespaceSelector: {}}}"), "8:39", "needs `podSelector`"),
        (admin("{namespaces: {}}", "{pods: {podSelector: {}}}"), "7:39", "needs `namespaceSelector`"),
        (admin("{pods: {podSelector: {}}}", "{namespaces: {}}"), "6:19", "needs `namespaceSelector`"),
        (admin("{namespaces: {}}", "{pods: {namespaceSelector: {}}}"), "7:39", "needs `podSelector`"),
        (np("{podSelector: {}, ingress: [{ports: [{port: 8e1}]}]}"), "4:51", "write 80"),
        (calico("protocol: TCP, destination: {ports: [8e1]}"), "5:85", "write 80"),
        (block("|\n    app == 'x' &&\n    foo ==== 'b'\n"), "7:11", "in quotes"),
        (block(">-\n    app == 'x' &&\n\n    foo == 'b' &&& x\n"), "8:18", "label key"),
        (block("\"app == \\\"x\\\" && foo ==== 'b'\""), "5:36", "in quotes"),
        (block("'app == @x@ && foo ==== @b@'").replace('@', "''"), "5:36", "in quotes"),
        (calico("source: {services: {name: a}}"), "5:67", "select the endpoints behind it"),
        (calico("source: {domains: [a.example]}"), "5:66", "names of domains are not resolved"),
        (calico("protocol: TCP, source: {ports: [http]}"), "5:71", "names are of ports that are served"),
        (calico("protocol: TCP, destination: {ports: [\":90\"]}"), "5:85", "is not a port"),
        (calico("protocol: ICMP, ipVersion: 6"), "5:32", "exclude each other"),
        (
            calico("source: {selector: has(a), namespaceSelector: projectcalico.org/name starts with 'a'}"),
            "5:94",
            "cannot be answered",
        ),
        (tier("admin", "{}"), "", ""),
        (tier("default", "{defaultAction: Pass}"), "3:18", "cannot be changed"),
        (tier("default", "{order: 7}"), "3:18", "cannot be changed"),
        (tier("kube-admin", "{order: 1000, defaultAction: Deny}"), "3:18", "cannot be changed"),
    ] {
        if part.is_empty() {
            assert!(language::parse(&[("a.yaml", &text)]).is_ok(), "{text}");
            continue;
        }
        let errors = language::parse(&[("a.yaml", &text)]).expect_err(&text);
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let place = format!("a.yaml:{at}:");
        assert!(
            shown.iter().any(|e| e.starts_with(&place) && e.contains(part)),
            "{text}wants {place} {part}\ngot {}",
            shown.join("\n")
        );
    }
}
