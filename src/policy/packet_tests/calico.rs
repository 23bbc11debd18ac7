//! What only Calico's policies ask for: an endpoint that is not selected, and what the endpoint itself must be.

use std::sync::Arc;

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
