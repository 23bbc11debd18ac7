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

/// Policies that are not there are told where they are written.
#[test]
fn absent_policies_have_their_place() {
    let text = "policies = [\"a\",\n  \"b\"]\n[[endpoint]]\nname = \"x\"\n[[expect]]\nfrom = \"x\"\nto = \"world\"\nallow = \"*\"\n";
    let test = TestFile::parse("t.toml", text).unwrap();
    let (written, absent) = &test.policies[1];
    assert_eq!(written, "b");
    assert!(absent.to_string().starts_with("t.toml:2:3: there is no file or folder `b`"), "{absent}");
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
