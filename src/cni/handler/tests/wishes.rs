//! ADD with wishes that differ, cannot be fulfilled, or are another plugin's to fulfil.

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
