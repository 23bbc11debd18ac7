//! What Calico's objects say of namespaces and accounts.

use super::language;

/// `all()` of a namespaceSelector is what is in a namespace, within an expression too.
#[test]
fn all_namespaces_leave_global_sets_out() {
    let sets = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: g, labels: {role: lb}}\nspec: {nets: [192.0.2.7/32]}\n";
    let reaches = |selector: &str| {
        let policy = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  selector: all()\n  \
             ingress: [{{action: Allow, source: {{namespaceSelector: \"{selector}\"}}}}]\n"
        );
        let set =
            language::parse(&[("s.yaml", sets), ("p.yaml", &policy)]).unwrap_or_else(|e| panic!("{}", e[0]));
        let peers = &set.policies[0].ingress.as_ref().unwrap()[0].peers;
        peers.iter().any(|p| p.ranges.as_ref().is_some_and(|r| r.contains("192.0.2.7".parse().unwrap())))
    };
    for (selector, wanted) in [
        ("all()", false),
        ("all() && env != 'dev'", false),
        ("env != 'dev'", true),
        ("all() || global()", true),
        ("!all()", true),
        ("global()", true),
        ("has(env)", false),
    ] {
        assert_eq!(reaches(selector), wanted, "{selector}");
    }
}

/// Service accounts that are neither named nor selected say nothing.
#[test]
fn empty_service_accounts_say_nothing() {
    let peers = |accounts: &str| {
        let policy = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  selector: all()\n  \
             ingress: [{{action: Allow, source: {{serviceAccounts: {accounts}}}}}]\n"
        );
        let set = language::parse(&[("p.yaml", &policy)]).unwrap_or_else(|e| panic!("{}", e[0]));
        set.policies[0].ingress.as_ref().unwrap()[0].peers.len()
    };
    assert_eq!([peers("{}"), peers("{names: []}"), peers("{selector: \"\"}")], [0; 3]);
    assert_eq!([peers("{names: [a]}"), peers("{selector: all()}")], [1; 2]);
}
