//! Real packets through the real kernel, for every statement about what policy does, each in IPv4 and IPv6.
//!
//! One host is here; two hosts with a switch between them are in `interop-tests/tests/`. "The suite" is [`suite`]: some
//! 500 cases of `tests/policy/networkpolicy.json`, every one of them sent.
//!
//! | statement | one host | two hosts |
//! |---|---|---|
//! | not selected in a direction: all is allowed in it | `what_no_policy_selects_is_free`, the suite (targets, types) | `checklist` 1 |
//! | selected: denied unless a rule of any policy matches; the order is nothing | the suite (conflicts) | `checklist` 2 |
//! | egress of the source and ingress of the destination must both allow | the suite (conflicts) | `checklist` 3 |
//! | empty lists: `ingress: []`, `[{}]`, empty `from` and `ports` | the suite (types, peers absent or empty) | `checklist` 4 |
//! | selectors of pods and namespaces, AND within an item, OR between items | the suite (peers, several peers) | `checklist` 5 |
//! | blocks of addresses without their exceptions; another rule may still allow | the suite (blocks of both families) | `checklist` 6 |
//! | protocols, ports, ranges, names of ports | the suite (ports and protocols), `named_ports_sets_world_and_host` | `checklist` 7 |
//! | rules for SCTP isolate from TCP | the suite (conflicts) | `protocols_tiers_limits_…` |
//! | new labels, changed and deleted policies count at once | the suite (actions), `a_revoked_connection_is_cut_…` | `new_labels_pass_…`, `checklist` 8 |
//! | the own host reaches its endpoints; replies always pass | `allow_and_deny_by_selector_…`, [`profiles`] | `checklist` 9 |
//! | tiers: order, pass, default, reject; staged policies only count | `tiers_pass_reject_and_staged_policies` | `protocols_tiers_limits_…` |
//! | unknown peers and interfaces are refused | `spoofed_sources_and_unknown_interfaces_are_dropped` | `forged_stray_and_stale_…` |
//! | whose labels are lost is cut off while policies ask for labels | [`unknown`] | |
//! | no source but the own addresses | `no_source_but_the_own_addresses_…` | `no_container_speaks_for_another` |
//! | routing protocols and the agent are out of reach | `endpoints_do_not_reach_routing_protocols`, `endpoints_of_other_hosts_…`, [`guard`] | `containers_reach_no_routing_protocol_anywhere` |
//! | ICMP by type and code | `icmp_by_type_and_code` | `protocols_tiers_limits_…` |
//! | limits of rules and of logs | [`limits`] | `protocols_tiers_limits_…` |
//! | protection of the host, with a way in | `host_policies_protect_the_host_…`, [`loopback`] | |
//! | a damaged table is restored, connections do not notice | `a_flushed_table_is_restored_…` | `meddling_…` |
//! | translation: masquerading, port mappings | [`nat`] | |
//! | addresses that become a container's or the host's | [`arrivals`], `flows_of_an_address_that_moves_here_…` | `connections_of_a_former_owner_…`, `a_host_s_new_address_…` |
//! | changes without end | [`soak`] | |

mod arrivals;
mod calico;
mod guard;
mod lab;
mod limits;
mod loopback;
mod marks;
mod nat;
mod opening;
mod profiles;
mod raw;
mod soak;
mod suite;
mod trace;
mod unknown;

use self::lab::{
    Lab, V4, V6,
    Via::{Tcp, Udp},
    Who::{C, Host, Outside},
    ip,
};
use super::engine::REFUSING;

const WEB: usize = 0;
const LB: usize = 1;
const OTHER: usize = 2;

/// web, lb and a container with another role, all attached and known.
fn three() -> Lab {
    let mut lab = Lab::new(3);
    lab.know(WEB, &[("role", "web")]);
    lab.know(LB, &[("role", "lb")]);
    lab.know(OTHER, &[("role", "other")]);
    lab
}

#[test]
fn what_no_policy_selects_is_free() {
    let lab = three();
    for (from, to) in [(C(WEB), C(LB)), (C(LB), C(WEB)), (C(WEB), Outside), (Outside, C(WEB)), (Host, C(WEB))]
    {
        lab.expect(from, to, Tcp, 80, true);
        lab.expect(from, to, Udp, 8080, true);
    }
}

#[test]
fn allow_and_deny_by_selector_port_and_protocol() {
    let mut lab = three();
    lab.policies(
        r#"[[policy]]
        name = "web"
        select = 'role == "web"'
        ingress = [{ action = "allow", from = { selector = 'role == "lb"' }, protocol = "tcp", ports = [80, "8000-8080"] }]"#,
    );
    lab.expect(C(LB), C(WEB), Tcp, 80, true);
    lab.expect(C(LB), C(WEB), Tcp, 8080, true);
    lab.expect(C(LB), C(WEB), Tcp, 443, false);
    lab.expect(C(LB), C(WEB), Udp, 80, false);
    lab.expect(C(OTHER), C(WEB), Tcp, 80, false);
    lab.expect(Outside, C(WEB), Tcp, 80, false);
    // The host reaches its endpoints whatever policies say, directions are independent, replies come through.
    lab.expect(Host, C(WEB), Tcp, 443, true);
    lab.expect(C(WEB), C(OTHER), Tcp, 443, true);
    lab.expect(C(WEB), Outside, Udp, 53, true);
    lab.expect(C(OTHER), C(LB), Tcp, 443, true);
}

#[test]
fn cidr_with_exceptions_and_egress() {
    let mut lab = three();
    lab.policies(
        r#"[[policy]]
        name = "out"
        select = 'role == "lb"'
        egress = [
          { action = "deny", to = { cidr = ["10.32.0.0/16", "fd00:32::/48"], except = ["10.32.4.2", "fd00:32::2"] } },
          { action = "allow" },
        ]"#,
    );
    lab.expect(C(LB), C(WEB), Tcp, 80, true);
    lab.expect(C(LB), C(OTHER), Tcp, 80, false);
    lab.expect(C(LB), C(OTHER), Udp, 53, false);
    lab.expect(C(LB), Outside, Tcp, 80, true);
    lab.expect(C(OTHER), C(LB), Tcp, 80, true);
}

#[test]
fn a_revoked_connection_is_cut_and_an_allowed_one_does_not_notice() {
    let mut lab = three();
    let rules = |roles: &str| {
        format!(
            r#"[[policy]]
            name = "web"
            select = 'role == "web"'
            ingress = [{{ action = "allow", from = {{ selector = "role in {{{roles}}}" }} }}]"#
        )
    };
    lab.policies(&rules("'lb', 'other'"));
    let mut talks = Vec::new();
    for v6 in [V4, V6] {
        for from in [LB, OTHER] {
            let mut talk = lab.talk_to(C(from), C(WEB), v6, 80);
            let mut chat = lab.chat(C(from), C(WEB), v6, 8080);
            assert!(talk.works(true) && chat.works(true));
            talks.push((from, talk, chat));
        }
    }
    lab.policies(&rules("'lb'"));
    for (from, talk, chat) in &mut talks {
        let allowed = *from == LB;
        assert_eq!((talk.works(allowed), chat.works(allowed)), (allowed, allowed), "after the revocation");
    }
    // What comes back into force is as if it had never been away.
    lab.policies(&rules("'other'"));
    for (from, talk, chat) in &mut talks {
        let allowed = *from == OTHER;
        assert_eq!((talk.works(allowed), chat.works(allowed)), (allowed, allowed), "after the swap");
    }
    // A label does it as well as a policy.
    lab.know(OTHER, &[("role", "none")]);
    lab.know(LB, &[("role", "other")]);
    for (from, talk, chat) in &mut talks {
        let allowed = *from == LB;
        assert_eq!((talk.works(allowed), chat.works(allowed)), (allowed, allowed), "after the relabelling");
    }
}

#[test]
fn spoofed_sources_and_unknown_interfaces_are_dropped() {
    let mut lab = Lab::new(2);
    lab.know(0, &[]);
    // Attached but not announced to policy: nothing passes in or out.
    lab.expect(C(1), Outside, Udp, 53, false);
    lab.expect(Outside, C(1), Udp, 53, false);
    lab.expect(C(1), Host, Udp, 53, false);
    lab.know(1, &[]);
    lab.expect(C(1), Outside, Udp, 53, true);
    lab.expect(Outside, C(1), Udp, 53, true);
    lab.expect(C(1), Host, Udp, 53, true);
    // One container takes the other's address.
    for (addr, out) in [("10.32.4.3/32", "192.0.2.2"), ("fd00:32::3/128", "2001:db8::2")] {
        lab::ip(
            &lab.containers[0].ns,
            &format!("addr add {addr} dev eth0{}", if out.contains(':') { " nodad" } else { "" }),
        );
        let from = addr.split('/').next().unwrap();
        lab::ip(
            &lab.containers[0].ns,
            &format!(
                "route add {out} via {} dev eth0 src {from}",
                if out.contains(':') { "fe80::1" } else { "169.254.1.1" }
            ),
        );
    }
    lab.expect(C(0), Outside, Udp, 53, false);
    let dropped = lab
        .host
        .run(|| crate::policy::nft::tests::nft(&["list", "chain", "inet", "slash32", "anti_spoof"], ""))
        .unwrap();
    let line = dropped.lines().find(|l| l.contains("spoofed")).unwrap();
    assert!(!line.contains("packets 0 "), "the spoofed packets are counted: {line}");
}

/// Whether a datagram from the outside with this source arrives at a container.
fn arrives(lab: &Lab, from: std::net::IpAddr, to: usize, hopeful: bool) -> bool {
    let at = std::net::SocketAddr::new(lab.addr(C(to), from.is_ipv6()), 5000);
    let receiver = lab.ns(C(to)).run(|| std::net::UdpSocket::bind(at)).unwrap();
    let sender = lab.ns(Outside).run(|| std::net::UdpSocket::bind((from, 0))).unwrap();
    receiver.set_read_timeout(Some(std::time::Duration::from_millis(250))).unwrap();
    (0..if hopeful { 20 } else { 1 }).any(|_| {
        sender.send_to(b"?", at).unwrap();
        receiver.recv_from(&mut [0; 4]).is_ok_and(|(_, source)| source.ip() == from)
    })
}

/// Only its own interface tells who an endpoint is, whatever a packet from outside says.
#[test]
fn sources_of_endpoints_come_from_nowhere_else() {
    let mut lab = Lab::new(2);
    lab.know(0, &[("role", "db")]);
    lab.know(1, &[("role", "web")]);
    lab.policies(
        "[[policy]]\nname = 'web'\nselect = 'role == \"web\"'\n\
         ingress = [{ action = 'allow', from = { selector = 'role == \"db\"' } }]\n",
    );
    lab.expect(C(0), C(1), Udp, 53, true);
    let db = [lab.addr(C(0), V4), lab.addr(C(0), V6)];
    for v6 in [V4, V6] {
        let (own, via) = (lab.addr(Outside, v6), lab.addr(Host, v6));
        let nodad = if v6 { " nodad" } else { "" };
        let forged = db[usize::from(v6)];
        ip(&lab.outside, &format!("addr add {forged} dev lo{nodad}"));
        ip(&lab.outside, &format!("route replace {} via {via}", lab.addr(C(1), v6)));
        assert!(!arrives(&lab, own, 1, false), "{own} is nobody");
        assert!(!arrives(&lab, forged, 1, false), "{forged} is believed from outside");
    }
    let text = lab
        .host
        .run(|| crate::policy::nft::tests::nft(&["list", "chain", "inet", "slash32", "from_elsewhere"], ""))
        .unwrap();
    let counted = text.lines().filter(|l| l.contains("from elsewhere") && !l.contains("packets 0 ")).count();
    assert_eq!(counted, 2, "{text}");
    // An address that others have as well is judged by what is known of it.
    let labels = crate::model::Labels::try_from([("role", "db")]).unwrap();
    let id = lab.containers[0].id.clone();
    let anycast =
        crate::policy::engine::LocalEndpoint { id, addresses: db.to_vec(), labels, shared: db.to_vec() };
    lab.enforcer.engine_mut().upsert_local(anycast);
    lab.enforcer.commit().unwrap();
    for forged in db {
        assert!(arrives(&lab, forged, 1, true), "{forged} is anycast");
    }
    // And when the container is gone, so is the claim.
    lab.know(0, &[("role", "db")]);
    assert!(!arrives(&lab, db[0], 1, false));
    let id = lab.containers[0].id.clone();
    lab.enforcer.engine_mut().remove_local(&id);
    lab.policies("");
    for forged in db {
        assert!(arrives(&lab, forged, 1, true), "{forged} is nobody's here");
    }
}

#[test]
fn endpoints_do_not_reach_routing_protocols() {
    let lab = three();
    // BGP and the agent's own port; BFD of one hop and of several.
    for to in [Host, Outside] {
        for port in [179, 9179] {
            lab.expect(C(WEB), to, Tcp, port, false);
        }
        for port in [3784, 3785, 4784] {
            lab.expect(C(WEB), to, Udp, port, false);
        }
    }
    lab.expect(C(WEB), Host, Udp, 53, true);
    lab.expect(C(WEB), Host, Tcp, 53, true);
    lab.expect(C(WEB), Host, Tcp, 80, false);
    // What is listed as infrastructure and is no neighbour, and what may become one; the latter not inside of a pool.
    let mut lab = lab;
    for at_outside in ["198.51.100.1/32", "203.0.113.9/32", "2001:db8:ffff::1/128"] {
        let nodad = if at_outside.contains(':') { " nodad" } else { "" };
        ip(&lab.outside, &format!("addr add {at_outside} dev lo{nodad}"));
    }
    ip(&lab.host, "route add 2001:db8:ffff::1 via 2001:db8::2");
    let udp = |lab: &Lab, to: &str, port: u16, hopeful: bool| {
        let to: std::net::IpAddr = to.parse().unwrap();
        let socket =
            lab.ns(C(WEB)).run(|| std::net::UdpSocket::bind((lab.addr(C(WEB), to.is_ipv6()), 0)).unwrap());
        socket.set_read_timeout(Some(std::time::Duration::from_millis(250))).unwrap();
        (0..if hopeful { 20 } else { 1 })
            .any(|_| socket.send_to(b"?", (to, port)).is_ok() && socket.recv(&mut [0; 4]).is_ok())
    };
    let others = ["198.51.100.1", "203.0.113.9", "2001:db8:ffff::1"];
    for to in others {
        assert!(udp(&lab, to, 3785, true), "{to} is not guarded yet");
    }
    let mut config = lab.enforcer.engine().config().clone();
    config.infrastructure.extend(
        ["198.51.100.0/24", "2001:db8:ffff::/48"].map(|p| p.parse::<crate::model::Prefix>().unwrap()),
    );
    config
        .neighbours
        .extend(["203.0.113.0/24", "10.32.0.0/16"].map(|p| p.parse::<crate::model::Prefix>().unwrap()));
    lab.enforcer.engine_mut().set_config(config);
    lab.enforcer.commit().unwrap();
    for to in others {
        assert!(!udp(&lab, to, 3785, false), "{to} is guarded");
        assert!(udp(&lab, to, 53, true), "{to} is only guarded where routing protocols are");
    }
    // A container may speak BGP with another, and the infrastructure with containers.
    lab.expect(C(WEB), C(LB), Tcp, 179, true);
    lab.expect(Outside, C(WEB), Tcp, 179, true);
    lab.expect(Outside, C(WEB), Udp, 3784, true);
}

#[test]
fn a_flushed_table_is_restored_and_open_connections_do_not_notice() {
    use crate::netlink::{NftEvent, NftWatch};
    use std::sync::mpsc::channel;
    let mut lab = three();
    lab.policies(
        r#"[[policy]]
        name = "web"
        select = 'role == "web"'
        ingress = [{ action = "allow", from = { selector = 'role == "lb"' } }]"#,
    );
    let mut talk = lab.talk_to(C(LB), C(WEB), V6, 80);
    assert!(talk.works(true));
    let ours = lab.enforcer.driver().port().unwrap();
    let (send, events) = channel();
    let sink = move |event: NftEvent| send.send(event).is_ok();
    lab.host.run(|| NftWatch::spawn("s32pol-watch", &[ours], sink)).unwrap();
    for meddling in ["flush ruleset", "delete table inet slash32", "flush chain inet slash32 guard"] {
        lab.host.run(|| crate::policy::nft::tests::nft(&["-f", "-"], meddling)).unwrap();
        let event = events.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
        assert_eq!(event, NftEvent::Changed { family: 1, table: "slash32".into() }, "{meddling}");
        assert_ne!(lab.enforcer.repair().unwrap(), []);
        assert!(talk.works(true), "after {meddling}");
        lab.expect(C(OTHER), C(WEB), Udp, 53, false);
        lab.expect(C(LB), C(WEB), Udp, 53, true);
        while events.try_recv().is_ok() {}
    }
    assert_eq!(lab.enforcer.repair().unwrap(), []);
}

/// A container that comes here from another host, with its address: its flows were judged without its own policies.
#[test]
fn flows_of_an_address_that_moves_here_are_judged_anew() {
    let mut lab = Lab::new(2);
    lab.know(WEB, &[("role", "web")]);
    lab.policies("[[policy]]\nname='p'\nselect='role == \"moved\"'\ningress=[]\n");
    let mut labels = crate::model::Labels::new();
    labels.insert("role", "moved").unwrap();
    let identity = std::sync::Arc::new(crate::model::Identity::of(&labels));
    let id = lab.containers[1].id.clone();
    let mut flows = Vec::new();
    for (v6, via) in [(V4, "192.0.2.2"), (V6, "2001:db8::2")] {
        let addr = lab.addr(C(1), v6);
        ip(&lab.outside, &format!("addr add {addr} dev lo{}", if v6 { " nodad" } else { "" }));
        ip(&lab.host, &format!("route replace {addr} via {via}"));
        lab.enforcer.engine_mut().upsert_remote(crate::model::Prefix::host(addr), identity.clone());
        lab.enforcer.commit().unwrap();
        let server = lab.outside.run(|| std::net::UdpSocket::bind((addr, 5300)).unwrap());
        let client = lab.ns(C(WEB)).run(|| std::net::UdpSocket::bind((lab.addr(C(WEB), v6), 0)).unwrap());
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        }
        client.connect((addr, 5300)).unwrap();
        let mut heard = [0; 8];
        client.send(b"there").unwrap();
        let (_, from) = server.recv_from(&mut heard).unwrap();
        server.send_to(b"here", from).unwrap();
        client.recv(&mut heard).unwrap();
        flows.push((v6, client));
    }
    for (v6, _) in &flows {
        let addr = lab.addr(C(1), *v6);
        ip(&lab.host, &format!("route replace {addr} dev {id}"));
        // The one address leaves first, the other is claimed by both for a while.
        if *v6 == V4 {
            lab.enforcer.engine_mut().remove_remote(crate::model::Prefix::host(addr));
            lab.enforcer.commit().unwrap();
        }
    }
    lab.know(1, &[("role", "moved")]);
    let arrives = |lab: &Lab, v6: bool, client: &std::net::UdpSocket, hopeful: bool| {
        let server = lab.ns(C(1)).run(|| std::net::UdpSocket::bind((lab.addr(C(1), v6), 5300)).unwrap());
        server.set_read_timeout(Some(std::time::Duration::from_millis(250))).unwrap();
        (0..if hopeful { 20 } else { 1 }).any(|_| {
            client.send(b"still").unwrap();
            server.recv(&mut [0; 8]).is_ok()
        })
    };
    for (v6, client) in &flows {
        assert!(!arrives(&lab, *v6, client, false), "IPv6: {v6}");
    }
    lab.policies("");
    for (v6, client) in &flows {
        assert!(arrives(&lab, *v6, client, true), "IPv6: {v6}");
    }
}

#[test]
fn an_answer_is_no_way_around_a_revocation() {
    // The server keeps sending after the client was told off: the stream is cut although the client is silent.
    let mut lab = three();
    lab.policies("");
    let socket = lab.ns(C(LB)).run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    let server = lab.ns(C(WEB)).run(|| std::net::UdpSocket::bind("0.0.0.0:7000").unwrap());
    for socket in [&socket, &server] {
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    }
    socket.send_to(b"subscribe", (lab.addr(C(WEB), V4), 7000)).unwrap();
    let mut buf = [0; 16];
    let (_, subscriber) = server.recv_from(&mut buf).unwrap();
    server.send_to(b"1", subscriber).unwrap();
    assert!(socket.recv(&mut buf).is_ok());
    lab.policies("[[policy]]\nname='p'\nselect='role == \"web\"'\ningress=[]");
    server.send_to(b"2", subscriber).unwrap();
    assert!(socket.recv(&mut buf).is_err(), "the stream goes on after the revocation");
    lab.policies("[[policy]]\nname='p'\nselect='role == \"web\"'\ningress=[{action='allow'}]");
    server.send_to(b"3", subscriber).unwrap();
    assert!(socket.recv(&mut buf).is_ok(), "the stream comes back with the permission");
}

#[test]
fn tiers_pass_reject_and_staged_policies() {
    let mut lab = three();
    lab.policies(
        r#"[[tier]]
        name = "security"
        order = 1
        default = "pass"
        [[policy]]
        name = "quarantine"
        tier = "security"
        select = 'role == "web"'
        ingress = [
          { action = "reject", from = { selector = 'role == "other"' } },
          { action = "pass", protocol = "tcp" },
          { action = "deny", protocol = "udp", ports = 443 },
        ]
        [[policy]]
        name = "trial"
        select = 'role == "lb"'
        ingress = []
        staged = true
        [[policy]]
        name = "web"
        select = 'role == "web"'
        ingress = [{ action = "allow", ports = [53, 80], protocol = ["tcp", "udp"] }, { action = "allow", protocol = "icmp" }]"#,
    );
    lab.expect(C(LB), C(WEB), Tcp, 80, true);
    lab.expect(C(LB), C(WEB), Tcp, 443, false);
    lab.expect(C(LB), C(WEB), Udp, 53, true);
    lab.expect(C(LB), C(WEB), Udp, 443, false);
    lab.expect(C(OTHER), C(LB), Tcp, 80, true);
    // A rejection is told at once: the connection is refused rather than timed out.
    for v6 in [V4, V6] {
        let addr = std::net::SocketAddr::new(lab.addr(C(WEB), v6), 80);
        let error = lab.ns(C(OTHER)).run(|| std::net::TcpStream::connect(addr).unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let counters = lab.enforcer.driver().counters().unwrap();
    let count = |what: &str| counters.iter().filter(|c| c.comment == what).map(|c| c.packets).sum::<u64>();
    assert!(count("staged default/trial: no rule") >= 2, "{counters:#?}");
    assert!(count("security/quarantine ingress 1 reject") >= 2);
    let ends = lab.enforcer.driver().counters_of(&REFUSING).unwrap();
    let ended = |why: &str| ends.iter().filter(|c| c.comment == why).map(|c| c.packets).sum::<u64>();
    assert!(ended("rejected by policy") >= 2 && ended("refused by policy") >= 1, "{ends:#?}");
    assert_eq!(ended("spoofed source"), 0);
}

#[test]
fn named_ports_sets_world_and_host() {
    let mut lab = three();
    lab.policies(
        r#"[[named_port]]
        name = "http"
        select = 'role == "web"'
        port = 8080
        [[network_set]]
        name = "dns"
        cidr = ["192.0.2.0/25", "2001:db8::/64"]
        except = ["192.0.2.77"]
        [[policy]]
        name = "in"
        select = 'role in {"web", "lb"}'
        ingress = [{ action = "allow", protocol = "tcp", ports = "http" }]
        [[policy]]
        name = "out"
        select = 'role == "other"'
        egress = [
          { action = "allow", to = "host", protocol = "udp" },
          { action = "allow", to = { set = "dns" }, protocol = "tcp", ports = 53 },
          { action = "allow", to = "world", protocol = "tcp", ports = 443 },
          { action = "allow", to = { selector = 'has(role)' }, protocol = "tcp", ports = "http" },
        ]"#,
    );
    lab.expect(C(OTHER), C(WEB), Tcp, 8080, true);
    lab.expect(C(OTHER), C(WEB), Tcp, 80, false);
    // The name means nothing at the other one.
    lab.expect(C(OTHER), C(LB), Tcp, 8080, false);
    lab.expect(C(OTHER), Host, Udp, 53, true);
    // The host's address is in the set as well.
    lab.expect(C(OTHER), Host, Tcp, 53, true);
    lab.expect(C(OTHER), Host, Tcp, 80, false);
    lab.expect(C(OTHER), Outside, Tcp, 53, true);
    lab.expect(C(OTHER), Outside, Tcp, 443, true);
    lab.expect(C(OTHER), Outside, Tcp, 80, false);
    lab.expect(C(OTHER), C(WEB), Tcp, 443, false);
    assert_eq!(lab.enforcer.repair().unwrap(), []);
}

#[test]
fn host_policies_protect_the_host_and_leave_a_way_in() {
    let mut lab = three();
    let mut talks = [V4, V6].map(|v6| lab.talk_to(Outside, Host, v6, 443));
    assert!(talks.iter_mut().all(|talk| talk.works(true)));
    lab.policies(
        r#"[[host_policy]]
        name = "front"
        interfaces = ["eth*"]
        ingress = [{ action = "allow", from = { cidr = ["192.0.2.2", "2001:db8::2"] }, protocol = "tcp", ports = 80 }]"#,
    );
    lab.expect(Outside, Host, Tcp, 80, true);
    lab.expect(Outside, Host, Tcp, 443, false);
    lab.expect(Outside, Host, Udp, 53, false);
    assert!(!talks.iter_mut().any(|talk| talk.works(false)), "what was open before is cut as well");
    // BGP is among the failsafe ports, endpoints are not concerned, and the host's own connections are free.
    lab.expect(Outside, Host, Tcp, 179, true);
    lab.expect(C(WEB), Host, Udp, 53, true);
    lab.expect(Host, Outside, Tcp, 443, true);
    lab.expect(Outside, C(WEB), Tcp, 443, true);
}

/// The interpreter, which `policy explain` asks, says of each what the kernel does.
#[test]
fn host_policies_are_told_as_they_are() {
    let mut lab = three();
    lab.policies(
        r#"[[host_policy]]
        name = "first"
        order = 1
        ingress = [
          { action = "log", protocol = "tcp" },
          { action = "deny", from = { cidr = ["192.0.2.0/25", "2001:db8::/64"] }, protocol = "udp", ports = [53, 179] },
        ]
        [[host_policy]]
        name = "other-link"
        order = 2
        interfaces = ["wan*"]
        ingress = [{ action = "deny" }]
        [[host_policy]]
        name = "trial"
        order = 3
        staged = true
        ingress = [{ action = "deny" }]
        [[host_policy]]
        name = "last"
        order = 4
        interfaces = ["eth0"]
        ingress = [{ action = "allow", from = "world", protocol = ["tcp", "udp"], ports = [53, "80-443"] }]
        [[policy]]
        name = "out"
        select = 'role == "lb"'
        egress = [{ action = "deny", protocol = "udp", ports = 53 }, { action = "allow" }]"#,
    );
    for from in [Outside, C(WEB), C(LB)] {
        for port in [53, 80, 179, 443, 8080, 9179] {
            for via in [Tcp, Udp] {
                lab.expect(from, Host, via, port, lab.told(from, Host, via, port));
            }
        }
    }
    assert!(lab.told(Outside, Host, Tcp, 53) && !lab.told(Outside, Host, Udp, 53), "they differ at all");
    assert!(lab.told(C(WEB), Host, Udp, 53) && !lab.told(C(LB), Host, Udp, 53));
}
