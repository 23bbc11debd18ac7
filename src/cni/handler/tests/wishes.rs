//! ADD with wishes that differ, cannot be fulfilled, or are another plugin's to fulfil.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use super::*;

/// The endpoint remembers who gave its addresses, and that is owed until our plugin says that it has been told.
#[test]
fn whoever_gave_addresses_is_remembered() {
    private(|| {
        use crate::cni::types::{DONE_KEY, IPAM_RESULT_KEY, REMOVED_KEY};
        let mut world = World::new();
        let ns = container();
        let ipam = json!({"type": "host-local", "dataDir": "/x"});
        let given = |addr: &str| json!({"ips": [{"address": addr}]});
        let add = with(request("ADD", "c1", &ns), "ipam", ipam.clone());
        let result = world.call(&with(add.clone(), IPAM_RESULT_KEY, given("10.99.0.5/24"))).unwrap();
        world.restart();
        // Repeated, and given the same, or nothing: as it is. Given another: that one, as it is what the giver has noted.
        assert_eq!(world.call(&with(add.clone(), IPAM_RESULT_KEY, given("10.99.0.5/24"))).unwrap(), result);
        assert_eq!(world.call(&add).unwrap(), result);
        let other = world.call(&with(add.clone(), IPAM_RESULT_KEY, given("10.99.0.6/24"))).unwrap();
        assert_eq!(first_ip(&other), "10.99.0.6/32");
        world.assert_consistent();
        // The configuration says nothing of another plugin by now.
        for _ in 0..2 {
            let owed = world.call(&request("DEL", "c1", &ns)).unwrap();
            let [entry] = &owed[REMOVED_KEY].as_array().unwrap()[..] else { panic!("{owed}") };
            assert_eq!((&entry["containerID"], &entry["config"]["ipam"]), (&json!("c1"), &ipam));
            assert!(entry["config"].get(IPAM_RESULT_KEY).is_none());
            world.restart();
        }
        let done = with(request("DEL", "c1", &ns), DONE_KEY, true.into());
        assert_eq!(world.call(&done).unwrap(), Value::Null);
        assert_eq!(world.call(&request("DEL", "c1", &ns)).unwrap(), Value::Null);
        // Another takes its place without a DEL between: both are told, by DEL as by GC.
        for verb in ["DEL", "GC"] {
            world.call(&with(add.clone(), IPAM_RESULT_KEY, given("10.99.0.5/24"))).unwrap();
            let ours = world.call(&request("ADD", "c1", &ns)).unwrap();
            assert!(first_ip(&ours).starts_with("10.32.4."), "{ours}");
            let end = with(request(verb, "c1", &ns), "cni.dev/valid-attachments", json!([]));
            let owed = world.call(&end).unwrap();
            assert_eq!(owed[REMOVED_KEY][0]["config"]["ipam"], ipam, "{verb}: {owed}");
            world.call(&done).unwrap();
        }
        world.assert_clean();
    });
}

/// A repeated ADD that wants something else does not get the answer of the first.
#[test]
fn a_repeated_add_with_other_wishes() {
    private(|| {
        let mut world = World::new();
        let (ns, other) = (container(), container());
        let first = world.call(&request("ADD", "c1", &ns)).unwrap();
        assert_eq!(world.call(&request("ADD", "c1", &ns)).unwrap(), first);
        // The namespace by another path: the answer names that.
        let link = world.dir.path().join("ns");
        std::os::unix::fs::symlink(ns.path(), &link).unwrap();
        let mut by_link = request("ADD", "c1", &ns);
        link.to_str().unwrap().clone_into(&mut by_link.netns);
        let renamed = world.call(&by_link).unwrap();
        assert_eq!(renamed["interfaces"][1]["sandbox"], by_link.netns.as_str());
        assert_eq!(renamed["ips"], first["ips"]);
        let living = |world: &World| world.handler.attachments().next().unwrap().clone();
        let before = living(&world);
        assert_eq!(before.endpoint.netns, by_link.netns);
        for (key, value) in [
            ("mac", json!("02:00:00:00:00:99")),
            ("ips", json!(["10.32.4.9"])),
            ("ips", json!(["fd00:32::4:99"])),
        ] {
            let before = living(&world);
            let wish = with(request("ADD", "c1", &ns), "runtimeConfig", json!({ key: value }));
            let result = world.call(&wish).unwrap().to_string();
            let wanted = value.as_str().or_else(|| value[0].as_str()).unwrap();
            assert!(result.contains(wanted), "{result}");
            assert_ne!(living(&world).sequence, before.sequence);
            assert_eq!(world.call(&wish).unwrap().to_string(), result);
            world.assert_consistent();
        }
        // The container was made again with the same name.
        world.call(&request("ADD", "c1", &other)).unwrap();
        assert_eq!(living(&world).endpoint.netns, other.path().to_str().unwrap());
        ns.run(|| assert!(link::by_name(&mut Socket::route().unwrap(), "eth0").is_err()));
        world.assert_consistent();
        world.call(&request("DEL", "c1", &other)).unwrap();
        world.assert_clean();
    });
}

/// A port mapping leads from an address of the host, or is refused.
#[test]
fn port_mappings_of_addresses_that_the_host_does_not_have() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        addr::add(&mut Socket::route().unwrap(), 1, six, 128).unwrap();
        while !world.handler.attacher.is_own(six) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mapped = |ip: &str| {
            let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ip}]);
            with(request("ADD", "c1", &ns), "runtimeConfig", json!({"portMappings": mappings}))
        };
        for (ip, code) in [
            ("192.0.2.9", code::HOST_PORT_REFUSED),
            ("2001:db8::9", code::HOST_PORT_REFUSED),
            ("224.0.0.1", code::INVALID_CONFIG),
            ("255.255.255.255", code::INVALID_CONFIG),
            ("ff02::1", code::INVALID_CONFIG),
        ] {
            let error = world.call(&mapped(ip)).unwrap_err();
            assert!(error.code == code && error.msg.contains(ip) && error.msg.contains("8080"), "{error:?}");
            world.assert_clean();
        }
        for ip in ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1", "0.0.0.0", "::", ""] {
            world.call(&mapped(ip)).unwrap();
            world.call(&request("DEL", "c1", &ns)).unwrap();
        }
        // The administrator says that it may come later; and one that lives goes on.
        crate::netlink::sysctl::write("net/ipv4/ip_nonlocal_bind", "1").unwrap();
        let result = world.call(&mapped("192.0.2.9")).unwrap();
        crate::netlink::sysctl::write("net/ipv4/ip_nonlocal_bind", "0").unwrap();
        assert_eq!(world.call(&mapped("192.0.2.9")).unwrap(), result);
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

/// An interface with the name of a host end that is somebody else's is told of, and left alone.
#[test]
fn the_name_of_a_host_end_is_taken() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let mut socket = Socket::route().unwrap();
        let result = world.call(&request("ADD", "c1", &ns)).unwrap();
        let name = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
        link::create_veth(&mut socket, &name, "theirs", None).unwrap();
        let theirs = link::by_name(&mut socket, &name).unwrap();
        link::set_up(&mut socket, theirs.index).unwrap();
        let error = world.call(&request("ADD", "c1", &ns)).unwrap_err();
        assert!(error.code == code::ATTACH_FAILED && error.msg.contains(&name), "{error:?}");
        assert!(error.msg.contains("not slash32's"), "{error:?}");
        world.call(&request("DEL", "c1", &ns)).unwrap();
        let after = link::by_name(&mut socket, &name).unwrap();
        assert!(after.is_up() && after.index == theirs.index && after.group == theirs.group);
        link::delete(&mut socket, theirs.index).unwrap();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

/// A repeated ADD that asks for what it cannot have fails, and costs the living container nothing. Where that shows only when
/// it is made, the endpoint is made once more as it was.
#[test]
fn a_repeated_add_that_cannot_be() {
    private(|| {
        let mut world = World::new();
        addr::add(&mut Socket::route().unwrap(), 1, "fd00:99::1".parse().unwrap(), 128).unwrap();
        let (ns, other) = (container(), container());
        let ports = json!({"portMappings": [{"hostPort": 8099, "containerPort": 80, "protocol": "tcp"}]});
        let add = CniRequest {
            args: "S32_LABELS=role=web".into(),
            ..with(request("ADD", "c1", &ns), "runtimeConfig", ports)
        };
        let result = world.call(&add).unwrap();
        world.call(&request("ADD", "c2", &other)).unwrap();
        let of = |world: &World, id: &str| -> Attachment {
            world.handler.attachments().find(|a| a.endpoint.key.container_id == id).unwrap().clone()
        };
        let (mine, taken) = (of(&world, "c1"), of(&world, "c2").endpoint);
        // Connections in both families, from before anything is asked.
        let mut open: Vec<(TcpStream, TcpStream)> = mine
            .endpoint
            .addresses()
            .map(|addr| {
                let listener = ns.run(|| TcpListener::bind((addr, 0)).unwrap());
                let to = listener.local_addr().unwrap();
                let here = TcpStream::connect_timeout(&to, Duration::from_secs(20)).unwrap();
                here.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                (here, listener.accept().unwrap().0)
            })
            .collect();
        assert_eq!(open.len(), 2);
        let mut talks = |what: &str| {
            for (here, there) in &mut open {
                there.write_all(b"x").unwrap();
                here.read_exact(&mut [0]).expect(what);
            }
        };
        let asking = |ips: Value| with(add.clone(), "runtimeConfig", json!({ "ips": ips }));
        let nowhere = CniRequest { netns: "/run/netns/s32-nowhere".into(), ..add.clone() };
        let file = CniRequest { netns: "/dev/null".into(), ..add.clone() };
        let host_ip =
            json!([{"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "198.51.100.77"}]);
        for (what, wish, number) in [
            ("another's IPv4 address", asking(json!([taken.ipv4])), code::ADDRESS_REFUSED),
            ("another's IPv6 address", asking(json!([taken.ipv6])), code::ADDRESS_REFUSED),
            ("its own and another's", asking(json!([mine.endpoint.ipv4, taken.ipv6])), code::ADDRESS_REFUSED),
            ("outside of the pools", asking(json!(["10.77.0.1"])), code::ADDRESS_REFUSED),
            ("the host's own", asking(json!(["fd00:99::1"])), code::ADDRESS_REFUSED),
            ("two of a family", asking(json!(["10.32.4.8", "10.32.4.9"])), code::ADDRESS_REFUSED),
            ("no such pool", with(asking(json!(["10.32.4.9"])), "ipam", json!({"pools": ["x"]})), 7),
            ("no namespace", nowhere, 3),
            ("no namespace either", file, 8),
            ("no MAC", with(add.clone(), "runtimeConfig", json!({"mac": "nonsense"})), 7),
            ("no MTU", with(add.clone(), "mtu", json!("nonsense")), 7),
            (
                "a mapping of another host's address",
                with(
                    add.clone(),
                    "runtimeConfig",
                    json!({"mac": "02:00:00:00:00:09", "portMappings": host_ip}),
                ),
                code::HOST_PORT_REFUSED,
            ),
        ] {
            world.host.log.clear();
            let error = world.call(&wish).unwrap_err();
            assert_eq!(error.code, number, "{what}: {error:?}");
            assert_eq!(world.host.log, [] as [String; 0], "{what}: nothing is touched");
            assert_eq!(of(&world, "c1"), mine, "{what}");
            talks(what);
        }
        world.assert_consistent();
        // Only the kernel or policy says no: it is there again, as it was.
        let bad = with(asking(json!(["10.32.4.9"])), "sysctls", json!({"net.ipv4.no_such": "1"}));
        for (fail, wish) in [(None, bad), (Some("enforce"), asking(json!(["10.32.4.9"])))] {
            world.host.fail_once = fail;
            let error = world.call(&wish).unwrap_err();
            assert!(error.code == code::ATTACH_FAILED || error.code == code::POLICY_FAILED, "{error:?}");
            assert!(!error.details.contains("as it was"), "{error:?}");
            assert_eq!(of(&world, "c1"), mine);
            world.assert_consistent();
            talks("the same addresses, by the same gateway");
            world
                .call(&with(
                    CniRequest { command: "CHECK".into(), ..add.clone() },
                    "prevResult",
                    result.clone(),
                ))
                .unwrap();
        }
        // Not even that is possible: then it is said, and nothing is left.
        world.host.fail = Some("enforce");
        let error = world.call(&asking(json!(["10.32.4.9"]))).unwrap_err();
        assert!(error.details.contains("make the endpoint as it was: enforce was told to fail"), "{error:?}");
        world.host.fail = None;
        world.assert_consistent();
        // What another plugin gave is given back when ADD fails, so it does not stay.
        let given = |addr: &str| {
            let add = with(request("ADD", "c1", &ns), "ipam", json!({"type": "host-local"}));
            with(add, crate::cni::types::IPAM_RESULT_KEY, json!({"ips": [{"address": addr}]}))
        };
        world.call(&given("10.99.0.5/24")).unwrap();
        world.call(&given(&format!("{}/24", taken.ipv4.unwrap()))).unwrap_err();
        assert_eq!(world.handler.attachments().len(), 1);
        world.handler.finish();
        world.assert_consistent();
        world.call(&request("DEL", "c2", &other)).unwrap();
        world.assert_clean();
    });
}

/// What an endpoint owes to others and has from them outlives an ADD that cannot be: mappings that its sibling serves, and an
/// address that another host has by now.
#[test]
fn a_repeated_add_that_cannot_be_forgets_nothing() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let ports = json!({"portMappings": [{"hostPort": 8099, "containerPort": 80, "protocol": "tcp"}]});
        let first = with(request("ADD", "c1", &ns), "runtimeConfig", ports);
        let second = CniRequest { ifname: "net1".into(), ..with(first.clone(), "name", "other".into()) };
        world.call(&first).unwrap();
        world.call(&second).unwrap();
        let bad = |add: &CniRequest| {
            let mut bad = with(add.clone(), "sysctls", json!({"net.ipv4.no_such": "1"}));
            bad.stdin["runtimeConfig"]["mac"] = "02:00:00:00:00:42".into();
            bad
        };
        let of = |world: &World, ifname: &str| -> Attachment {
            world.handler.attachments().find(|a| a.endpoint.key.ifname == ifname).unwrap().clone()
        };
        for add in [&second, &first, &second] {
            assert_eq!(world.call(&bad(add)).unwrap_err().code, code::ATTACH_FAILED);
            world.assert_consistent();
            let serve: usize = ["eth0", "net1"].iter().map(|name| of(&world, name).port_mappings.len()).sum();
            let spare: usize =
                ["eth0", "net1"].iter().map(|name| of(&world, name).spare_mappings.len()).sum();
            assert_eq!((serve, spare), (1, 1));
        }
        // Its address goes elsewhere, and stays there.
        let moved = of(&world, "eth0").endpoint.ipv4.unwrap();
        world
            .handler
            .announced_elsewhere(&mut world.host, moved.into(), Some(u32::MAX), Now::read())
            .unwrap();
        assert_eq!(of(&world, "eth0").given_up, [IpAddr::from(moved)]);
        world.call(&bad(&first)).unwrap_err();
        assert_eq!(of(&world, "eth0").given_up, [IpAddr::from(moved)]);
        world.call(&first).unwrap();
        assert!(of(&world, "eth0").endpoint.ipv4.is_some_and(|addr| addr != moved));
        // A container that is gone: its name's next ADD says its own error only.
        let gone = NamedNetns::create("s32h").unwrap();
        world.call(&CniRequest { container_id: "c9".into(), ..request("ADD", "c9", &gone) }).unwrap();
        drop(gone);
        let next = container();
        let error = world.call(&bad(&request("ADD", "c9", &next))).unwrap_err();
        assert!(error.code == code::ATTACH_FAILED && !error.details.contains("as it was"), "{error:?}");
        for (name, ifname) in [("net", "eth0"), ("other", "net1")] {
            let del = with(request("DEL", "c1", &ns), "name", name.into());
            world.call(&CniRequest { ifname: ifname.into(), ..del }).unwrap();
        }
        world.assert_clean();
    });
}
