//! Cases by hand, for what random ones meet too seldom.

use super::*;
use crate::policy::language;

/// A folder, a local endpoint `web`, and flows to it from a remote one with some labels: what is told and what is compiled.
fn with_remote(text: &str, labels: &[(&str, &str)]) -> Engine {
    let set = language::parse(&[("a.toml", text)]).unwrap_or_else(|e| panic!("{}", e[0]));
    let mut engine = Engine::new(config(true, true));
    engine.set_policies(Arc::new(set));
    let all = |list: &[(&str, &str)]| {
        let mut labels = Labels::new();
        for (key, value) in list {
            labels.insert(*key, *value).unwrap();
        }
        labels
    };
    Event::Local(0, all(&[("role", "web")])).apply(&mut engine);
    Event::Remote(4, all(labels)).apply(&mut engine);
    engine
}

/// A port by name that the rule excludes by number is not in it, where the name means that number.
#[test]
fn named_ports_without_excluded_ones() {
    let text = "[[named_port]]\nname='http'\nselect='all()'\nport=80\n[[named_port]]\nname='http'\nselect='all()'\nport=8080\n\
        [[policy]]\nname='p'\nselect='all()'\ningress=[{action='allow',protocol='tcp',ports=['http'],not_protocol='tcp',not_ports=[8080]}]\n";
    let engine = with_remote(text, &[("role", "lb")]);
    let flow = |port| Flow::new(addr(ADDRESSES[4]), addr(ADDRESSES[0]), Protocol::TCP, port);
    check(&engine, &[flow(80), flow(8080), flow(443)]).unwrap();
    let allowed = |port| engine.explain(&flow(port), |_| false).allowed;
    assert_eq!([80, 8080, 443].map(allowed), [true, false, false]);
}

/// Both parts of a peer hold: who is selected and excluded as well is no peer.
#[test]
fn selected_and_excluded() {
    for (labels, want) in
        [(&[("app", "a")][..], true), (&[("app", "a"), ("env", "dev")], false), (&[("env", "prod")], false)]
    {
        let mut engine = with_remote("", labels);
        let peer = Peer {
            selector: Some("app == 'a'".parse().unwrap()),
            not_selector: Some("env == 'dev'".parse().unwrap()),
            ..Peer::default()
        };
        let rule = Rule {
            action: Action::Allow,
            peers: vec![peer],
            services: Vec::new(),
            not_services: Vec::new(),
            source_ports: None,
            log: None,
            limit: None,
            origin: Origin::default(),
        };
        let text = "[[policy]]\nname='p'\nselect='all()'\ningress=[]\n";
        let mut set = language::parse(&[("a.toml", text)]).unwrap();
        let policy = Policy { ingress: Some(vec![rule]), ..(*set.policies[0]).clone() };
        set.policies = vec![Arc::new(policy)];
        engine.set_policies(Arc::new(set));
        let flow = Flow::new(addr(ADDRESSES[4]), addr(ADDRESSES[0]), Protocol::TCP, 80);
        check(&engine, &[flow]).unwrap();
        assert_eq!(engine.explain(&flow, |_| false).allowed, want, "{labels:?}");
    }
}

/// What each new label of a remote endpoint revokes is announced, and nothing else.
#[test]
fn labels_that_revoke() {
    let lb: &[(&str, &str)] = &[("role", "lb")];
    let (dev, none): (&[_], &[_]) = (&[("env", "dev")], &[("role", "none")]);
    for (rules, before, after, revokes) in [
        ("{action='allow',from={selector='role == \"lb\"'}}", lb, none, true),
        ("{action='allow',from={selector='role == \"lb\"'}}", none, lb, false),
        ("{action='deny',from={selector='role == \"lb\"'}},{action='allow'}", none, lb, true),
        ("{action='allow',from={selector='env != \"dev\"'}}", none, dev, true),
        ("{action='allow',from={selector='env != \"dev\"'}}", dev, none, false),
        ("{action='deny',from={selector='env != \"dev\"'}},{action='allow'}", dev, none, true),
        ("{action='pass',from={selector='role == \"lb\"'}},{action='allow'}", none, lb, true),
    ] {
        let text = format!(
            "[[tier]]\nname='t'\norder=1\n[[policy]]\nname='p'\ntier='t'\nselect='all()'\ningress=[{rules}]\n"
        );
        let mut engine = with_remote(&text, before);
        engine.snapshot();
        let mut labels = Labels::new();
        for (key, value) in after {
            labels.insert(*key, *value).unwrap();
        }
        Event::Remote(4, labels).apply(&mut engine);
        assert_eq!(engine.changes().revokes, revokes, "{rules} {before:?} {after:?}");
    }
}

/// An address of another host that becomes local has its flows judged anew only if policies of its own say anything.
#[test]
fn addresses_that_move_here() {
    let text = "[[policy]]\nname='p'\nselect='role == \"closed\"'\ningress=[]\n";
    for (role, gone, revokes) in [("closed", false, true), ("closed", true, true), ("free", false, false)] {
        let mut engine = with_remote(text, &[("role", role)]);
        engine.snapshot();
        let mut labels = Labels::new();
        labels.insert("role", role).unwrap();
        if gone {
            Event::RemoteGone(4).apply(&mut engine);
            engine.snapshot();
        }
        let addresses = vec![addr(ADDRESSES[4])];
        engine.upsert_local(LocalEndpoint { shared: Vec::new(), id: interface(3), addresses, labels });
        assert_eq!(engine.changes().revokes, revokes, "{role} gone: {gone}");
    }
}

/// The profile of a remote endpoint is asked by what its route tells of its labels.
#[test]
fn profiles_of_remote_endpoints_count() {
    let set = language::parse(&[(
        "a.toml",
        "[[profile]]\nname='p'\nselect='role == \"web\"'\negress='deny'\n[[profile]]\nname='q'\nselect='!has(role)'\ningress='deny'\n",
    )])
    .unwrap();
    let mut engine = Engine::new(config(true, true));
    let mut labels = Labels::new();
    labels.insert("role", "web").unwrap();
    Event::Local(0, labels.clone()).apply(&mut engine);
    Event::Remote(4, labels.clone()).apply(&mut engine);
    labels.insert("role", "db").unwrap();
    Event::Remote(5, labels).apply(&mut engine);
    let host = |_: IpAddr| false;
    let nothing = PolicySet::default();
    let (with, without) = (View::new(&engine, &set, &host), View::new(&engine, &nothing, &host));
    let flow =
        |from: usize, to: usize| Flow::new(addr(ADDRESSES[from]), addr(ADDRESSES[to]), Protocol::TCP, 80);
    assert!(!with.explain(&flow(4, 0)).allowed && with.explain(&flow(5, 0)).allowed);
    assert!(with.explain(&flow(5, 4)).allowed, "who has the label is not without it");
    assert!(with.reach(addr(ADDRESSES[4]), addr(ADDRESSES[0])).is_empty());
    let changes = without.diff(&set, &Here::default()).unwrap();
    assert!(
        changes.iter().any(|c| c.from == "role=web" && c.to == "role=?" && !c.cuts.is_empty()),
        "{changes:#?}"
    );
    assert!(!changes.iter().any(|c| c.from == "role=?"), "{changes:#?}");
}

/// A port of the host that leads to an endpoint.
#[test]
fn port_mappings_are_found() {
    use crate::policy::engine::PortMap;
    let mut engine = Engine::new(config(true, true));
    Event::Local(0, Labels::new()).apply(&mut engine);
    let map = |host: Option<&str>, port| PortMap {
        host: host.map(addr),
        protocol: Protocol::TCP,
        host_port: 8080,
        target: std::net::SocketAddr::new(addr(ADDRESSES[0]), port),
    };
    engine.set_port_maps(&interface(0), vec![map(None, 80), map(Some(HOST[0]), 81)]).unwrap();
    let find = |to: &str, protocol, port| {
        let source = if to.contains(':') { ADDRESSES[16] } else { ADDRESSES[13] };
        let flow = Flow::new(addr(source), addr(to), protocol, port);
        engine.mapped(&flow).map(|(id, flow)| (id.clone(), flow.destination, flow.port))
    };
    let to = |port| Some((interface(0), addr(ADDRESSES[0]), port));
    assert_eq!(find("203.0.113.9", Protocol::TCP, 8080), to(80));
    assert_eq!(find(HOST[0], Protocol::TCP, 8080), to(81), "one address goes before all");
    assert_eq!(find(HOST[0], Protocol::UDP, 8080), None);
    assert_eq!(find(HOST[0], Protocol::TCP, 80), None);
    assert_eq!(find(HOST[1], Protocol::TCP, 8080), None, "another family");
}

/// However many ranges of source ports: what the same rules take is asked for once.
#[test]
fn many_source_ports_are_few_questions() {
    let set = |ports: &str| {
        let text = format!("[[policy]]\nname='p'\nselect='all()'\ningress=[{ports}]\n");
        language::parse(&[("a.toml", &text)]).unwrap()
    };
    let rule = |ports: String| format!("{{action='allow', protocol='udp', source_ports=[{ports}]}}");
    let mut engine = Engine::new(config(true, true));
    for i in 0..2 {
        Event::Local(i, Labels::new()).apply(&mut engine);
    }
    let host = |_: IpAddr| false;
    let many = set(&rule((0..300).map(|n| (n * 2).to_string()).collect::<Vec<_>>().join(",")));
    let matrix = View::new(&engine, &many, &host).matrix(&Here::default()).unwrap();
    let [one] = &matrix.from_source_ports.iter().filter(|c| c.cell.from == c.cell.to).collect::<Vec<_>>()[..]
    else {
        panic!("{:#?}", matrix.from_source_ports)
    };
    assert!(one.source_ports.starts_with("0, 2, 4, ") && one.source_ports.ends_with(", 598"), "{one:?}");
    assert_eq!(one.cell.allowed.to_string(), "udp");
    // The last range of all counts as the first does.
    let fewer = set(&rule((0..299).map(|n| (n * 2).to_string()).collect::<Vec<_>>().join(",")));
    let changes = View::new(&engine, &many, &host).diff(&fewer, &Here::default()).unwrap();
    assert!(
        !changes.is_empty() && changes.iter().all(|c| c.source_ports.as_deref() == Some("598")),
        "{changes:#?}"
    );
    // What is really too much is told, not left out.
    let each: Vec<String> = (0..70).map(|n| rule(n.to_string())).collect();
    let error = View::new(&engine, &set(&each.join(",")), &host).matrix(&Here::default()).unwrap_err();
    assert!(error.to_string().contains("70 lots of source ports"), "{error}");
}

/// What an endpoint says to itself does not leave it: a party of one endpoint has nothing to say to itself.
#[test]
fn an_endpoint_is_no_peer_of_its_own() {
    let mut engine = Engine::new(config(true, true));
    let set = language::parse(&[("a.toml", "[[policy]]\nname='p'\nselect='all()'\ningress=[]\n")]).unwrap();
    engine.set_policies(Arc::new(set));
    let local = |i: u8, addresses: &[&str]| LocalEndpoint {
        shared: Vec::new(),
        id: interface(i),
        addresses: addresses.iter().map(|a| addr(a)).collect(),
        labels: Labels::new(),
    };
    engine.upsert_local(local(1, &["10.32.0.1", "10.32.0.2", "10.32.0.3"]));
    let host = |_: IpAddr| false;
    let view = View::new(&engine, engine.policies(), &host);
    let nobody = PolicySet::default();
    assert!(view.matrix(&Here::default()).unwrap().cells.iter().all(|c| c.from != c.to));
    assert!(view.diff(&nobody, &Here::default()).unwrap().iter().all(|c| c.from != c.to));
    let told = view.tell(&Flow::new(addr("10.32.0.1"), addr("10.32.0.2"), Protocol::TCP, 80));
    assert!(told.allowed && told.reason.contains("by a port mapping of the host it is refused"), "{told:?}");
    engine.upsert_local(local(2, &["10.32.0.4"]));
    let view = View::new(&engine, engine.policies(), &host);
    let cells = view.matrix(&Here::default()).unwrap().cells;
    assert!(cells.iter().any(|c| c.from == c.to && c.allowed.is_empty()), "{cells:#?}");
    let changes = view.diff(&nobody, &Here::default()).unwrap();
    let own: Vec<_> = changes.iter().filter(|c| c.from == c.to).map(|c| c.pairs).collect();
    assert_eq!(own, [6], "three addresses of the one with the one of the other, both ways");
}

#[test]
fn host_policies_compile() {
    let rule = |action, services| Rule {
        action,
        peers: Vec::new(),
        services,
        not_services: Vec::new(),
        source_ports: None,
        log: None,
        limit: None,
        origin: Origin::default(),
    };
    let tcp = |port| vec![Service { protocol: Protocol::TCP, ports: Ports::Range(port, port) }];
    let set = PolicySet {
        host_policies: vec![Arc::new(HostPolicy {
            name: "web".into(),
            order: 0,
            interfaces: vec!["eth*".into()],
            ingress: vec![rule(Action::Allow, tcp(443))],
            staged: false,
            origin: Origin::default(),
        })],
        ..PolicySet::default()
    };
    let mut engine = Engine::new(config(true, true));
    engine.set_policies(Arc::new(set));
    let rules = engine.compiled();
    for (interface, port, want) in
        [("eth0", 443, true), ("eth0", 80, false), ("eth0", 22, true), ("wan", 80, true), ("lo", 80, true)]
    {
        let flow = Flow::new(addr("192.0.2.9"), addr(HOST[0]), Protocol::TCP, port);
        let packet = Packet {
            iif: interface.into(),
            oif: String::new(),
            source: flow.source,
            destination: flow.destination,
            protocol: 6,
            port,
            to_host: true,
            connection: Some(Connection { state: 8, reply: false, dnat: false, flow, stamp: 0 }),
        };
        assert_eq!(rules.judge(HookPoint::Input, &packet, NOW).accepted, want, "{interface} {port}");
    }
}
