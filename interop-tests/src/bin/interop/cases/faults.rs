//! Messages that no router sends, by an injector of our own: the right NOTIFICATION, and a speaker that lives on.

use anyhow::{Context, Result, bail, ensure};
use interop_tests::{Agent, Heard, Injector, Lab, Network, PATIENCE, eventually};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{pools, reach};

pub(super) const CASES: &[Case] = &[
    case!(
        "malformed-header",
        "bad marker, lengths and types: NOTIFICATION 1/1 to 1/3 (RFC 4271 section 6.1)",
        header
    )
    .only(&["injector"])
    .fast(),
    case!(
        "malformed-open",
        "bad version, AS, identifier, hold time, parameters: NOTIFICATION 2/x (section 6.2)",
        open
    )
    .only(&["injector"])
    .fast(),
    case!(
        "malformed-update",
        "lengths that contradict each other reset, bad attributes withdraw (RFC 7606)",
        update
    )
    .only(&["injector"])
    .fast(),
    case!("malformed-order", "messages out of turn: NOTIFICATION 5/1 to 5/3 (RFC 6608)", order)
        .only(&["injector"])
        .fast(),
    case!("malformed-refresh", "a ROUTE-REFRESH of a wrong length: NOTIFICATION 7/1 (RFC 7313)", refresh)
        .only(&["injector"])
        .fast(),
    case!("silence", "a peer that says nothing more: NOTIFICATION 4/0", silence).only(&["injector"]).fast(),
    case!(
        "collision-rules",
        "two connections at once, the lower and the higher identifier (section 6.8)",
        collision_rules
    )
    .only(&["injector"])
    .fast(),
];

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;
/// How long an answer may take, in milliseconds.
const ANSWER: u64 = 20_000;
/// The host's identifier is 198.19.0.1.
const OUR_ID: [u8; 4] = [198, 18, 1, 1];

/// A host with a container, and an injector of AS 65100 in the router's place, with the service 10.99.0.1.
struct Bench {
    agent: Agent,
    injector: Injector,
    container: interop_tests::Container,
}

/// An OPEN's changeable parts.
struct Open {
    version: u8,
    asn: u16,
    hold: u16,
    id: [u8; 4],
    parameters: Vec<u8>,
}

impl Default for Open {
    fn default() -> Self {
        // Multiprotocol IPv4, route refresh, AS 65100 in four octets.
        let capabilities = [&[1, 4, 0, 1, 0, 1][..], &[2, 0], &[65, 4, 0, 0, 0xfe, 0x4c]].concat();
        let mut parameters = vec![2, capabilities.len() as u8];
        parameters.extend(capabilities);
        Self { version: 4, asn: 65100, hold: 90, id: OUR_ID, parameters }
    }
}

impl Open {
    fn bytes(&self) -> Vec<u8> {
        let mut body = vec![self.version];
        body.extend(self.asn.to_be_bytes());
        body.extend(self.hold.to_be_bytes());
        body.extend(self.id);
        body.push(self.parameters.len() as u8);
        body.extend(&self.parameters);
        message(OPEN, &body)
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(((body.len() + 19) as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// An UPDATE from its withdrawn routes, attributes and NLRI.
fn update_of(attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(UPDATE, &body)
}

const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
const AS_PATH: [u8; 9] = [0x40, 2, 6, 2, 1, 0, 0, 0xfe, 0x4c];
const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 198, 18, 1, 2];
/// 10.99.0.1/32
const SERVICE: [u8; 5] = [32, 10, 99, 0, 1];

fn good_update() -> Vec<u8> {
    update_of(&[&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat(), &SERVICE)
}

impl Bench {
    fn start(lab: &Lab, group: &str) -> Result<Self> {
        let host = lab.machine("host")?;
        let switch = lab.machine("injector")?;
        lab.link(host.port("up1").address("198.18.1.3/31"), switch.port("port1").address("198.18.1.2/31"))?;
        switch.run("ip address add 10.99.0.1/32 dev lo")?;
        switch.run("ip route add 10.32.1.0/24 via 198.18.1.3")?;
        let capture = switch.capture("port1", "")?;
        std::mem::forget(capture); // ends with the lab
        let config = format!(
            "[bgp]\nasn = 65001\nrouter_id = \"198.19.0.1\"\n[[bgp.peer]]\naddress = \"198.18.1.2\"\nasn = 65100\n\
             idle_hold = 0\ngraceful_restart = false\n{group}\n{}",
            pools(1)
        );
        let agent = Agent::start(&host, &config)?;
        let container = host.container("c1", &Network::slash32()?)?;
        Ok(Self { agent, injector: switch.injector()?, container })
    }

    /// A connection that we opened; in Idle the agent refuses, for a moment.
    fn connect(&mut self) -> Result<()> {
        eventually("the agent takes the call", PATIENCE, || {
            self.injector.connect("198.18.1.3")?;
            // A refused connection is closed at once; the agent's OPEN says that it is meant.
            match self.injector.receive(2_000)? {
                Heard::Message(OPEN, _) => Ok(()),
                other => bail!("instead of an OPEN: {other:?}"),
            }
        })
    }

    /// An established session.
    fn establish(&mut self) -> Result<()> {
        eventually("a session with the injector", PATIENCE, || {
            self.connect()?;
            self.injector.send(&Open::default().bytes())?;
            self.injector.send(&message(KEEPALIVE, &[]))?;
            match self.injector.receive(5_000)? {
                Heard::Message(KEEPALIVE, _) => Ok(()),
                other => bail!("instead of a KEEPALIVE: {other:?}"),
            }
        })?;
        eventually("the agent is established", PATIENCE, || {
            let peers = self.agent.peers()?;
            ensure!(crate::site::is_up(&peers[0]), "{peers:?}");
            Ok(())
        })
    }

    /// The next NOTIFICATION has this code and subcode, and the connection ends.
    fn refused(&mut self, what: &str, code: u8, subcode: u8) -> Result<()> {
        loop {
            match self.injector.receive(ANSWER)? {
                Heard::Message(NOTIFICATION, body) => {
                    let seen = (body.first().copied(), body.get(1).copied());
                    ensure!(
                        seen == (Some(code), Some(subcode)),
                        "{what}: NOTIFICATION {seen:?} instead of {code}/{subcode}"
                    );
                    break;
                }
                Heard::Message(..) => {}
                other => bail!("{what}: no NOTIFICATION {code}/{subcode} but {other:?}"),
            }
        }
        match self.injector.receive(ANSWER)? {
            Heard::Closed => Ok(()),
            other => bail!("{what}: after the NOTIFICATION {other:?} instead of the end"),
        }
    }

    /// A proper session still works, packets included.
    fn lives(&mut self) -> Result<()> {
        self.establish()?;
        self.injector.send(&good_update())?;
        reach(&self.container, "10.99.0.1")?;
        self.agent.process().check()
    }
}

fn header(lab: &Lab, _: &'static dyn Flavor) -> Result<()> {
    let mut bench = Bench::start(lab, "")?;
    let with_length = |length: u16, kind: u8| {
        let mut bytes = vec![0xff; 16];
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes.resize(usize::from(length.max(19)), 0);
        bytes
    };
    let mut marker = message(KEEPALIVE, &[]);
    marker[3] = 0;
    for (what, bytes, code) in [
        ("a marker that is not all ones", marker, (1, 1)),
        ("a length of 18", with_length(18, KEEPALIVE), (1, 2)),
        // We offer RFC 8654, so an UPDATE may be longer than 4096 bytes; a KEEPALIVE never is.
        ("a KEEPALIVE of 4097 bytes", with_length(4097, KEEPALIVE), (1, 2)),
        ("a KEEPALIVE of 20 bytes", with_length(20, KEEPALIVE), (1, 2)),
        ("an UPDATE of 22 bytes", with_length(22, UPDATE), (1, 2)),
        ("a type of 9", message(9, &[]), (1, 3)),
    ] {
        bench.establish()?;
        bench.injector.send(&bytes)?;
        bench.refused(what, code.0, code.1)?;
    }
    bench.connect()?;
    bench.injector.send(&with_length(28, OPEN))?;
    bench.refused("an OPEN of 28 bytes", 1, 2)?;
    bench.lives()
}

fn open(lab: &Lab, _: &'static dyn Flavor) -> Result<()> {
    let mut bench = Bench::start(lab, "")?;
    let other_as = {
        let capabilities = [65, 4, 0, 0, 0xfd, 0xe8];
        let mut parameters = vec![2, 6];
        parameters.extend(capabilities);
        Open { asn: 65000, parameters, ..Open::default() }
    };
    for (what, open, code) in [
        ("version 3", Open { version: 3, ..Open::default() }, (2, 1)),
        ("another AS number", other_as, (2, 2)),
        ("identifier 0.0.0.0", Open { id: [0; 4], ..Open::default() }, (2, 3)),
        ("parameter type 99", Open { parameters: vec![99, 1, 0], ..Open::default() }, (2, 4)),
        ("a hold time of 1", Open { hold: 1, ..Open::default() }, (2, 6)),
        ("a hold time of 2", Open { hold: 2, ..Open::default() }, (2, 6)),
        (
            "a parameter longer than the message",
            Open { parameters: vec![2, 40, 1], ..Open::default() },
            (2, 0),
        ),
    ] {
        bench.connect()?;
        bench.injector.send(&open.bytes())?;
        bench.refused(what, code.0, code.1)?;
    }
    bench.lives()
}

fn update(lab: &Lab, _: &'static dyn Flavor) -> Result<()> {
    let mut bench = Bench::start(lab, "")?;
    let attributes = [&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat();
    // Where the NLRI cannot be found or read, nothing less than a reset is safe.
    for (what, bytes, subcode) in [
        ("withdrawn routes longer than the message", message(UPDATE, &[0, 200, 0, 0]), 1),
        ("attributes longer than the message", message(UPDATE, &[0, 0, 1, 0, 0]), 1),
        ("lengths that wrap around in 16 bits", message(UPDATE, &[0xff, 0xf0, 0, 0x10, 0, 0]), 1),
        ("a prefix of 33 bits", update_of(&attributes, &[33, 10, 99, 0, 1, 0]), 10),
        ("a prefix cut short", update_of(&attributes, &[32, 10, 99]), 10),
    ] {
        bench.establish()?;
        bench.injector.send(&bytes)?;
        bench.refused(what, 3, subcode)?;
    }
    // A bad attribute costs the routes of the message, not the session (RFC 7606).
    bench.establish()?;
    for (what, bytes) in [
        ("no ORIGIN", update_of(&[&AS_PATH[..], &NEXT_HOP].concat(), &SERVICE)),
        ("no AS_PATH", update_of(&[&ORIGIN[..], &NEXT_HOP].concat(), &SERVICE)),
        ("no NEXT_HOP", update_of(&[&ORIGIN[..], &AS_PATH].concat(), &SERVICE)),
        ("ORIGIN 7", update_of(&[&[0x40, 1, 1, 7][..], &AS_PATH, &NEXT_HOP].concat(), &SERVICE)),
        ("ORIGIN of 2 bytes", update_of(&[&[0x40, 1, 2, 0, 0][..], &AS_PATH, &NEXT_HOP].concat(), &SERVICE)),
        (
            "NEXT_HOP of 3 bytes",
            update_of(&[&ORIGIN[..], &AS_PATH, &[0x40, 3, 3, 198, 18, 1]].concat(), &SERVICE),
        ),
        (
            "AS_PATH segment longer than the attribute",
            update_of(&[&ORIGIN[..], &[0x40, 2, 6, 2, 9, 0, 0, 0xfe, 0x4c], &NEXT_HOP].concat(), &SERVICE),
        ),
        (
            "COMMUNITY of 5 bytes",
            update_of(&[&attributes[..], &[0xc0, 8, 5, 1, 2, 3, 4, 5]].concat(), &SERVICE),
        ),
        (
            "LARGE_COMMUNITY of 11 bytes",
            update_of(
                &[&attributes[..], &[0xc0, 32, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
                &SERVICE,
            ),
        ),
    ] {
        bench.injector.send(&good_update())?;
        reach(&bench.container, "10.99.0.1").with_context(|| format!("before {what}"))?;
        bench.injector.send(&bytes)?;
        eventually(&format!("{what}: the route is withdrawn"), PATIENCE, || {
            let rows: Vec<serde_json::Value> = bench.agent.cli("--json bgp rib 10.99.0.1/32").json()?;
            ensure!(rows.is_empty(), "{rows:?}");
            Ok(())
        })?;
        let peers = bench.agent.peers()?;
        ensure!(crate::site::is_up(&peers[0]), "{what} ended the session: {peers:?}");
    }
    // What nobody knows is passed over, even twice the same attribute.
    let unknown = [&attributes[..], &[0xc0, 200, 2, 1, 2], &ORIGIN[..]].concat();
    bench.injector.send(&update_of(&unknown, &SERVICE))?;
    reach(&bench.container, "10.99.0.1")?;
    bench.lives()
}

fn order(lab: &Lab, _: &'static dyn Flavor) -> Result<()> {
    let mut bench = Bench::start(lab, "")?;
    bench.connect()?;
    bench.injector.send(&message(KEEPALIVE, &[]))?;
    bench.refused("a KEEPALIVE before the OPEN", 5, 1)?;
    bench.connect()?;
    bench.injector.send(&Open::default().bytes())?;
    bench.injector.send(&good_update())?;
    bench.refused("an UPDATE before the KEEPALIVE", 5, 2)?;
    bench.establish()?;
    bench.injector.send(&Open::default().bytes())?;
    bench.refused("a second OPEN", 5, 3)?;
    bench.lives()
}

fn refresh(lab: &Lab, _: &'static dyn Flavor) -> Result<()> {
    let mut bench = Bench::start(lab, "")?;
    bench.establish()?;
    bench.injector.send(&message(ROUTE_REFRESH, &[0, 1, 0]))?;
    // RFC 7313 section 5 is for those who offered enhanced refresh; the length is wrong for everybody (RFC 4271 6.1).
    match bench.next_notification()? {
        (7, 1) | (1, 2) => {}
        other => bail!("a ROUTE-REFRESH of 22 bytes: NOTIFICATION {other:?}"),
    }
    bench.lives()
}

impl Bench {
    fn next_notification(&mut self) -> Result<(u8, u8)> {
        loop {
            match self.injector.receive(ANSWER)? {
                Heard::Message(NOTIFICATION, body) if body.len() >= 2 => return Ok((body[0], body[1])),
                Heard::Message(..) => {}
                other => bail!("no NOTIFICATION but {other:?}"),
            }
        }
    }
}

fn silence(lab: &Lab, _: &'static dyn Flavor) -> Result<()> {
    let mut bench = Bench::start(lab, "hold_time = 3\nkeepalive = 1")?;
    bench.establish()?;
    bench.refused("nothing at all", 4, 0)?;
    bench.lives()
}

fn collision_rules(lab: &Lab, _: &'static dyn Flavor) -> Result<()> {
    // The agent calls us, we call the agent, and both connections get as far as OpenConfirm. The one that the speaker with
    // the higher identifier began must stay (RFC 4271 section 6.8).
    for (id, ours_stays) in [([198, 18, 1, 1], false), ([203, 0, 113, 1], true)] {
        let name = if ours_stays { "higher" } else { "lower" };
        let host = lab.machine(&format!("host-{name}"))?;
        let switch = lab.machine(&format!("injector-{name}"))?;
        lab.link(host.port("up1").address("198.18.1.3/31"), switch.port("port1").address("198.18.1.2/31"))?;
        let mut theirs = switch.injector()?;
        let mut ours = switch.injector()?;
        let config = "[bgp]\nasn = 65001\nrouter_id = \"198.19.0.1\"\n[[bgp.peer]]\naddress = \"198.18.1.2\"\n\
                      asn = 65100\nconnect_retry = 1\n[[ipam.pool]]\ncidr = \"10.32.0.0/16\"\nblock = \"10.32.1.0/24\"\n";
        let agent = Agent::start(&host, config)?;
        theirs.accept()?;
        ours.connect("198.18.1.3")?;
        let open = Open { id, ..Open::default() }.bytes();
        for injector in [&mut theirs, &mut ours] {
            ensure!(matches!(injector.receive(ANSWER)?, Heard::Message(OPEN, _)), "no OPEN");
        }
        theirs.send(&open)?;
        ensure!(theirs.receive(ANSWER)? == Heard::Message(KEEPALIVE, Vec::new()), "no KEEPALIVE on its call");
        ours.send(&open)?;
        let (stays, goes) = if ours_stays { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
        let heard = goes.receive(ANSWER)?;
        ensure!(
            matches!(&heard, Heard::Message(NOTIFICATION, body) if body.starts_with(&[6, 7])),
            "{name}: Cease, Connection Collision Resolution expected, not {heard:?}"
        );
        if ours_stays {
            ensure!(
                stays.receive(ANSWER)? == Heard::Message(KEEPALIVE, Vec::new()),
                "no KEEPALIVE on our call"
            );
        }
        stays.send(&message(KEEPALIVE, &[]))?;
        agent.wait_established(1)?;
    }
    Ok(())
}
