//! Odd and malformed routes over a session that is otherwise in order, written by ExaBGP (RFC 7606).

use anyhow::{Context, Result, ensure};
use interop_tests::{Lab, PATIENCE, eventually};

use super::{Case, case};
use crate::flavors::Flavor;
use crate::site::{Host, Plan, Sessions};
use crate::spec::Family;

pub(super) const CASES: &[Case] = &[case!(
    "odd-attributes",
    "unknown, misplaced and malformed attributes, impossible next hops: the session stays, what is good is used",
    odd_attributes
)
.only(&["exabgp"])
.fast()];

/// A prefix, what its announcement says beside the prefix, and why.
type Route = (&'static str, &'static str, &'static str);

/// Taken, with or without the attribute. An attribute is its code, flags and value.
const TAKEN: [Route; 6] = [
    ("10.77.0.1/32", "next-hop self attribute [ 0xde 0xe0 0x0102 ]", "an unknown attribute that travels on"),
    ("10.77.0.2/32", "next-hop self attribute [ 0xdf 0x80 0x00 ]", "an unknown attribute that does not"),
    ("10.77.0.3/32", "next-hop self attribute [ 0x07 0xc0 0x010203 ]", "AGGREGATOR of 3 bytes is discarded"),
    ("10.77.0.4/32", "next-hop self attribute [ 0x06 0x40 0x01 ]", "ATOMIC_AGGREGATE of a byte is discarded"),
    ("10.77.0.5/32", "next-hop self attribute [ 0x09 0x80 0x01020304 ]", "ORIGINATOR_ID of an external peer"),
    ("10.77.0.6/32", "next-hop self attribute [ 0x0a 0x80 0x01020304 ]", "CLUSTER_LIST of an external peer"),
];

/// Not used, and no reason to end the session.
const REFUSED: [Route; 12] = [
    ("10.77.1.1/32", "next-hop self attribute [ 0x08 0xc0 0x000102 ]", "COMMUNITIES of 3 bytes"),
    ("10.77.1.2/32", "next-hop self attribute [ 0x10 0xc0 0x00010203 ]", "EXTENDED COMMUNITIES of 4 bytes"),
    ("10.77.1.3/32", "next-hop self attribute [ 0x20 0xc0 0x00010203040506070809 ]", "LARGE_COMMUNITY of 10"),
    ("10.77.1.4/32", "next-hop self attribute [ 0x04 0xc0 0x00000001 ]", "MULTI_EXIT_DISC marked transitive"),
    ("10.77.1.5/32", "next-hop self attribute [ 0x01 0x40 0x09 ]", "ORIGIN 9"),
    ("10.77.1.6/32", "next-hop self attribute [ 0x02 0x40 0x0203 ]", "AS_PATH cut short"),
    (
        "10.77.1.7/32",
        "next-hop self attribute [ 0x02 0x40 0x09010000fe4c ]",
        "AS_PATH with a segment of type 9",
    ),
    (
        "10.77.1.8/32",
        "next-hop self as-path [ 65999 ]",
        "AS_PATH that does not begin with the neighbour's number",
    ),
    ("10.77.1.9/32", "next-hop self as-path [ 65100 65001 ]", "our own number in AS_PATH"),
    ("10.77.2.1/32", "next-hop 127.0.0.1", "a next hop on the loopback"),
    ("10.77.2.2/32", "next-hop 224.0.0.1", "a next hop that is a group"),
    ("10.77.2.3/32", "next-hop 198.18.1.11", "ourselves as the next hop"),
];

fn odd_attributes(lab: &Lab, flavor: &'static dyn Flavor) -> Result<()> {
    let plan = Plan::new(flavor).hosts(1).sessions(Sessions::OnlyFour).router(|_, spec| {
        let routes = TAKEN.iter().chain(&REFUSED);
        spec.odd = routes.map(|(prefix, words, _)| format!("{prefix} {words}")).collect();
    });
    let site = plan.start(lab)?;
    let host = &site.hosts[0];
    for (prefix, _, why) in TAKEN {
        eventually(&format!("{prefix} is used: {why}"), PATIENCE, || used(host, prefix, true))?;
    }
    // All came in one go, and what was announced last is there: what is not used now will not be.
    for (prefix, _, why) in REFUSED {
        used(host, prefix, false).with_context(|| why.to_owned())?;
    }
    // A good route that comes again malformed is withdrawn.
    let (prefix, ..) = TAKEN[0];
    let words = format!("announce route {prefix} next-hop 198.18.1.1 attribute [ 0x08 0xc0 0x000102 ]");
    site.switches[0].run.command("exabgpcli").args(words.split(' ')).run()?;
    eventually(&format!("{prefix} is withdrawn"), PATIENCE, || used(host, prefix, false))?;
    let peer = host.peer(&site.neighbor(1, 1, Family::Four))?;
    ensure!(peer["state"] == "Established" && peer["established_count"] == 1, "{peer}");
    site.traffic()
}

/// Whether a prefix has a path in use, in the RIB and in the kernel alike.
fn used(host: &Host, prefix: &str, want: bool) -> Result<()> {
    let rows = host.rib(prefix)?;
    let best = rows.iter().any(|row| row["best"] == true);
    let kernel = !host.machine.run(&format!("ip route show {prefix}"))?.trim().is_empty();
    ensure!(best == want && kernel == want, "{prefix}: in the kernel {kernel}, in the RIB {rows:?}");
    Ok(())
}
