//! What only Calico's policies ask for: an endpoint that is not selected, and what the endpoint itself must be.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use super::{
    LB, OTHER, WEB,
    lab::{
        Lab,
        Via::{Tcp, Udp},
        Who::{C, Outside},
    },
    three,
};
use crate::policy::language;

fn yaml(lab: &mut Lab, text: &str) {
    let set = language::parse(&[("test.yaml", text)]).unwrap_or_else(|e| panic!("{}", e[0]));
    lab.enforcer.engine_mut().set_policies(Arc::new(set));
    lab.enforcer.commit().unwrap();
}

#[test]
fn negations_and_the_own_end() {
    let mut lab = three();
    yaml(
        &mut lab,
        r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: outside, labels: {kind: outside}}
spec: {nets: [192.0.2.2, "2001:db8::2"]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: all}
spec:
  types: [Ingress]
  ingress:
  # Not from lb; whoever is no endpoint is not lb either.
  - {action: Allow, protocol: TCP, source: {notSelector: "role == 'lb'"}, destination: {ports: [80]}}
  # From endpoints that are not lb. (The network set has no role, so it would not be lb either.)
  - {action: Allow, protocol: TCP, source: {selector: "has(role) && role != 'lb'", notNets: [203.0.113.0/24]}, destination: {ports: [443]}}
  # Only web itself, from a network set.
  - {action: Allow, protocol: TCP, source: {selector: "kind == 'outside'"}, destination: {selector: "role == 'web'", ports: [8080]}}
  - {action: Allow, protocol: UDP, ipVersion: 4, destination: {notSelector: "role == 'web'", notPorts: [53]}}
"#,
    );
    lab.expect(C(OTHER), C(WEB), Tcp, 80, true);
    lab.expect(Outside, C(WEB), Tcp, 80, true);
    lab.expect(C(LB), C(WEB), Tcp, 80, false);
    lab.expect(C(OTHER), C(WEB), Tcp, 443, true);
    lab.expect(Outside, C(WEB), Tcp, 443, false);
    lab.expect(C(LB), C(WEB), Tcp, 443, false);
    lab.expect(Outside, C(WEB), Tcp, 8080, true);
    lab.expect(Outside, C(OTHER), Tcp, 8080, false);
    lab.expect(C(OTHER), C(WEB), Tcp, 8080, false);
    assert!(lab.reaches(C(WEB), C(LB), super::V4, Udp, 8080, true));
    assert!(!lab.reaches(C(WEB), C(LB), super::V6, Udp, 8080, false));
    assert!(!lab.reaches(C(LB), C(WEB), super::V4, Udp, 8080, false));
    assert!(!lab.reaches(C(WEB), C(LB), super::V4, Udp, 53, false));
    // Who becomes lb loses what only others may, at once; and gets it back.
    let mut talk = lab.talk_to(C(OTHER), C(WEB), super::V4, 80);
    assert!(talk.works(true));
    lab.know(OTHER, &[("role", "lb")]);
    assert!(!talk.works(false));
    lab.expect(C(OTHER), C(WEB), Tcp, 80, false);
    lab.know(OTHER, &[("role", "other")]);
    lab.expect(C(OTHER), C(WEB), Tcp, 80, true);
}

/// Rules that ask where a connection comes from, for packets of both directions and after a change.
#[test]
fn source_ports_of_both_families() {
    const RULES: &str = r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: UDP, source: {ports: [2050]}}
  - {action: Allow, protocol: UDP, source: {ports: [68, "2000:2100"]}, destination: {ports: [8080]}}
  - {action: Allow, protocol: UDP, source: {ports: ["3000:3010"], notPorts: [3005]}, destination: {ports: [443]}}
"#;
    let mut lab = three();
    yaml(&mut lab, RULES);
    let socket = |lab: &Lab, v6: bool, port: u16| {
        let socket = lab.ns(C(LB)).run(|| UdpSocket::bind((lab.addr(C(LB), v6), port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    };
    let answers = |socket: &UdpSocket, lab: &Lab, v6: bool, to: u16, hopeful: bool| {
        let to = (lab.addr(C(WEB), v6), to);
        (0..if hopeful { 25 } else { 1 })
            .any(|_| socket.send_to(b"?", to).is_ok() && socket.recv(&mut [0; 4]).is_ok())
    };
    for v6 in [super::V4, super::V6] {
        for (from, to, want) in [
            (68, 8080, true),
            (2000, 8080, true),
            (2050, 8080, false),
            (2100, 8080, true),
            (2101, 8080, false),
            (0, 8080, false),
            (68, 443, false),
            (3004, 443, true),
            (3005, 443, false),
            (3011, 443, false),
        ] {
            let socket = socket(&lab, v6, from);
            assert_eq!(answers(&socket, &lab, v6, to, want), want, "{from} -> {to}, v6 {v6}");
        }
        // A change judges the connection anew, by the port it came from, also when the packet is an answer.
        let open = socket(&lab, v6, 2001);
        assert!(answers(&open, &lab, v6, 8080, true));
        yaml(&mut lab, &RULES.replace("2000:2100", "1999:2002"));
        assert!(answers(&open, &lab, v6, 8080, true));
        yaml(&mut lab, &RULES.replace("2000:2100", "2002:2100"));
        assert!(!answers(&open, &lab, v6, 8080, false));
        yaml(&mut lab, RULES);
        assert!(answers(&open, &lab, v6, 8080, true));
    }
}
