//! Refused packets are handed over while somebody traces, and rules have no log statements when nobody does.

use std::time::Duration;

use super::{
    LB, OTHER, WEB,
    lab::{
        Via::{Tcp, Udp},
        Who::C,
    },
    three,
};
use crate::{
    netlink::{LoggedPacket, NfLog},
    policy::{engine::EngineConfig, nft::Text},
};

#[test]
fn refused_packets_are_told_with_where() {
    let mut lab = three();
    lab.policies(
        r#"[[policy]]
        name = "web"
        select = 'role == "web"'
        ingress = [
          { action = "reject", from = { selector = 'role == "other"' }, protocol = "udp" },
          { action = "allow", from = { selector = 'role == "lb"' }, protocol = "tcp", ports = 80 },
        ]"#,
    );
    let text = |lab: &mut super::lab::Lab| {
        let rules = lab.enforcer.engine().compiled();
        let driver = lab.enforcer.driver();
        Text::new(&rules, driver.settings(), driver.generation()).to_string()
    };
    let trace = |lab: &mut super::lab::Lab, on: bool| {
        let config = EngineConfig { trace: on, ..lab.enforcer.engine().config().clone() };
        lab.enforcer.engine_mut().set_config(config);
        lab.enforcer.commit().unwrap();
    };
    assert!(!text(&mut lab).contains("log "), "without a trace there is nothing to log");
    let group = lab.enforcer.driver().settings().log_group;
    let mut log = lab.host.run(|| NfLog::open(group)).unwrap();
    assert!(lab.host.run(|| NfLog::open(group)).is_err(), "a group has one listener");
    trace(&mut lab, true);
    lab.expect(C(LB), C(WEB), Tcp, 80, true);
    lab.expect(C(LB), C(WEB), Tcp, 443, false);
    lab.expect(C(OTHER), C(WEB), Udp, 53, false);
    let mut packets: Vec<LoggedPacket> = Vec::new();
    loop {
        let more = log.wait(Duration::from_millis(200)).unwrap();
        if more.is_empty() {
            break;
        }
        packets.extend(more);
    }
    let found = |prefix: &str, protocol: u8, port: u16| {
        packets.iter().any(|p| {
            let wide = p.bytes[0] >> 4 == 6;
            let (next, rest) = if wide { (p.bytes[6], &p.bytes[40..]) } else { (p.bytes[9], &p.bytes[20..]) };
            p.prefix == prefix && next == protocol && rest[2..4] == port.to_be_bytes() && p.iif.is_some()
        })
    };
    assert!(found("refused by policy", 6, 443), "{packets:?}");
    assert!(found("rejected by policy", 17, 53), "{packets:?}");
    assert!(!found("refused by policy", 6, 80), "what is allowed is not told");
    trace(&mut lab, false);
    assert!(!text(&mut lab).contains("log "));
    lab.expect(C(LB), C(WEB), Tcp, 443, false);
    assert!(log.wait(Duration::from_millis(200)).unwrap().is_empty());
}
