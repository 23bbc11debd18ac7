//! Real packets through the real kernel, for every statement about what policy does.

mod lab;
mod nat;

use self::lab::{
    Lab, V4, V6,
    Via::{Tcp, Udp},
    Who::{C, Host, Outside},
};

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

#[test]
fn endpoints_do_not_reach_routing_protocols() {
    let lab = three();
    lab.expect(C(WEB), Host, Tcp, 179, false);
    lab.expect(C(WEB), Outside, Tcp, 179, false);
    lab.expect(C(WEB), Host, Udp, 53, true);
    lab.expect(C(WEB), Host, Tcp, 53, true);
    lab.expect(C(WEB), Host, Tcp, 80, false);
    // A container may speak BGP with another.
    lab.expect(C(WEB), C(LB), Tcp, 179, true);
}
