//! Changes without end under traffic: what every state allows always passes, and what every state refuses never does.
//!
//! Under UDP and TCP traffic in both families, policies, labels, remote endpoints and local ones come and go, and agents
//! take over from one another. `SLASH32_SOAK=10000 cargo test --lib policy::packet_tests::soak` makes so many changes
//! instead of a few; `SLASH32_SOAK_SEED` other ones.

mod traffic;

use std::{fmt::Write as _, sync::Arc};

use self::traffic::{Traffic, Visitor};
use super::lab::{
    Lab, V4, V6,
    Via::{Tcp, Udp},
    Who::C,
    config,
};
use crate::{
    model::{Identity, Labels, Prefix},
    policy::{Enforcer, nft::Settings},
};

const SERVER: usize = 0;
const CLIENT: usize = 1;
const STRANGER: usize = 2;
const EXTRA: usize = 3;
/// Who may always talk to the server while it is there, and to nobody when it is not.
const VISITOR: usize = 4;
/// Where the visitor knocks.
const VISITED: u16 = 7070;
/// Where nobody may send to in any state.
const FORBIDDEN: u16 = 9999;
/// The port that the client may always use, and one that only some states allow.
const ALWAYS: u16 = 80;
const SOMETIMES: u16 = 8080;

/// A small generator (xorshift), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Policies of which all have in common that the client and the visitor reach the server's ports and nobody the
/// forbidden one.
fn policies(random: &mut Random) -> (String, bool) {
    let sometimes = random.below(2) == 0;
    let mut out = String::from("[[tier]]\nname = 'first'\norder = 1\ndefault = 'pass'\n");
    let mut noise = |out: &mut String| {
        for _ in 0..random.below(4) {
            let peer =
                ["role == 'client'", "has(x)", "x == 'x1'", "role != 'server'"][random.below(4) as usize];
            let action = ["allow", "deny", "reject", "log", "allow"][random.below(5) as usize];
            let port = 1000 + random.below(50);
            let _ = writeln!(
                out,
                "{{ action = '{action}', from = {{ selector = \"{peer}\" }}, protocol = 'udp', ports = {port} }},"
            );
        }
    };
    // Who is asked first, by what it ends, and what else is there differs.
    let _ = writeln!(
        out,
        "[[policy]]\nname = 'always'\ntier = 'first'\nselect = \"role == 'server'\"\ningress = ["
    );
    noise(&mut out);
    let _ = writeln!(out, "{{ action = 'deny', protocol = 'udp', ports = {FORBIDDEN} }},");
    noise(&mut out);
    let _ = writeln!(
        out,
        "{{ action = 'pass' }}]\n[[policy]]\nname = 'server'\nselect = \"role == 'server'\"\ningress = ["
    );
    noise(&mut out);
    let _ = writeln!(
        out,
        "{{ action = 'allow', from = {{ selector = \"role == 'client'\" }}, protocol = ['udp', 'tcp'], ports = {ALWAYS} }},"
    );
    let _ = writeln!(
        out,
        "{{ action = 'allow', from = {{ selector = \"role == 'visitor'\" }}, protocol = 'udp', ports = {VISITED} }},"
    );
    if sometimes {
        let _ = writeln!(out, "{{ action = 'allow', protocol = ['udp', 'tcp'], ports = {SOMETIMES} }},");
    }
    noise(&mut out);
    out.push_str("]\n");
    for i in 0..random.below(4) {
        let select = ["all()", "has(x)", "x == 'x1'", "role == 'client'"][random.below(4) as usize];
        let _ = writeln!(
            out,
            "[[policy]]\nname = 'more{i}'\nselect = \"{select}\"\negress = [{{ action = 'allow' }}]"
        );
    }
    (out, sometimes)
}

/// The lab and what it should be like.
struct Soak {
    lab: Lab,
    random: Random,
    /// Whether everybody may use the port that only some states allow.
    sometimes: bool,
    /// The changing label of each container.
    extra: [String; 5],
    visitor: Visitor,
    /// Whether the container that nobody talks to is there.
    extra_is_there: bool,
}

const ROLES: [&str; 5] = ["server", "client", "stranger", "extra", "visitor"];

impl Soak {
    fn know(&mut self, container: usize) {
        self.lab.know(container, &[("role", ROLES[container]), ("x", &self.extra[container])]);
    }

    fn forget(&mut self, container: usize) {
        let id = self.lab.containers[container].id.clone();
        self.lab.enforcer.engine_mut().remove_local(&id);
        self.lab.enforcer.commit().unwrap();
    }

    fn change(&mut self) {
        match self.random.below(12) {
            0..5 => {
                let (text, sometimes) = policies(&mut self.random);
                self.sometimes = sometimes;
                self.lab.policies(&text);
            }
            5 | 6 => {
                let i = self.random.below(5) as usize;
                self.extra[i] = format!("x{}", self.random.below(3));
                let there = match i {
                    EXTRA => self.extra_is_there,
                    VISITOR => self.visitor.is_there,
                    _ => true,
                };
                if there {
                    self.know(i);
                }
            }
            7 | 8 => {
                let n = self.random.below(20);
                let prefix: Prefix = if self.random.below(2) == 0 {
                    format!("10.32.9.{n}")
                } else {
                    format!("fd00:32::9:{n}")
                }
                .parse()
                .unwrap();
                let labels = Labels::try_from([("role", "client"), ("x", "x1")]).unwrap();
                if self.random.below(2) == 0 {
                    self.lab.enforcer.engine_mut().upsert_remote(prefix, Arc::new(Identity::of(&labels)));
                } else {
                    self.lab.enforcer.engine_mut().remove_remote(prefix);
                }
                self.lab.enforcer.commit().unwrap();
            }
            9 => {
                self.extra_is_there = !self.extra_is_there;
                if self.extra_is_there { self.know(EXTRA) } else { self.forget(EXTRA) }
            }
            10 => {
                if self.visitor.is_there {
                    self.forget(VISITOR);
                } else {
                    self.know(VISITOR);
                }
                self.visitor.is_there = !self.visitor.is_there;
                self.visitor.knock(&self.lab);
            }
            // Another agent takes over, with other policies.
            _ => {
                let (text, sometimes) = policies(&mut self.random);
                self.sometimes = sometimes;
                let next = self.lab.host.run(|| Enforcer::open(config(), Settings::default())).unwrap();
                let locals: Vec<_> = self.lab.enforcer.engine().locals().cloned().collect();
                self.lab.enforcer = next;
                let set = crate::policy::language::parse(&[("test.toml", &text)]).unwrap();
                self.lab.enforcer.engine_mut().set_policies(Arc::new(set));
                for local in locals {
                    self.lab.enforcer.engine_mut().upsert_local(local);
                }
                self.lab.enforcer.commit().unwrap();
            }
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn changes_without_end_pass_and_drop_nothing_wrongly() {
    let changes = number("SLASH32_SOAK", 100);
    let seed = number("SLASH32_SOAK_SEED", 1);
    // Spread over all bits; never 0, where the generator would stay.
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut lab = Lab::new(5);
    let (text, sometimes) = policies(&mut random);
    lab.policies(&text);
    let visitor = Visitor::new(&lab);
    let extra = [(); 5].map(|()| String::from("x0"));
    let mut soak = Soak { lab, random, sometimes, extra, visitor, extra_is_there: true };
    for i in 0..ROLES.len() {
        soak.know(i);
    }
    soak.lab.expect(C(CLIENT), C(SERVER), Udp, ALWAYS, true);
    soak.lab.expect(C(CLIENT), C(SERVER), Tcp, ALWAYS, true);
    let mut streams: Vec<_> =
        [V4, V6].into_iter().map(|v6| soak.lab.chat(C(STRANGER), C(SERVER), v6, SOMETIMES)).collect();
    soak.visitor.knock(&soak.lab);
    let traffic = Traffic::start(&soak.lab);
    for change in 0..changes {
        soak.change();
        // What only some states allow is as the present one says, for new and for old connections.
        if change.is_multiple_of(50) {
            soak.lab.expect(C(STRANGER), C(SERVER), Udp, SOMETIMES, soak.sometimes);
            for stream in &mut streams {
                assert_eq!(stream.works(soak.sometimes), soak.sometimes, "an old connection");
            }
        }
        if change % 500 == 499 {
            eprintln!("{} changes", change + 1);
        }
    }
    let total = traffic.stop();
    eprintln!("seed {seed}: {changes} changes, {total:?}; {} of the visitor", soak.visitor.arrived);
    assert!(total.exchanged > 100 && total.tcp_exchanged > 10 && total.refused > 1000, "there was traffic");
    let wrong = (total.lost, total.tcp_lost, total.tcp_retransmitted, total.leaked, soak.visitor.leaked);
    assert_eq!(wrong, (0, 0, 0, 0, 0), "lost by UDP and TCP, sent again by TCP; leaked, of the visitor");
    assert_eq!(soak.lab.enforcer.repair().unwrap(), []);
}
