//! CHECK and the audit: what was altered is found, and what is on the host repaired.

use super::*;

/// What CHECK must find: it names each, and passes again when it is put right.
#[test]
fn check_finds_what_was_altered() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let limits = json!({"bandwidth": {"ingressRate": 8_000_000, "egressRate": 4_000_000}});
        let add = with(request("ADD", "c1", &ns), "runtimeConfig", limits);
        let result = world.call(&add).unwrap();
        let host_end = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        let mac = result["interfaces"][1]["mac"].as_str().unwrap().to_owned();
        let check = with(request("CHECK", "c1", &ns), "prevResult", result.clone());
        world.call(&check).unwrap();
        let sh = |inside: bool, line: &str| {
            let line = line.replace("HOST", &host_end).replace("MAC", &mac);
            let run = || std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            let output = if inside { ns.run(run) } else { run() };
            assert!(output.status.success(), "{line}: {output:?}");
        };
        // The container's route to its gateway goes with the carrier, so what undoes it also does that.
        let down = "ip link set eth0 up; ip route replace 169.254.1.1 dev eth0; ip route replace default via 169.254.1.1";
        for (inside, alter, undo, told) in [
            (
                true,
                "ip link set eth0 address 02:00:00:00:00:55",
                "ip link set eth0 address MAC",
                "changed MAC",
            ),
            (true, "ip link set eth0 mtu 9000", "ip link set eth0 mtu 1500", "has MTU 9000, not 1500"),
            (
                true,
                "ip route replace default via 169.254.1.9 dev eth0 onlink",
                "ip route replace default via 169.254.1.1 dev eth0 onlink",
                "route to 0.0.0.0/0",
            ),
            (
                true,
                "ip route del default",
                "ip route add default via 169.254.1.1 dev eth0 onlink",
                "route to 0.0.0.0/0",
            ),
            (
                true,
                "ip addr del 10.32.4.0/32 dev eth0",
                "ip addr add 10.32.4.0/32 dev eth0",
                "the address 10.32.4.0",
            ),
            (true, "tc qdisc del dev eth0 root", "", "limit from the container"),
            (false, "ip link set HOST mtu 1300", "ip link set HOST mtu 1500", "changed MTU"),
            (false, "tc qdisc del dev HOST root", "", "limit towards the container"),
        ] {
            sh(inside, alter);
            let error = world.call(&check).unwrap_err();
            assert_eq!(error.code, code::CHECK_FAILED, "{alter}");
            assert!(error.details.contains(told), "{alter}: {}", error.details);
            if undo.is_empty() {
                let dev = if inside { "eth0" } else { "HOST" };
                let rate = if inside { "4mbit" } else { "8mbit" };
                sh(inside, &format!("tc qdisc add dev {dev} root tbf rate {rate} burst 20kb latency 25ms"));
            } else {
                sh(inside, undo);
            }
            if alter.starts_with("ip addr del") {
                sh(true, down);
            }
            world.call(&check).unwrap_or_else(|e| panic!("{alter}: {}", e.details));
        }
        // Another rate is another limit.
        sh(false, "tc qdisc replace dev HOST root tbf rate 9mbit burst 20kb latency 25ms");
        sh(false, "ip link set HOST mtu 1300");
        assert!(world.call(&check).unwrap_err().details.contains("limit towards the container"));
        // What is on the host is repaired.
        let problems = world.handler.audit(&mut world.host, true, Now::read()).unwrap();
        assert!(problems.len() == 2 && problems.iter().all(|p| p.fixed), "{problems:?}");
        world.call(&check).unwrap();
        // A chained plugin has changed the MAC, and its result says so.
        sh(true, "ip link set eth0 address 02:00:00:00:00:55");
        let mut told = result;
        told["interfaces"][1]["mac"] = "02:00:00:00:00:55".into();
        world.call(&with(request("CHECK", "c1", &ns), "prevResult", told)).unwrap();
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

#[test]
fn audit_finds_and_repairs() {
    private(|| {
        let mut world = World::new();
        let (a, b) = (container(), container());
        world.call(&request("ADD", "a", &a)).unwrap();
        world.call(&request("ADD", "b", &b)).unwrap();
        let now = Now::read();
        assert_eq!(world.handler.audit(&mut world.host, false, now).unwrap(), []);
        let of = |world: &World, id: &str| {
            world.handler.attachments().find(|x| x.endpoint.key.container_id == id).unwrap().clone()
        };
        let (a0, b0) = (of(&world, "a"), of(&world, "b"));
        let mut socket = Socket::route().unwrap();
        link::delete(&mut socket, a0.ifindex).unwrap();
        link::set_down(&mut socket, b0.ifindex).unwrap();
        world.handler.ipam.adopt(&EndpointId("s32gone".into()), "10.32.4.9".parse().unwrap()).unwrap();
        let mut kinds: Vec<_> =
            world.handler.audit(&mut world.host, false, now).unwrap().iter().map(|p| p.kind).collect();
        kinds.dedup();
        assert_eq!(kinds, [ProblemKind::Leaked, ProblemKind::Changed, ProblemKind::StrayLease]);
        let problems = world.handler.audit(&mut world.host, true, now).unwrap();
        assert!(problems.iter().all(|p| p.fixed), "{problems:?}");
        assert_eq!(world.handler.audit(&mut world.host, false, now).unwrap(), []);
        // Files: one lost, one left over.
        let kept = world.handler.attachments().next().unwrap().endpoint.id.clone();
        let file = |id: &EndpointId| world.dir.path().join(format!("endpoints/{id}.json"));
        let stray = EndpointId("s32ffffffffffff".to_owned());
        std::fs::rename(file(&kept), file(&stray)).unwrap();
        let problems = world.handler.audit(&mut world.host, true, now).unwrap();
        let kinds: Vec<_> = problems.iter().map(|p| p.kind).collect();
        assert_eq!(kinds, [ProblemKind::MissingFile, ProblemKind::StrayFile]);
        assert!(file(&kept).exists() && !file(&stray).exists());
        assert_eq!(world.handler.audit(&mut world.host, false, now).unwrap(), []);
        assert_eq!(world.handler.attacher.check(&b0).unwrap(), []);
    });
}
