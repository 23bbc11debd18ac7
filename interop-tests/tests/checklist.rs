//! What Kubernetes' NetworkPolicy means, with two hosts: each end's own host enforces its side, by identities that came
//! with the routes. The numbers are those of the table in `src/policy/packet_tests/mod.rs`; each in IPv4 and IPv6.

use anyhow::{Result, ensure};
use interop_tests::{Agent, Container, Lab, Machine, Network, PATIENCE, Rack, Switch, check, eventually};

const NAMESPACES: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {team: red}}
---
apiVersion: v1
kind: Namespace
metadata: {name: y, labels: {team: TEAM}}
";

/// A NetworkPolicy for the web pod of namespace x.
fn web(name: &str, rules: &str) -> String {
    policy(name, "x", "matchLabels: {app: web}", rules)
}

fn policy(name: &str, namespace: &str, pods: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  podSelector: {{{pods}}}\n  {rules}\n"
    )
}

fn pod(machine: &Machine, name: &str, namespace: &str, app: &str) -> Result<Container> {
    machine.container(name, &Network::slash32()?.label("namespace", namespace).label("app", app))
}

/// Both hosts get the same folder, as in a cluster.
fn apply(hosts: &[Agent; 2], team: &str, policies: &[String]) -> Result<()> {
    let text = format!("{}{}", NAMESPACES.replace("TEAM", team), policies.concat());
    hosts.iter().try_for_each(|host| host.write_policy("policies.yaml", &text))
}

/// Who connects to whom on which port, and whether that works: sooner or later, and then all of it.
fn expect(step: &str, wanted: &[(&Container, &Container, u16, bool)]) -> Result<()> {
    for (from, to, port, works) in wanted {
        for address in [to.ipv4()?, to.ipv6()?] {
            let what = format!("{step}: {} to {} {address} port {port}: {works}", from.name(), to.name());
            eventually(&what, PATIENCE, || {
                check(from.connect(&address, *port).is_ok() == *works, "it is not so")
            })?;
        }
    }
    Ok(())
}

#[test]
fn networkpolicy_with_two_hosts() {
    Lab::run("checklist", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, hosts) = rack.start()?;
        let [one, two] = &rack.hosts;
        let server = pod(one, "web", "x", "web")?;
        let near = pod(one, "near", "x", "lb")?;
        let far = pod(two, "far", "x", "lb")?;
        let other = pod(two, "other", "y", "lb")?;
        let mut echoes = Vec::new();
        for container in [&server, &far, &other] {
            for port in [7, 8] {
                echoes.push(container.echo_on(port)?);
            }
        }
        let everybody = [&near, &far, &other];
        let all = |port, works| everybody.map(|from| (from, &server, port, works));

        expect("1 not selected", &[all(7, true), all(8, true)].concat())?;

        apply(&hosts, "blue", &[web("a", "ingress: []")])?;
        expect("2 selected", &all(7, false))?;
        expect(
            "1 the other direction is not concerned",
            &[(&server, &far, 7, true), (&server, &other, 8, true)],
        )?;

        // Two policies add up.
        let from_lb =
            web("a", "ingress: [{from: [{podSelector: {matchLabels: {app: lb}}}], ports: [{port: 7}]}]");
        let from_y = web(
            "b",
            "ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 8}]}]",
        );
        apply(&hosts, "blue", &[from_lb.clone(), from_y.clone()])?;
        expect(
            "2 one or the other",
            &[
                (&near, &server, 7, true),
                (&far, &server, 7, true),
                (&other, &server, 8, true),
                (&near, &server, 8, false),
                (&far, &server, 8, false),
                (&other, &server, 7, false),
            ],
        )?;

        // The one host allows it to come in, the other one does not let it out.
        let shut = policy("out", "y", "", "policyTypes: [Egress]");
        apply(&hosts, "blue", &[from_lb.clone(), from_y.clone(), shut])?;
        expect(
            "3 both ends",
            &[(&other, &server, 8, false), (&far, &server, 7, true), (&far, &other, 7, true)],
        )?;

        apply(&hosts, "blue", &[web("a", "ingress: [{}]")])?;
        expect("4 an empty rule", &[all(7, true), all(8, true)].concat())?;

        let and = "ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: lb}}}]}]";
        let or = "ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}, {podSelector: {matchLabels: {app: lb}}}]}]";
        apply(&hosts, "blue", &[web("a", and)])?;
        expect(
            "5 and",
            &[(&other, &server, 7, true), (&far, &server, 7, false), (&near, &server, 7, false)],
        )?;
        apply(&hosts, "blue", &[web("a", or)])?;
        expect("5 or", &all(7, true))?;

        let blocks = format!(
            "ingress: [{{from: [{{ipBlock: {{cidr: 10.32.0.0/16, except: [{}/32]}}}}, {{ipBlock: {{cidr: 'fd00:32::/48', except: ['{}/128']}}}}]}}]",
            far.ipv4()?,
            far.ipv6()?
        );
        apply(&hosts, "blue", &[web("a", &blocks)])?;
        expect(
            "6 blocks",
            &[(&far, &server, 7, false), (&near, &server, 7, true), (&other, &server, 7, true)],
        )?;

        for host in &hosts {
            host.write_policy(
                "ports.toml",
                "[[named_port]]\nname = 'echo'\nselect = 'app == \"web\"'\nport = 8\n",
            )?;
        }
        apply(&hosts, "blue", &[web("a", "ingress: [{ports: [{port: echo}, {port: 1, endPort: 6}]}]")])?;
        expect("7 a name", &[all(8, true), all(7, false)].concat())?;
        apply(
            &hosts,
            "blue",
            &[web("a", "ingress: [{ports: [{port: 1, endPort: 7}, {port: 8, protocol: UDP}]}]")],
        )?;
        expect("7 a range", &[all(7, true), all(8, false)].concat())?;

        // Labels of a pod on the other host, of a namespace, and no policy any more.
        apply(&hosts, "blue", &[from_lb.clone(), from_y.clone()])?;
        expect("8 before", &[(&far, &server, 7, true), (&other, &server, 8, true)])?;
        hosts[1].cli("endpoints label far app=none").run()?;
        expect("8 a pod's label", &[(&far, &server, 7, false), (&near, &server, 7, true)])?;
        apply(&hosts, "green", &[from_lb, from_y])?;
        expect("8 a namespace's label", &[(&other, &server, 8, false), (&near, &server, 7, true)])?;
        apply(&hosts, "green", &[])?;
        expect("8 no policy", &[all(7, true), all(8, true)].concat())?;

        // Whatever policies say, a host reaches its own; the other host is one of the world.
        apply(&hosts, "blue", &[web("a", "ingress: []")])?;
        expect("9 before", &all(7, false))?;
        for address in [server.ipv4()?, server.ipv6()?] {
            one.ping(&address)?;
            ensure!(two.ping(&address).is_err(), "host 2 reaches {address}");
        }
        Ok(())
    });
}
