//! What the language can say beside TCP and selectors, with two hosts: SCTP, ICMP types, tiers, names of ports, limits,
//! staged policies, logs, rules for either end. Each in IPv4 and IPv6.

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Container, Lab, PATIENCE, Rack, Raw, Switch, check, eventually, labelled, reach, unreachable,
};

use crate::answer;

use super::{UDP, udp};

const POLICIES: &str = r#"
[[tier]]
name = "first"
order = 10
default = "pass"
[[named_port]]
name = "api"
select = 'role == "srv"'
port = 8080
[[policy]]
name = "guard"
tier = "first"
select = 'role == "srv"'
ingress = [
  { action = "deny", from = { selector = 'role == "job"' }, protocol = "tcp", ports = 8080 },
  { action = "pass", protocol = "tcp", ports = 9090 },
  { action = "reject", protocol = "tcp", ports = 9091 },
]
[[policy]]
name = "srv"
select = 'role == "srv"'
ingress = [
  { action = "allow", protocol = "tcp", ports = ["api", 9090, 9091] },
  { action = "allow", from = { selector = 'role == "web"' }, protocol = "sctp", ports = 5000 },
  { action = "allow", protocol = "icmp", icmp_type = 13 },
  { action = "allow", protocol = "icmpv6", icmp_type = 139, icmp_code = 1 },
  { action = "allow", protocol = "udp", ports = 7000, limit = "6/day burst 6" },
  { action = "allow", protocol = "udp", ports = 7001 },
  { action = "allow", protocol = "udp", ports = 7003, log = "500/day burst 500" },
  { action = "allow", protocol = 253, from = { selector = 'role == "web"' } },
]
[[policy]]
name = "tried"
order = 1
select = 'role == "srv"'
staged = true
ingress = [{ action = "deny", protocol = "tcp", ports = 8080 }]
[[policy]]
name = "out"
select = 'role == "job"'
egress = [
  { action = "deny", to = { selector = 'role == "srv"' }, protocol = ["tcp", "udp"], ports = [9090, 7002] },
  { action = "allow" },
]
"#;

const SCTP: u8 = 132;
/// For experiments (RFC 3692).
const OTHER: u8 = 253;

/// A chunk that opens an association (RFC 9260, section 3.3.2); `mark` is its tag.
fn sctp(source: u16, port: u16, mark: [u8; 4]) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), port.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend(mark);
    bytes.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    bytes
}

fn icmp(kind: u8, code: u8, mark: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(mark);
    bytes.extend([0; 16]);
    bytes.extend(mark);
    bytes
}

/// Packets that are told apart by a mark, and by their source ports.
struct Marks(u16);

impl Marks {
    fn next(&mut self) -> (u16, [u8; 4]) {
        self.0 += 1;
        let [high, low] = self.0.to_be_bytes();
        (20_000 + self.0, [0xd1, 0x7e, high, low])
    }
}

/// What `make` builds arrives or does not. `control` builds what is known to arrive, by the same way.
fn arrives(
    marks: &mut Marks,
    (from, ears): (&mut Raw, &mut Raw),
    to: &str,
    wanted: bool,
    make: &dyn Fn(u16, [u8; 4]) -> Vec<u8>,
    control: &dyn Fn(u16, [u8; 4]) -> Vec<u8>,
) -> Result<()> {
    let (port, mark) = marks.next();
    from.send(to, &make(port, mark))?;
    if !wanted {
        let (port, after) = marks.next();
        from.send(to, &control(port, after))?;
        ensure!(ears.hears(&after, 10_000)?, "the control packet does not arrive");
    }
    let heard = ears.hears(&mark, if wanted { 10_000 } else { 0 })?;
    check(heard == wanted, format!("arrived: {heard}"))
}

#[test]
fn protocols_tiers_limits_and_logs_with_two_hosts() {
    Lab::run("policy-protocols", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, hosts) = rack.start()?;
        let srv = rack.hosts[0].container("srv", &labelled("role", "srv")?)?;
        let web = rack.hosts[1].container("web", &labelled("role", "web")?)?;
        let job = rack.hosts[1].container("job", &labelled("role", "job")?)?;
        let echoes = [8080, 9090, 9091, 9092].map(|port| srv.echo_on(port));
        let _echoes = echoes.into_iter().collect::<Result<Vec<_>>>()?;
        reach(&web, &srv)?;
        reach(&job, &srv)?;
        for host in &hosts {
            host.write_policy("all.toml", POLICIES)?;
        }
        unreachable(&web, &srv)?;
        let addresses = [srv.ipv4()?, srv.ipv6()?];

        // Tiers, names of ports, rejection, egress at the other host.
        let tcp: [(&Container, u16, bool); 8] = [
            (&web, 8080, true),
            (&web, 9090, true),
            (&web, 9091, false),
            (&web, 9092, false),
            (&job, 8080, false),
            (&job, 9090, false),
            (&job, 9091, false),
            (&job, 9092, false),
        ];
        for (from, port, works) in tcp {
            for to in &addresses {
                let what = format!("{} to {to} tcp/{port}: {works}", from.name());
                eventually(&what, PATIENCE, || {
                    let got = from.connect(to, port);
                    check(got.is_ok() == works, format!("{got:?}"))?;
                    // An answer, not silence, where the rule says so.
                    let refused = format!("{got:?}").contains("refused");
                    check(refused == (port == 9091), format!("{got:?}"))
                })?;
            }
        }

        // SCTP; a protocol without ports; ICMP by type and code.
        let mut marks = Marks(0);
        let (mut web_sctp, mut job_sctp, mut ears) = (web.raw(SCTP)?, job.raw(SCTP)?, srv.raw(SCTP)?);
        let sctp_to = |port: u16| move |source: u16, mark: [u8; 4]| sctp(source, port, mark);
        let (mut web_other, mut job_other, mut other_ears) =
            (web.raw(OTHER)?, job.raw(OTHER)?, srv.raw(OTHER)?);
        let other = |_: u16, mark: [u8; 4]| mark.to_vec();
        for to in &addresses {
            let pair = (&mut web_sctp, &mut ears);
            arrives(&mut marks, pair, to, true, &sctp_to(5000), &sctp_to(5000)).context("web sctp/5000")?;
            let pair = (&mut web_sctp, &mut ears);
            arrives(&mut marks, pair, to, false, &sctp_to(5001), &sctp_to(5000)).context("web sctp/5001")?;
            // From job nothing arrives; web's comes later.
            let (port, mark) = marks.next();
            job_sctp.send(to, &sctp(port, 5000, mark))?;
            let pair = (&mut web_sctp, &mut ears);
            arrives(&mut marks, pair, to, true, &sctp_to(5000), &sctp_to(5000)).context("web after job")?;
            ensure!(!ears.hears(&mark, 200)?, "job reaches {to} sctp/5000");

            let (_, mark) = marks.next();
            job_other.send(to, &mark)?;
            arrives(&mut marks, (&mut web_other, &mut other_ears), to, true, &other, &other)
                .context("web, protocol 253")?;
            ensure!(!other_ears.hears(&mark, 200)?, "job reaches {to} by protocol 253");
        }
        for (to, protocol, allowed, refused) in [
            (&addresses[0], 1, (13, 0), [(8, 0), (15, 0)]),
            (&addresses[1], 58, (139, 1), [(128, 0), (139, 0)]),
        ] {
            let (mut mouth, mut ears) = (web.raw(protocol)?, srv.raw(protocol)?);
            let of = |(kind, code): (u8, u8)| move |_: u16, mark: [u8; 4]| icmp(kind, code, mark);
            arrives(&mut marks, (&mut mouth, &mut ears), to, true, &of(allowed), &of(allowed))
                .with_context(|| format!("protocol {protocol} {allowed:?}"))?;
            for kind in refused {
                arrives(&mut marks, (&mut mouth, &mut ears), to, false, &of(kind), &of(allowed))
                    .with_context(|| format!("protocol {protocol} {kind:?}"))?;
            }
        }

        // A limit counts new connections of both families together.
        let (mut mouth, mut ears) = (web.raw(UDP)?, srv.raw(UDP)?);
        let mut sent = Vec::new();
        for number in 0..24 {
            let (port, mark) = marks.next();
            mouth.send(&addresses[number % 2], &udp(port, 7000, mark))?;
            sent.push(mark);
        }
        for to in &addresses {
            let to_7001 = |source: u16, mark: [u8; 4]| udp(source, 7001, mark);
            arrives(&mut marks, (&mut mouth, &mut ears), to, true, &to_7001, &to_7001)?;
        }
        let mut heard = 0;
        for mark in &sent {
            heard += usize::from(ears.hears(mark, 0)?);
        }
        ensure!(heard == 6, "{heard} of 24 new connections under a limit of 6");

        // The log of a rule, told at the host that enforces it.
        let trace = rack.hosts[0]
            .command("slash32")
            .args(["--json", "policy", "trace", "--count", "1", "--seconds", "30"])
            .spawn("trace")?;
        let wanted = "default/srv ingress 7 allow";
        eventually("the log tells", PATIENCE, || {
            let (port, mark) = marks.next();
            mouth.send(&addresses[1], &udp(port, 7003, mark))?;
            check(trace.log().contains(wanted), trace.log())
        })?;

        // What is only tried is counted where it would be enforced, and nowhere else.
        let staged = |host: usize| -> Result<u64> {
            let shown = answer(&hosts[host], "policy show")?;
            let rows = shown["policies"].as_array().cloned().unwrap_or_default();
            let row = rows.into_iter().find(|p| p["name"].as_str().is_some_and(|n| n.contains("tried")));
            let row = row.with_context(|| format!("{shown}"))?;
            Ok(row["packets"].as_u64().unwrap_or(0))
        };
        ensure!(staged(0)? > 0 && staged(1)? == 0, "{} and {}", staged(0)?, staged(1)?);
        Ok(())
    });
}
