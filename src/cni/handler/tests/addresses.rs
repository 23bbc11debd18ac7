//! Addresses that are asked for, given by others, or move; and labels.

use super::*;

#[test]
fn requested_addresses_and_their_precedence() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let asked = |level: u8, ns: &NamedNetns, id: &str| {
            let mut request = request("ADD", id, ns);
            if level >= 1 {
                request.stdin["runtimeConfig"] = json!({"ips": ["10.32.4.5/32"], "mac": "02:00:00:00:00:05"});
            }
            if level >= 2 {
                request.stdin["args"] = json!({"cni": {"ips": ["10.32.4.6"]}});
            }
            if level >= 3 {
                request.args = "IgnoreUnknown=1;IP=10.32.4.7,fd00:32::7:7;MAC=02:00:00:00:00:07".into();
            }
            request
        };
        for (level, expected) in [(1, "10.32.4.5/32"), (2, "10.32.4.6/32"), (3, "10.32.4.7/32")] {
            let result = world.call(&asked(level, &ns, "c1")).unwrap();
            assert_eq!(first_ip(&result), expected);
            let mac = if level == 3 { "02:00:00:00:00:07" } else { "02:00:00:00:00:05" };
            assert_eq!(result["interfaces"][1]["mac"], mac);
            let endpoint = world.handler.attachments().next().unwrap();
            // Only the last one asks for an address outside of our block.
            assert_eq!(endpoint.moved.len(), usize::from(level == 3));
            world.call(&request("DEL", "c1", &ns)).unwrap();
        }
        world.call(&asked(1, &ns, "c1")).unwrap();
        let other = container();
        assert_eq!(world.call(&asked(1, &other, "c2")).unwrap_err().code, code::ADDRESS_REFUSED);
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

#[test]
fn delegated_addresses() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let delegate = with(request("ADD", "c1", &ns), "ipam", json!({"type": "host-local"}));
        assert_eq!(world.call(&delegate).unwrap_err().code, code::DELEGATE_FAILED);
        world.assert_clean();
        let given = json!({"ips": [{"address": "10.99.0.5/24", "gateway": "10.99.0.1"}], "routes": [{"dst": "10.0.0.0/8", "gw": "10.99.0.1"}], "dns": {"nameservers": ["10.99.0.2"]}});
        let delegate = with(delegate, crate::cni::types::IPAM_RESULT_KEY, given);
        let result = world.call(&delegate).unwrap();
        assert_eq!(first_ip(&result), "10.99.0.5/32");
        assert_eq!(result["routes"], json!([{"dst": "10.0.0.0/8", "gw": "169.254.1.1"}]));
        assert_eq!(result["dns"]["nameservers"][0], "10.99.0.2");
        let other = container();
        // What no container can have, whoever says so: the host's own address would be taken from it.
        for bad in [
            "192.0.2.1",
            "0.0.0.0",
            "127.0.0.1",
            "224.1.1.1",
            "255.255.255.255",
            "169.254.1.1",
            "169.254.7.7",
            "fe80::1",
            "::1",
            "::",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            let given = json!({"ips": [{"address": bad}]});
            let add = with(request("ADD", "c2", &other), crate::cni::types::IPAM_RESULT_KEY, given);
            let error = world.call(&with(add, "ipam", json!({"type": "static"}))).unwrap_err();
            assert!(error.code == code::ADDRESS_REFUSED && error.msg.contains(bad), "{bad}: {error:?}");
        }
        // One address of each family; more would be lost, and with host-local reserved for nobody.
        let two = json!({"ips": [{"address": "10.99.0.6/24"}, {"address": "10.99.0.7/24"}]});
        let two = with(request("ADD", "c2", &other), crate::cni::types::IPAM_RESULT_KEY, two);
        let error = world.call(&with(two, "ipam", json!({"type": "static"}))).unwrap_err();
        assert!(error.code == 2 && error.msg.contains("10.99.0.7"), "{error:?}");
        let twice = CniRequest {
            container_id: "c2".into(),
            netns: other.path().to_str().unwrap().into(),
            ..delegate.clone()
        };
        assert_eq!(world.call(&twice).unwrap_err().code, code::ADDRESS_REFUSED);
        world.call(&CniRequest { command: "DEL".into(), ..delegate }).unwrap();
        world.assert_clean();
        assert!(NetConf::parse(&json!({"name": "x"})).is_ok());
    });
}

/// What is the host's own, a neighbour's or a gateway's is given to nobody, by chance or by name.
#[test]
fn addresses_of_others_are_left_out() {
    private(|| {
        let mut world = World::new();
        let mut socket = Socket::route().unwrap();
        let own: [IpAddr; 2] = ["10.32.4.0".parse().unwrap(), "fd00:32::4:1".parse().unwrap()];
        // Nobody has told of it: the kernel knows.
        for addr in own {
            addr::add(&mut socket, 1, addr, if addr.is_ipv4() { 32 } else { 128 }).unwrap();
            // IPv6 takes an address in use a moment later.
            while !world.handler.attacher.is_own(addr) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let mut told = config(world.dir.path());
        let neighbours: [IpAddr; 2] = ["10.32.4.1".parse().unwrap(), "fd00:32::4:2".parse().unwrap()];
        told.neighbours = neighbours.to_vec();
        world.handler.reconfigure(told);
        let gateways: [IpAddr; 2] = ["10.32.4.2".parse().unwrap(), "fd00:32::4:3".parse().unwrap()];
        world.handler.set_surroundings(gateways.map(|a| (a, Whose::Gateway)).into(), Now::read());
        let ns = container();
        for (addr, whose) in own
            .map(|a| (a, "an address of this host"))
            .into_iter()
            .chain(neighbours.map(|a| (a, "a BGP neighbour's address")))
            .chain(gateways.map(|a| (a, "a gateway of this host's routes")))
        {
            let asked = with(request("ADD", "c1", &ns), "runtimeConfig", json!({"ips": [addr]}));
            let error = world.call(&asked).unwrap_err();
            assert_eq!(error.code, code::ADDRESS_REFUSED);
            assert!(error.msg.contains(&addr.to_string()) && error.msg.ends_with(whose), "{error:?}");
            let given = json!({"ips": [{"address": addr}]});
            let given = with(request("ADD", "c1", &ns), crate::cni::types::IPAM_RESULT_KEY, given);
            let error = world.call(&with(given, "ipam", json!({"type": "static"}))).unwrap_err();
            assert!(error.code == code::ADDRESS_REFUSED && error.msg.ends_with(whose), "{error:?}");
        }
        world.assert_clean();
        let result = world.call(&request("ADD", "c1", &ns)).unwrap();
        let ips = result["ips"].to_string();
        let others = own.into_iter().chain(neighbours).chain(gateways);
        assert!(others.into_iter().all(|addr| !ips.contains(&format!("{addr}/"))), "{ips}");
        let usage = world.handler.ipam().usage(Instant::now());
        assert_eq!((usage[0].reserved, usage[0].used, usage[0].free), (3, 1, 12));
        assert_eq!(world.handler.ipam().left_out().count(), 6);
        // One comes to where a container is.
        assert_eq!(world.handler.attention(), []);
        let taken: IpAddr = first_ip(&result).trim_end_matches("/32").parse().unwrap();
        world.handler.set_surroundings([(taken, Whose::Host)].into(), Now::read());
        let told = world.handler.attention();
        assert_eq!(told.iter().map(|a| a.kind).collect::<Vec<_>>(), [AttentionKind::AddressTaken]);
        assert_eq!(told[0].text, format!("{taken} is an address of this host, too"));
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

#[test]
fn an_address_that_moves_away() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let attachment = world.handler.attachments().next().unwrap().clone();
        let (v4, v6) = (attachment.endpoint.ipv4.unwrap().into(), attachment.endpoint.ipv6.unwrap().into());
        let now = Now::read();
        let learn = |world: &mut World, addr: IpAddr, number| {
            world.handler.announced_elsewhere(&mut world.host, addr, number, now).unwrap()
        };
        assert_eq!(learn(&mut world, v4, None), Move::Kept);
        assert_eq!(learn(&mut world, v4, Some(1)), Move::GaveWay);
        assert_eq!(learn(&mut world, v4, Some(1)), Move::NotOurs);
        // The other address goes on, and so it does after a restart.
        for restarted in [false, true] {
            if restarted {
                world.restart();
            }
            let routes = world.handler.attacher.host_routes().unwrap();
            assert_eq!(routes, [(attachment.ifindex, v6)]);
            assert_eq!(world.host.announced, HashSet::from([v6]));
            assert_eq!(world.handler.ipam().leases().count(), 1);
        }
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
        // Here it is asked for, and so it carries a number; an older one does not take it back.
        learn(&mut world, v4, Some(1));
        let add = with(request("ADD", "c2", &ns), "runtimeConfig", json!({"ips": [v4, "10.32.9.9"]}));
        assert_eq!(world.call(&add).unwrap_err().code, code::ADDRESS_REFUSED);
        let add = with(request("ADD", "c2", &ns), "runtimeConfig", json!({"ips": [v4]}));
        world.call(&add).unwrap();
        let number = world.handler.attachments().next().unwrap().number(v4).unwrap();
        assert_eq!(learn(&mut world, v4, Some(number)), Move::Kept);
        assert_eq!(learn(&mut world, v4, Some(number + 1)), Move::GaveWay);
        world.call(&request("DEL", "c2", &ns)).unwrap();
        // A host with a clock ahead of ours cannot keep it, whether it has had it for long or for a moment.
        for (theirs, again) in [(number + 1000, true), (number - 1000, false)] {
            learn(&mut world, v4, Some(theirs));
            world.call(&add).unwrap();
            let back = world.handler.attachments().next().unwrap();
            assert!(back.number(v4).unwrap() > theirs && back.takes_over(now.wall));
            assert_eq!(back.moved_again, again);
            world.call(&request("DEL", "c2", &ns)).unwrap();
        }
        world.handler.no_longer_elsewhere(&mut world.host, v4, now);
        // Anycast is announced by many, and nobody gives way.
        let add = with(
            with(request("ADD", "c3", &ns), "anycast", true.into()),
            "runtimeConfig",
            json!({"ips": ["10.32.9.9"]}),
        );
        world.call(&add).unwrap();
        assert_eq!(learn(&mut world, "10.32.9.9".parse().unwrap(), Some(u32::MAX)), Move::Kept);
        world.call(&request("DEL", "c3", &ns)).unwrap();
        world.assert_clean();
    });
}

#[test]
fn labels_change_while_it_lives() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let id = world.handler.attachments().next().unwrap().endpoint.id.clone();
        let set = Labels::try_from([("role", "web")]).unwrap();
        world.handler.set_labels(&mut world.host, &id, &set, &[]).unwrap();
        world.host.fail = Some("announce");
        let other = Labels::try_from([("role", "db")]).unwrap();
        assert!(world.handler.set_labels(&mut world.host, &id, &other, &[]).is_err());
        world.host.fail = None;
        let mut many = Labels::new();
        (0..Labels::MOST).for_each(|n| many.insert(format!("k{n}"), "v").unwrap());
        assert_eq!(world.handler.set_labels(&mut world.host, &id, &many, &[]).unwrap_err().code, 7);
        world.restart();
        assert_eq!(world.handler.attachment(&id).unwrap().endpoint.labels.to_string(), "role=web");
        world.handler.set_labels(&mut world.host, &id, &Labels::new(), &["role".into()]).unwrap();
        assert!(world.handler.attachment(&id).unwrap().endpoint.labels.is_empty());
        let unknown = EndpointId("s32x".into());
        assert_eq!(world.handler.set_labels(&mut world.host, &unknown, &set, &[]).unwrap_err().code, 3);
    });
}

/// Whoever had to give an address up has it again when nobody else announces it, also if the agent was away meanwhile.
#[test]
fn an_address_comes_back() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        // One of our block, and one that moved here.
        let asked = json!({"ips": ["10.32.4.5", "fd00:32::9:9"]});
        let add = with(request("ADD", "c1", &ns), "runtimeConfig", asked);
        let result = world.call(&add).unwrap();
        let check = with(request("CHECK", "c1", &ns), "prevResult", result.clone());
        let (v4, v6): (IpAddr, IpAddr) = ("10.32.4.5".parse().unwrap(), "fd00:32::9:9".parse().unwrap());
        let before = world.handler.attachments().next().unwrap().clone();
        let number = before.number(v6).unwrap();
        for restarted in [false, true] {
            let now = Now::read();
            for addr in [v4, v6] {
                let moved = world.handler.announced_elsewhere(&mut world.host, addr, Some(number + 5), now);
                assert_eq!(moved.unwrap(), Move::GaveWay);
            }
            assert_eq!(world.host.announced.len(), 0);
            let told: Vec<_> = world.handler.attention().iter().map(|a| a.kind).collect();
            assert_eq!(told, [AttentionKind::AddressMoved; 2]);
            assert!(world.call(&check).unwrap_err().details.contains("another host"));
            if restarted {
                world.restart();
                assert_eq!(world.handler.attention().len(), 2);
                // v4 is not announced any more, v6 is until later.
                let learned = world.handler.announced_elsewhere(&mut world.host, v6, Some(number + 5), now);
                assert_eq!(learned.unwrap(), Move::NotOurs);
                world.handler.converged(&mut world.host, now);
            } else {
                world.handler.no_longer_elsewhere(&mut world.host, v4, now);
            }
            assert_eq!(world.host.announced, HashSet::from([v4]));
            world.handler.no_longer_elsewhere(&mut world.host, v6, now);
            world.assert_consistent();
            assert_eq!(world.handler.attention(), []);
            assert_eq!(*world.handler.attachments().next().unwrap(), before);
            world.call(&check).unwrap();
        }
        // The newer one comes back: it still wins. What is free comes back with a repeated ADD, what is not does not.
        let now = Now::read();
        for addr in [v4, v6] {
            world.handler.announced_elsewhere(&mut world.host, addr, Some(number + 5), now).unwrap();
        }
        let again = world.call(&request("ADD", "c1", &ns)).unwrap();
        let ips = again["ips"].to_string();
        assert!(
            again["ips"].as_array().unwrap().len() == 2
                && !ips.contains("10.32.4.5/")
                && !ips.contains("9:9"),
            "{ips}"
        );
        world.call(&request("DEL", "c1", &ns)).unwrap();
        assert_eq!(world.handler.attention(), []);
        world.assert_clean();
    });
}

/// After a start nobody gets an address by chance that another host had before it, until the neighbours have told.
#[test]
fn what_others_have_is_known_across_a_restart() {
    private(|| {
        let mut world = World::new();
        let (a, b) = (container(), container());
        let now = Now::read();
        let addr: IpAddr = "10.32.4.0".parse().unwrap();
        let learn = |world: &mut World, number| {
            world.handler.announced_elsewhere(&mut world.host, addr, number, now).unwrap()
        };
        assert_eq!(learn(&mut world, Some(5)), Move::NotOurs);
        for _ in 0..2 {
            world.restart();
        }
        let first = world.call(&request("ADD", "a", &a)).unwrap();
        assert_eq!(first_ip(&first), "10.32.4.1/32");
        // It has been told of: that holds. Then it has not been for too long.
        learn(&mut world, Some(5));
        let later = Now { mono: Instant::now() + Duration::from_secs(100), ..now };
        world.handler.tick(&mut world.host, later);
        assert_eq!(world.handler.ipam().elsewhere().count(), 1);
        world.restart();
        world.handler.tick(&mut world.host, later);
        assert_eq!(world.handler.ipam().elsewhere().count(), 0);
        world.restart();
        assert_eq!(world.handler.ipam().elsewhere().count(), 0);
        let asked = with(request("ADD", "b", &b), "runtimeConfig", json!({"ips": [addr]}));
        assert_eq!(first_ip(&world.call(&asked).unwrap()), "10.32.4.0/32");
        for (id, ns) in [("a", &a), ("b", &b)] {
            world.call(&request("DEL", id, ns)).unwrap();
        }
        world.assert_clean();
    });
}
