//! Next hops and the kernel's routes to them: which path wins, what is passed on and what is not (RFC 4271 section 9.1.2).

use anyhow::{Result, bail, ensure};
use bytes::BytesMut;
use interop_tests::{Agent, Heard, Injector, Lab, Machine, PATIENCE, check, eventually};
use serde_json::Value;
use slash32::{
    bgp::wire::{
        Capability, EncodeContext, EncodedAttributes, Message, Nlri, Open, Origin, PathAttributes,
        UpdatePacker, WireNextHop, encode,
    },
    model::Family,
};

const ASN: u32 = 65010;
const CONFIG: &str = "[bgp]\nasn = 65010\nroute_reflector = true\nnext_hop_check = 'prefer'\n\
    [bgp.group.client]\nasn = 'internal'\npassive = true\nroute_reflector_client = true\nhold_time = 240\n\
    [[bgp.peer]]\naddress = '192.0.2.1'\ngroup = 'client'\n\
    [[bgp.peer]]\naddress = '198.51.100.1'\ngroup = 'client'\n";

/// Opens an iBGP session as `router_id` and announces prefixes with a next hop of any kind.
fn client(machine: &Machine, to: &str, router_id: [u8; 4], routes: &[(&str, &str)]) -> Result<Injector> {
    let mut injector = machine.injector()?;
    let open = Open {
        version: 4,
        my_as: 65010,
        hold_time: 240,
        router_id: router_id.into(),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::Multiprotocol { afi: 2, safi: 1 },
            Capability::FourOctetAs(ASN),
        ],
    };
    let mut out = BytesMut::new();
    encode(&EncodeContext::default(), &Message::Open(open), &mut out)?;
    encode(&EncodeContext::default(), &Message::Keepalive, &mut out)?;
    eventually("the agent listens", PATIENCE, || injector.connect(to))?;
    injector.send(&out)?;
    loop {
        match injector.receive(10_000)? {
            Heard::Message(4, _) => break,
            Heard::Message(1, _) => {}
            other => bail!("no session: {other:?}"),
        }
    }
    for (prefix, next_hop) in routes {
        let nlri = Nlri { prefix: prefix.parse()?, path_id: 0 };
        let (family, hop) = match next_hop.parse()? {
            std::net::IpAddr::V4(addr) => (Family::Ipv4, WireNextHop::V4(addr)),
            std::net::IpAddr::V6(addr) => (Family::Ipv6, WireNextHop::V6(addr)),
        };
        let attributes =
            PathAttributes { origin: Some(Origin::Igp), local_pref: Some(100), ..PathAttributes::default() };
        let mut out = BytesMut::new();
        let encoded = EncodedAttributes::new(&EncodeContext::default(), &attributes, family, hop);
        let mut packer = UpdatePacker::announce(&EncodeContext::default(), &encoded, &mut out);
        ensure!(packer.push(&nlri).is_ok(), "one prefix fits");
        packer.finish();
        injector.send(&out)?;
    }
    Ok(injector)
}

/// The next hop of the best path.
fn best(agent: &Agent, prefix: &str) -> Result<String> {
    let rows: Vec<Value> = agent.cli(&format!("bgp rib {prefix} --json")).json()?;
    let best = rows.iter().find(|row| row["best"] == true);
    Ok(best.and_then(|row| row["next_hop"].as_str()).unwrap_or("none").to_owned())
}

/// The next hop that a neighbour is told.
fn told(agent: &Agent, peer: &str, prefix: &str) -> Result<String> {
    let rows: Vec<Value> = agent.cli(&format!("bgp rib --advertised {peer} --json")).json()?;
    let row = rows.iter().find(|row| row["prefix"] == prefix);
    Ok(row.and_then(|row| row["next_hop"].as_str()).unwrap_or("none").to_owned())
}

#[test]
fn kernel_routes_decide_between_next_hops() {
    Lab::run("next-hops", |lab| {
        let (reflector, left, right) =
            (lab.forwarder("reflector")?, lab.machine("left")?, lab.machine("right")?);
        lab.link(
            reflector.port("eth0").address("192.0.2.0/31").address("2001:db8:1::1/64"),
            left.port("eth0").address("192.0.2.1/31").address("2001:db8:1::2/64"),
        )?;
        lab.link(
            reflector.port("eth1").address("198.51.100.0/31").address("2001:db8:2::1/64"),
            right.port("eth0").address("198.51.100.1/31").address("2001:db8:2::2/64"),
        )?;
        reflector.run("ip route add 10.255.0.1/32 via 192.0.2.1 metric 50")?;
        reflector.run("ip route add 10.255.0.2/32 via 198.51.100.1 metric 10")?;
        reflector.run("ip route add fd00:255::1/128 via 2001:db8:1::2 metric 50")?;
        reflector.run("ip route add fd00:255::2/128 via 2001:db8:2::2 metric 10")?;
        let agent = Agent::start(&reflector, CONFIG)?;
        let mine =
            [("10.1.0.0/24", "10.255.0.1"), ("fd01::/64", "fd00:255::1"), ("10.2.0.0/24", "10.255.0.1")];
        let _left = client(&left, "192.0.2.0", [10, 255, 0, 1], &mine)?;
        let theirs = [("10.1.0.0/24", "10.255.0.2"), ("fd01::/64", "fd00:255::2")];
        let _right = client(&right, "198.51.100.0", [10, 255, 0, 2], &theirs)?;

        let state = |expected: [&str; 5]| {
            eventually(&format!("best paths and what is told are {expected:?}"), PATIENCE, || {
                let state = [
                    best(&agent, "10.1.0.0/24")?,
                    best(&agent, "fd01::/64")?,
                    best(&agent, "10.2.0.0/24")?,
                    told(&agent, "192.0.2.1", "10.1.0.0/24")?,
                    told(&agent, "198.51.100.1", "10.2.0.0/24")?,
                ];
                check(state == expected, format!("{state:?}"))
            })
        };
        // What the kernel does with a packet.
        let kernel = |to: &str, gateway: &str| {
            eventually(&format!("the kernel sends {to} to {gateway}"), PATIENCE, || {
                let way =
                    reflector.run(&format!("ip route get {to}")).unwrap_or_else(|_| "via none ".to_owned());
                check(way.contains(&format!("via {gateway} ")), way)
            })
        };

        // The lower metric wins, where the router id says otherwise.
        state(["10.255.0.2", "fd00:255::2", "10.255.0.1", "10.255.0.2", "10.255.0.1"])?;
        kernel("10.1.0.5", "198.51.100.1")?;
        kernel("fd01::5", "2001:db8:2::2")?;
        let explained = agent.cli("bgp explain 10.1.0.0/24").run()?;
        ensure!(explained.contains("cost to the next hop: 50 against 10"), "{explained}");

        // Another metric, another path.
        reflector.run("ip route add 10.255.0.1/32 via 192.0.2.1 metric 5")?;
        reflector.run("ip route add fd00:255::1/128 via 2001:db8:1::2 metric 5")?;
        // Nothing of its own comes back to a client.
        state(["10.255.0.1", "fd00:255::1", "10.255.0.1", "none", "10.255.0.1"])?;
        kernel("10.1.0.5", "192.0.2.1")?;

        // No way to the first one: the other is taken. What has no other is passed on, for clients may know a way.
        for route in ["10.255.0.1/32 metric 5", "10.255.0.1/32 metric 50"] {
            reflector.run(&format!("ip route del {route}"))?;
        }
        for route in ["fd00:255::1/128 metric 5", "fd00:255::1/128 metric 50"] {
            reflector.run(&format!("ip route del {route}"))?;
        }
        state(["10.255.0.2", "fd00:255::2", "10.255.0.1", "10.255.0.2", "10.255.0.1"])?;
        kernel("10.1.0.5", "198.51.100.1")?;
        kernel("10.2.0.5", "none")?;
        let explained = agent.cli("bgp explain 10.2.0.0/24").run()?;
        ensure!(explained.contains("no next hop can be reached"), "{explained}");
        let metrics = agent.status()?;
        ensure!(metrics.to_string().contains("\"next_hops_unreachable\":2"), "{metrics}");

        // By the letter of the RFC.
        let said = agent.reconfigure(&CONFIG.replace("'prefer'", "'require'"))?;
        ensure!(said.contains("next_hop_check"), "{said}");
        state(["10.255.0.2", "fd00:255::2", "none", "10.255.0.2", "none"])?;
        // A default route is a way.
        reflector.run("ip route add default via 192.0.2.1 metric 100")?;
        state(["10.255.0.2", "fd00:255::2", "10.255.0.1", "10.255.0.2", "10.255.0.1"])?;
        kernel("10.2.0.5", "192.0.2.1")?;
        reflector.run("ip route del default")?;
        state(["10.255.0.2", "fd00:255::2", "none", "10.255.0.2", "none"])?;

        // Nobody looks any more.
        agent.reconfigure(&CONFIG.replace("'prefer'", "'off'"))?;
        state(["10.255.0.1", "fd00:255::1", "10.255.0.1", "none", "10.255.0.1"])
    });
}
