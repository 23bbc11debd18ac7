//! Routes inside the container.

use super::*;

/// A bridge, say, was the container's first network and has the default route: it keeps it, and what is sent from our
/// address leaves by our interface.
#[test]
fn a_default_route_of_somebody_else_stays() {
    private(|| {
        let mut world = World::new();
        let (ns, far) = (container(), container());
        let ip = |line: &str| {
            let run = || std::process::Command::new("ip").args(line.split_whitespace()).output().unwrap();
            let output = ns.run(run);
            assert!(output.status.success(), "{line}: {output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        ip("link add other type veth peer name theirs");
        ip("link set other up");
        ip("link set theirs up");
        ip("addr add 10.200.0.2/24 dev other");
        ip("route add default via 10.200.0.1");
        ip("-6 route add default dev other metric 1024");
        let other = world.call(&request("ADD", "far", &far)).unwrap();
        let result = world.call(&request("ADD", "c1", &ns)).unwrap();
        world.call(&with(request("CHECK", "c1", &ns), "prevResult", result.clone())).unwrap();
        assert!(ip("route get 203.0.113.1").contains("dev other"));
        assert!(ip("-6 route get 2001:db8::1").contains("dev other"));
        for (own, theirs) in [(0, 0), (1, 1)] {
            let addr = |r: &Value, at: usize| {
                let text = r["ips"][at]["address"].as_str().unwrap();
                text.split('/').next().unwrap().to_owned()
            };
            let line = format!("route get {} from {}", addr(&other, theirs), addr(&result, own));
            let line = if own == 1 { format!("-6 {line}") } else { line };
            assert!(ip(&line).contains("dev eth0"), "{line}: {}", ip(&line));
        }
        world.call(&request("DEL", "c1", &ns)).unwrap();
        assert!(!ip("rule").contains("3201") && !ip("-6 rule").contains("3201"), "{}", ip("rule"));
        assert!(ip("route").contains("default via 10.200.0.1"));
        // A metric that the configuration gives is not replaced by another.
        let asked = json!([{"dst": "0.0.0.0/0", "priority": 0}]);
        let error = world.call(&with(request("ADD", "c1", &ns), "routes", asked)).unwrap_err();
        assert!(error.code == code::ATTACH_FAILED && error.msg.contains("IPv4 route"), "{error:?}");
        world.call(&request("DEL", "far", &far)).unwrap();
        world.assert_clean();
    });
}

/// `scope` of CNI 1.1.0: no gateway on the way.
#[test]
fn routes_on_the_link() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let routes = json!([{"dst": "10.3.0.0/16", "scope": 253}, {"dst": "10.4.0.0/16", "scope": 0}, {"dst": "fd00:3::/32", "scope": 253}]);
        let add = with(request("ADD", "c1", &ns), "routes", routes);
        let result = world.call(&add).unwrap();
        assert_eq!(
            result["routes"],
            json!([{"dst": "10.3.0.0/16", "scope": 253}, {"dst": "10.4.0.0/16", "gw": "169.254.1.1", "scope": 0},
                   {"dst": "fd00:3::/32", "scope": 253}])
        );
        let shown = ns.run(|| std::process::Command::new("ip").arg("route").output().unwrap().stdout);
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(shown.contains("10.3.0.0/16 dev eth0 proto static scope link"), "{shown}");
        assert!(shown.contains("10.4.0.0/16 via 169.254.1.1"), "{shown}");
        world.call(&with(request("CHECK", "c1", &ns), "prevResult", result)).unwrap();
        // Versions before do not have the key.
        let old = CniRequest { container_id: "c1".into(), ..with(add, "cniVersion", "1.0.0".into()) };
        assert_eq!(world.call(&old).unwrap()["routes"][0], json!({"dst": "10.3.0.0/16"}));
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}
