use std::{fs, path::Path};

use super::*;
use crate::policy::{
    ir::{Connection, HookPoint, Packet, Ruleset},
    reach::Services,
};

/// Whether the compiled form passes the first packet of a connection.
fn compiled(engine: &Engine, rules: &Ruleset, flow: &Flow) -> bool {
    let interface_of = |addr: IpAddr| match engine.owner_of(crate::model::Prefix::host(addr)) {
        Some((id, _)) => id.as_str().to_owned(),
        None => "eth0".to_owned(),
    };
    let packet = Packet {
        iif: interface_of(flow.source),
        oif: interface_of(flow.destination),
        source: flow.source,
        destination: flow.destination,
        protocol: flow.protocol.0,
        port: flow.port,
        to_host: false,
        connection: Some(Connection { state: 8, reply: false, dnat: false, flow: *flow, stamp: 0 }),
    };
    rules.judge(HookPoint::Forward, &packet, 7).accepted
}

/// The edges of every range in a set and their neighbours.
fn probes(services: &Services) -> Vec<(Protocol, u16)> {
    let mut probes = Vec::new();
    let protocols =
        [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6, Protocol(47)];
    for protocol in protocols {
        for port in [0u16, 22, 53, 79, 80, 81, 82, 90, 99, 443, 1000, 1999, 8080, 0x0800, 0x8000, 65535] {
            if services.contains(protocol, port) && (protocol.has_ports() || protocol.is_icmp() || port == 0)
            {
                probes.push((protocol, port));
            }
        }
    }
    probes.extend(services.sample());
    probes
}

/// Each file in tests/policy, by the interpreter and by the compiled form.
#[test]
fn files_of_expectations_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let name = path.display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let fail = |errors: Vec<Diagnostic>| -> ! {
            panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        let test = TestFile::parse(&name, &text).unwrap_or_else(|e| fail(e));
        let engine = test.engine(&name, &[]).unwrap_or_else(|e| fail(e));
        let report = test.run(&engine);
        assert!(report.holds(), "{}", report.text());
        let rules = engine.compiled();
        for row in &test.rows {
            for (from, to) in row.from.iter().flat_map(|f| row.to.iter().map(move |t| (f, t))) {
                if from == to || *from == Side::Host || *to == Side::Host {
                    continue;
                }
                for source in test.addresses(from) {
                    for destination in test.addresses(to) {
                        if source.is_ipv4() != destination.is_ipv4() {
                            continue;
                        }
                        for (services, want) in [(&row.allow, true), (&row.deny, false)] {
                            for (protocol, port) in probes(&of_family(services.clone(), source.is_ipv4())) {
                                let flow = Flow {
                                    source_port: row.source_port,
                                    ..Flow::new(source, destination, protocol, port)
                                };
                                let got = compiled(&engine, &rules, &flow);
                                assert_eq!(got, want, "compiled: {flow}, {}", row.origin);
                                checked += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(checked > 300, "{checked}");
}

/// What is told to be an example must be one.
#[test]
fn the_example_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/policy");
    let text = fs::read_to_string(folder.join("shop-test.toml")).unwrap();
    let test = TestFile::parse("shop-test.toml", &text).unwrap();
    let files = language::read_dir(&folder.join(&test.policies[0].0)).unwrap();
    let report = test.run(&test.engine("shop-test.toml", &files).unwrap());
    assert!(report.holds(), "{}", report.text());
    assert!(report.checks > 20);
}

const FILE: &str = r#"
[[file]]
name = "a.toml"
text = """
[[policy]]
name = "web"
select = 'role == "web"'
ingress = [{ action = "allow", from = { selector = 'role == "lb"' }, protocol = "tcp", ports = 80 }]
"""
[[endpoint]]
name = "web"
labels = { role = "web" }
[[endpoint]]
name = "lb"
labels = { role = "lb" }
[[expect]]
from = "lb"
to = { selector = 'role == "web"' }
allow = "tcp/80"
deny = "tcp/22"
[[expect]]
from = "world"
to = "web"
allow = ["tcp/80", "udp/53"]
"#;

#[test]
fn failures_say_what_and_why() {
    let test = TestFile::parse("t.toml", FILE).unwrap();
    let engine = test.engine("t.toml", &[]).unwrap();
    let report = test.run(&engine);
    assert!(!report.holds());
    insta::assert_snapshot!(report.text());
    insta::assert_snapshot!(report.junit("t.toml"));
}

/// What an endpoint says to itself does not leave it.
#[test]
fn an_endpoint_reaches_itself() {
    let row = "[[expect]]\nfrom = \"web\"\nto = \"web\"\nallow = \"*\"\n";
    let text = FILE.replacen("[[expect]]", &format!("{row}[[expect]]"), 1);
    let test = TestFile::parse("t.toml", &text).unwrap();
    let engine = test.engine("t.toml", &[]).unwrap();
    let report = test.run(&engine);
    assert_eq!(report.rows[0].failures, []);
    let test = TestFile::parse("t.toml", &text.replacen("allow = \"*\"", "deny = \"tcp/22\"", 1)).unwrap();
    let [failure, _] = &test.run(&engine).rows[0].failures[..] else { panic!("one of each family") };
    assert!(failure.because.starts_with("what an endpoint says to itself"), "{failure:?}");
}

const HOSTS: &str = r#"
[[file]]
name = "h.toml"
text = """
[[host_policy]]
name = "up"
interfaces = ["eth*"]
ingress = [
  { action = "deny", from = { cidr = ["198.51.100.1", "2001:db8:ffff::/48"] }, protocol = "tcp", ports = 81 },
  { action = "allow", from = { selector = 'role == "mon"' }, protocol = "tcp", ports = 9100 },
  { action = "allow", from = "world", protocol = "tcp", ports = "80-90" },
]
[[host_policy]]
name = "more"
interfaces = ["eth1"]
ingress = [{ action = "allow", protocol = "udp", ports = 161 }]
"""
[[endpoint]]
name = "mon"
labels = { role = "mon" }
"#;

/// The rows of a test with host policies, each as (what of it does not hold).
fn host_rows(rows: &str) -> Vec<Vec<Failure>> {
    let text = format!("{HOSTS}{rows}");
    let test = TestFile::parse("t.toml", &text).unwrap_or_else(|e| panic!("{}", e[0]));
    let engine = test.engine("t.toml", &[]).unwrap_or_else(|e| panic!("{}", e[0]));
    test.run(&engine).rows.into_iter().map(|row| row.failures).collect()
}

#[test]
fn host_policies_are_judged() {
    let row = |from: &str, interface: &str, allow: &str, deny: &str| {
        format!(
            "[[expect]]\nfrom = \"{from}\"\nto = \"host\"\ninterface = \"{interface}\"\nallow = [{allow}]\ndeny = [{deny}]\n"
        )
    };
    let rows = [
        // By rules, failsafe ports, neighbour discovery, the default.
        row(
            "world",
            "eth0",
            "'tcp/80', 'tcp/82-90', 'tcp/22', 'udp/3784'",
            "'tcp/81', 'udp/161', 'tcp/9100', 'icmp'",
        ),
        row("world", "eth1", "'udp/161', 'tcp/80'", "'tcp/81'"),
        row("world", "wan", "'*'", ""),
        // An endpoint comes from another host: by its labels, and not to protected ports though they are failsafe.
        row("mon", "eth0", "'tcp/9100', 'tcp/22'", "'tcp/80', 'tcp/179', 'udp/53'"),
        // An address of a pool that nobody has.
        row("100.127.0.1", "eth0", "'tcp/22'", "'tcp/9100', 'tcp/80', 'tcp/179'"),
        row("192.0.2.7", "eth0", "'tcp/81', 'tcp/179'", "'tcp/91'"),
        // Its own endpoints reach the host by other rules.
        "[[expect]]\nfrom = \"mon\"\nto = \"host\"\nallow = 'udp/53'\ndeny = 'tcp/9100'\n".to_owned(),
    ];
    let nothing: Vec<Vec<Failure>> = vec![Vec::new(); rows.len()];
    assert_eq!(host_rows(&rows.concat()), nothing);
    let failures = &host_rows(&row("world", "eth0", "'udp/161'", "'tcp/80-89'"))[0];
    let [allow, deny, ..] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((&*allow.to, &*allow.services), ("host by eth0", "udp/161"));
    assert_eq!(allow.because, "host: no rule of a host policy matches");
    assert_eq!(deny.services, "tcp/80, tcp/82-89");
    assert!(deny.because.starts_with("host: rule 3 of host policy up (h.toml:"), "{deny:?}");
}

/// A row that would hold or fail by chance is an error with its place.
#[test]
fn the_interface_must_be_told_where_it_matters() {
    let open = "[[expect]]\nfrom = ['mon', 'world']\nto = 'host'\ndeny = 'tcp/80'\n";
    let text = format!("{HOSTS}{open}");
    let test = TestFile::parse("t.toml", &text).unwrap();
    let [error] = &test.engine("t.toml", &[]).unwrap_err()[..] else { panic!("one") };
    let line = HOSTS.lines().count() + 1;
    let want = format!(
        "t.toml:{line}:1: by which interface it comes in makes a difference here: host policy `more` at h.toml:9 is for eth1 only"
    );
    assert!(error.to_string().starts_with(&want), "{error}");
    assert!(error.help.contains("interface = \"eth0\""), "{error}");
    // Not where only endpoints of this host come in, nor where all host policies are for all interfaces.
    let own = text.replace("['mon', 'world']", "'mon'");
    assert!(TestFile::parse("t.toml", &own).unwrap().engine("t.toml", &[]).is_ok());
    let all = text.replace("interfaces = [\"eth*\"]", "").replace("interfaces = [\"eth1\"]", "");
    let test = TestFile::parse("t.toml", &all).unwrap();
    let report = test.run(&test.engine("t.toml", &[]).unwrap());
    assert_eq!(report.rows[0].failures.len(), 2, "the world, in both families: {report:#?}");
}

#[test]
fn matrix_and_diff_know_the_host() {
    use crate::policy::matrix::Here;
    let text = format!("{HOSTS}[[expect]]\nfrom = 'mon'\nto = 'world'\nallow = '*'\n");
    let test = TestFile::parse("t.toml", &text).unwrap();
    let engine = test.engine("t.toml", &[]).unwrap();
    let is_host = |addr: IpAddr| HOST.contains(&addr);
    let here = |endpoints_anywhere| Here { addresses: HOST.to_vec(), endpoints_anywhere };
    let view = View::new(&engine, engine.policies(), &is_host);
    let show = |cells: Vec<crate::policy::matrix::Cell>| -> Vec<String> {
        let to_host = cells.into_iter().filter(|c| c.to.starts_with("host"));
        to_host.map(|c| format!("{} -> {} ({}): {}", c.from, c.to, c.families.len(), c.allowed)).collect()
    };
    insta::assert_snapshot!(show(view.matrix(&here(true)).unwrap().cells).join("\n"));
    let live = show(view.matrix(&here(false)).unwrap().cells);
    assert!(live.iter().any(|c| c.starts_with("role=mon -> host (2)")), "{live:#?}");
    assert!(
        !live.iter().any(|c| c.starts_with("role=mon -> host by")),
        "no such endpoint elsewhere: {live:#?}"
    );
    // What a change allows and cuts, for each interface that it concerns and no other.
    let changed = HOSTS.replace("ports = 161", "ports = [161, 162]").replace("\"80-90\"", "\"80-85\"");
    let after = TestFile::parse("t.toml", &format!("{changed}{}", &text[HOSTS.len()..])).unwrap();
    let after = after.engine("t.toml", &[]).unwrap();
    let changes = view.diff(after.policies(), &here(true)).unwrap();
    let told: Vec<String> =
        changes.iter().map(|c| format!("{} -> {}: +{} -{}", c.from, c.to, c.allows, c.cuts)).collect();
    insta::assert_snapshot!(told.join("\n"));
    assert_eq!(view.diff(engine.policies(), &here(true)).unwrap(), []);
    // The host policies gone: what they refused is open.
    let none = crate::policy::PolicySet::default();
    let changes = view.diff(&none, &here(true)).unwrap();
    assert!(changes.iter().all(|c| c.to.starts_with("host by") && c.cuts.is_empty()), "{changes:#?}");
    assert!(!changes.iter().any(|c| c.to == "host by other interfaces"), "{changes:#?}");
}

/// Policies that are not there are told where they are written.
#[test]
fn absent_policies_have_their_place() {
    let text = "policies = [\"a\",\n  \"b\"]\n[[endpoint]]\nname = \"x\"\n[[expect]]\nfrom = \"x\"\nto = \"world\"\nallow = \"*\"\n";
    let test = TestFile::parse("t.toml", text).unwrap();
    let (written, absent) = &test.policies[1];
    assert_eq!(written, "b");
    assert!(absent.to_string().starts_with("t.toml:2:3: there is no file or folder `b`"), "{absent}");
}

/// `icmp` is a ping of whichever family the addresses are of, `icmpv6` is of one.
#[test]
fn services_of_pings() {
    let row = "policies=['p']\n[[endpoint]]\nname='a'\n[[expect]]\nfrom='a'\nto='world'\nallow='icmp'\ndeny='icmpv6'\n";
    let errors = TestFile::parse("t.toml", row).unwrap_err();
    assert!(errors[0].message.contains("both allowed and refused"), "{}", errors[0]);
    let file = TestFile::parse("t.toml", &row.replace("deny='icmpv6'", "")).unwrap();
    let allowed = |protocol, kind: u16| file.rows[0].allow.contains(protocol, kind << 8);
    assert!(allowed(Protocol::ICMP, 8) && allowed(Protocol::ICMPV6, 128));
    assert!(!allowed(Protocol::ICMP, 0) && !allowed(Protocol::ICMPV6, 129));
}

#[test]
fn mistakes_have_their_places() {
    for (text, at, part) in [
        ("x = 1", "1:1", "unknown key"),
        ("policies = [\"p\"]", "1:1", "expects nothing"),
        ("[[expect]]\nfrom = \"a\"\nto = \"*\"\nallow = \"*\"", "2:8", "no [[endpoint]] with the name `a`"),
        (
            "[[endpoint]]\nname = \"a\"\n[[expect]]\nfrom = \"a\"\nto = \"a\"\nallow = \"tcp/x\"",
            "6:9",
            "not a service",
        ),
        ("[[endpoint]]\nname = \"a\"\n[[expect]]\nfrom = \"a\"\nto = \"a\"", "3:1", "expects nothing"),
        ("[[endpoint]]\nname = \"a\"\n[[endpoint]]\nname = \"a\"", "4:8", "twice"),
        (
            "[[endpoint]]\nname = \"a\"\n[[expect]]\nfrom = \"a\"\nto = \"a\"\nallow = []",
            "3:1",
            "lists are empty",
        ),
        ("[[endpoint]]\nname = \"a\"\naddresses = \"10.0.0\"", "3:13", "not an address"),
        ("[[endpoint]]\nname = \"world\"", "2:8", "choose another name"),
        ("[[endpoint]]\nname = \"self\"", "2:8", "choose another name"),
        ("[[endpoint]]\nname = \"10.0.0.1\"", "2:8", "choose another name"),
        (
            "[[endpoint]]\nname = \"a\"\naddresses = \"10.0.0.1\"\n[[endpoint]]\nname = \"b\"\naddresses = [\"10.0.0.2\", \"10.0.0.1\"]",
            "6:26",
            "an address of endpoint `a` already",
        ),
        (
            "[[endpoint]]\nname = \"a\"\naddresses = [\"::1\", \"::1\"]",
            "3:21",
            "an address of endpoint `a` already",
        ),
        (
            "[[endpoint]]\nname = \"a\"\nnamespace = \"q\"\nlabels = { namespace = \"r\" }",
            "3:13",
            "the namespace is `r`",
        ),
        ("pools = [\"10.0.0.0/32\"]\n[[endpoint]]\nname = \"a\"", "1:1", "no address left for endpoint `a`"),
        (
            "[[expect]]\nfrom = \"world\"\nto = \"host\"\nallow = \"*\"\ninterface = \"eth*\"",
            "5:13",
            "is a pattern",
        ),
        (
            "[[expect]]\nfrom = \"world\"\nto = \"host\"\nallow = \"*\"\ninterface = \"lo\"",
            "5:13",
            "itself is not judged",
        ),
        (
            "[[expect]]\nfrom = \"world\"\nto = \"host\"\nallow = \"*\"\ninterface = \"s320a\"",
            "5:13",
            "like an endpoint's",
        ),
        (
            "[[expect]]\nfrom = \"world\"\nto = \"host\"\nallow = \"*\"\ninterface = 4",
            "5:13",
            "must be a string",
        ),
        (
            "[[expect]]\nfrom = \"host\"\nto = \"host\"\nallow = \"*\"\ninterface = \"eth0\"",
            "5:13",
            "by no interface",
        ),
        (
            "[[endpoint]]\nname = \"a\"\n[[expect]]\nfrom = \"world\"\nto = \"a\"\nallow = \"*\"\ninterface = \"eth0\"",
            "7:13",
            "reaches the host only",
        ),
        (
            "[[expect]]\nfrom = \"world\"\nto = \"10.0.0.1\"\nallow = \"*\"",
            "1:1",
            "neither end is an endpoint",
        ),
        (
            "[[endpoint]]\nname = \"a\"\n[[expect]]\nfrom = \"a\"\nto = \"a\"\nallow = \"tcp\"\ndeny = \"tcp/1\"",
            "3:1",
            "both",
        ),
    ] {
        let errors = TestFile::parse("t.toml", text).unwrap_err();
        let place = format!("t.toml:{at}: ");
        let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            shown.iter().any(|e| e.starts_with(&place) && e.contains(part)),
            "{text}\n{}",
            shown.join("\n")
        );
    }
}
