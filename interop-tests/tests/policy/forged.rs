//! A container that sends with addresses of others, and claims to be its neighbours' gateway.

use anyhow::{Context, Result, ensure};
use interop_tests::{Container, Lab, Rack, Switch, labelled, reach};

use super::{UDP, udp};

const ICMPV6: u8 = 58;

/// The link-local address of an interface in a container.
fn link_local(container: &Container) -> Result<String> {
    let text = container.run("ip -6 -o address show dev eth0 scope link")?;
    let address = text.split_whitespace().skip_while(|w| *w != "inet6").nth(1);
    Ok(address.and_then(|a| a.split('/').next()).context("a link-local address")?.to_owned())
}

fn octets(address: &str) -> Result<[u8; 16]> {
    Ok(address.parse::<std::net::Ipv6Addr>()?.octets())
}

/// Neighbour and router messages (RFC 4861, section 4) that claim `target` for the sender.
fn claims(target: &str) -> Result<Vec<(u8, Vec<u8>)>> {
    let target = octets(target)?;
    // The address of the attacker's choice, as an option.
    let option = |kind: u8| [vec![kind, 1], vec![2, 0x66, 0x66, 0x66, 0x66, 0x66]].concat();
    let advertisement = [vec![136, 0, 0, 0, 0x60, 0, 0, 0], target.to_vec(), option(2)].concat();
    let solicitation = [vec![135, 0, 0, 0, 0, 0, 0, 0], target.to_vec(), option(1)].concat();
    let router = [vec![134, 0, 0, 0, 64, 0, 0xff, 0xff], vec![0; 8], option(1)].concat();
    let redirect = [vec![137, 0, 0, 0, 0, 0, 0, 0], target.to_vec(), target.to_vec(), option(2)].concat();
    Ok(vec![(136, advertisement), (135, solicitation), (134, router), (137, redirect)])
}

#[test]
fn no_container_speaks_for_another() {
    Lab::run("policy-forged", |lab| {
        let rack = Rack::new(lab, Switch::Slash32)?;
        let (_switch, [_one, _two]) = rack.start()?;
        let [here, there] = &rack.hosts;
        let thief = here.container("thief", &labelled("role", "thief")?)?;
        let near = here.container("near", &labelled("role", "near")?)?;
        let far = there.container("far", &labelled("role", "far")?)?;
        for victim in [&near, &far] {
            reach(&thief, victim)?;
        }
        reach(&far, &near)?;
        let gateway = {
            let text = near.run("ip -6 route show default")?;
            text.split_whitespace().nth(2).with_context(|| text.clone())?.to_owned()
        };
        let (own, near_local) = (thief.ipv6()?, link_local(&near)?);
        let neighbours = near.run("ip -6 neigh show")?;

        // Sources of others: containers of this host and of the other, hosts, gateways, link-local ones.
        let mut mouth = thief.raw(UDP)?;
        let mut ears = [near.raw(UDP)?, far.raw(UDP)?, here.raw(UDP)?];
        let six = [
            near.ipv6()?,
            far.ipv6()?,
            "2001:db8:0:1::2".to_owned(),
            "2001:db8:0:1::1".to_owned(),
            gateway.clone(),
            near_local.clone(),
            link_local(&thief)?,
            "fe80::dead:beef".to_owned(),
            "fd00:32:0:ffff::1".to_owned(),
            "2001:db8:ffff::1".to_owned(),
            "::1".to_owned(),
            "::".to_owned(),
            "ff02::1".to_owned(),
            "::ffff:192.0.2.1".to_owned(),
        ];
        let four = [
            "192.0.2.1",
            "192.0.2.0",
            "192.0.2.3",
            "169.254.1.1",
            "169.254.7.7",
            "10.32.200.200",
            "203.0.113.1",
            "127.0.0.1",
            "0.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
        ]
        .map(str::to_owned);
        let four = [vec![near.ipv4()?, far.ipv4()?], four.to_vec()].concat();
        let families = [
            (thief.ipv4()?, [near.ipv4()?, far.ipv4()?, "192.0.2.1".to_owned()], four),
            (own.clone(), [near.ipv6()?, far.ipv6()?, "2001:db8:0:1::2".to_owned()], six.to_vec()),
        ];
        let mut number = 0u16;
        for (own, targets, sources) in &families {
            for source in sources {
                for (to, ears) in targets.iter().zip(&mut ears) {
                    number += 1;
                    let [high, low] = number.to_be_bytes();
                    let (forged, own_mark) = ([0xf0, 0x46, high, low], [0x0e, 0x17, high, low]);
                    // The thief's kernel may refuse some itself.
                    let _ = mouth.forge(source, to, &udp(4000, 7777, forged));
                    // What is its own arrives on the same way, later; of the host only what answers DNS is open.
                    let mut true_one = udp(4000, 7777, own_mark);
                    if *to == targets[2] {
                        true_one[2..4].copy_from_slice(&53u16.to_be_bytes());
                    }
                    mouth.forge(own, to, &true_one)?;
                    ensure!(ears.hears(&own_mark, 10_000)?, "{own} does not reach {to}");
                    ensure!(!ears.hears(&forged, 0)?, "{to} hears {source}, which is not {own}");
                }
            }
        }

        // Claims of the neighbours' and the gateway's addresses, to them and to everybody, from every source.
        let mut mouth = thief.raw(ICMPV6)?;
        let mut heard = near.raw(ICMPV6)?;
        for target in [&near.ipv6()?, &far.ipv6()?, &gateway, &near_local] {
            for source in [&link_local(&thief)?, &own, &gateway, &near.ipv6()?] {
                for to in [&near.ipv6()?, &far.ipv6()?, "ff02::1", &gateway] {
                    for (kind, mut message) in claims(target)? {
                        // Told apart by the last byte of the hardware address.
                        if let Some(last) = message.last_mut() {
                            *last = if *source == own { 0x67 } else { 0x66 };
                        }
                        let _ = mouth.forge(source, to, &message);
                        // With its own address it may send what it likes; routed, it is no word of a neighbour (RFC 4861,
                        // section 7.1: the hop limit is not 255 any more).
                        if *source == own {
                            continue;
                        }
                        let reached = heard.hears(&message[4..], 0)?;
                        ensure!(!reached, "near hears type {kind} for {target} from {source} by {to}");
                    }
                }
            }
        }
        ensure!(
            near.run("ip -6 neigh show")?.lines().count() <= neighbours.lines().count() + 1,
            "near has new neighbours"
        );
        ensure!(!near.run("ip -6 neigh show")?.contains("66:66:66"), "near believes the thief");
        for host in [here, there] {
            let routes = host.run("ip -6 route show default")?;
            ensure!(!routes.contains("s32"), "{routes}");
            let neighbours = host.run("ip -6 neigh show")?;
            let stolen = |line: &str| {
                let address = line.split_whitespace().next().unwrap_or_default().to_owned();
                line.contains("66:66:66:66:66")
                    && [near.ipv6(), far.ipv6()].iter().flatten().any(|a| *a == address)
            };
            ensure!(!neighbours.lines().any(stolen), "{neighbours}");
        }
        // Everybody is still where he was.
        for (from, to) in [(&far, &near), (&near, &far), (&near, &thief), (&thief, &far)] {
            reach(from, to)?;
        }
        Ok(())
    });
}
