//! ADD, DEL, GC and their answers.

use super::*;
use crate::cni::types::REMOVED_KEY;

#[test]
fn the_life_of_a_container() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let result = world.call(&request("ADD", "c1", &ns)).unwrap();
        let id = EndpointId::of(&EndpointKey {
            network: "net".into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
        });
        assert_eq!(result["cniVersion"], "1.1.0");
        assert_eq!(result["interfaces"][0]["name"], id.as_str());
        assert_eq!(result["interfaces"][0].get("sandbox"), None);
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], ns.path().to_str().unwrap());
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(first_ip(&result), "10.32.4.0/32");
        assert_eq!(result["ips"][1]["address"], "fd00:32::4:1/128");
        assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
        assert_eq!(world.host.log, ["enforce net/c1/eth0", "announce net/c1/eth0"]);
        // What the result says is what the container has.
        let mac = ns.run(|| link::by_name(&mut Socket::route().unwrap(), "eth0").unwrap().address);
        let text = mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
        assert_eq!(result["interfaces"][1]["mac"], text);

        let check = with(request("CHECK", "c1", &ns), "prevResult", result.clone());
        world.call(&check).unwrap();
        assert_eq!(world.call(&request("CHECK", "c1", &ns)).unwrap_err().code, 7);
        assert_eq!(
            world.call(&with(request("CHECK", "c2", &ns), "prevResult", result.clone())).unwrap_err().code,
            3
        );
        world.call(&request("STATUS", "", &ns)).unwrap();

        // containerd: once with everything, once with nothing.
        world.host.log.clear();
        world.call(&with(request("DEL", "c1", &ns), "prevResult", result)).unwrap();
        assert_eq!(world.host.log, ["withdraw net/c1/eth0", "unenforce net/c1/eth0"]);
        let mut bare = request("DEL", "c1", &ns);
        bare.netns.clear();
        world.call(&bare).unwrap();
        world.assert_clean();
    });
}

#[test]
fn results_in_every_version() {
    private(|| {
        let mut world = World::new();
        for version in SpecVersion::ALL {
            let ns = container();
            let id = version.as_str();
            let add = with(request("ADD", id, &ns), "cniVersion", version.as_str().into());
            let result = world.call(&add).unwrap();
            assert_eq!(result["cniVersion"], version.as_str());
            assert_eq!(result.get("ip4").is_some(), version < SpecVersion::V0_3_0);
            let check = with(with(add.clone(), "prevResult", result.clone()), "x", Value::Null);
            let check = CniRequest { command: "CHECK".into(), ..check };
            match world.call(&check) {
                Ok(_) => assert!(version >= SpecVersion::V0_4_0),
                Err(error) => assert!(version < SpecVersion::V0_4_0 && error.code == 1, "{error:?}"),
            }
            world.call(&CniRequest { command: "DEL".into(), ..check }).unwrap();
        }
        world.assert_clean();
        let ns = container();
        for verb in ["GC", "STATUS"] {
            let old = with(request(verb, "", &ns), "cniVersion", "1.0.0".into());
            assert_eq!(world.call(&old).unwrap_err().code, 1);
        }
        assert_eq!(
            world.call(&with(request("ADD", "c", &ns), "cniVersion", "9.0".into())).unwrap_err().code,
            1
        );
        assert_eq!(world.call(&request("FROB", "c", &ns)).unwrap_err().code, 4);
        assert_eq!(world.call(&request("ADD", "../c", &ns)).unwrap_err().code, 4);
        let add = CniRequest { netns: String::new(), ..request("ADD", "c", &ns) };
        assert_eq!(world.call(&add).unwrap_err().code, 4);
        let add = CniRequest { netns: "/run/netns/s32-nowhere".into(), ..request("ADD", "c", &ns) };
        assert_eq!(world.call(&add).unwrap_err().code, 3);
        let add = CniRequest { netns: "/proc/thread-self/ns/net".into(), ..request("ADD", "c", &ns) };
        assert_eq!(world.call(&add).unwrap_err().code, 8);
        let add = with(request("ADD", "c", &ns), "prevResult", json!({"ips": [{"address": "10.0.0.1/24"}]}));
        assert_eq!(world.call(&add).unwrap_err().code, 7);
        world.assert_clean();
    });
}

#[test]
fn add_again_without_del() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let first = world.call(&request("ADD", "c1", &ns)).unwrap();
        world.host.log.clear();
        assert_eq!(world.call(&request("ADD", "c1", &ns)).unwrap(), first);
        assert_eq!(world.call(&request("ADD", "c1", &ns)).unwrap(), first);
        assert_eq!(world.host.log, Vec::<String>::new());
        // Broken: made anew, with the address it had.
        ns.run(|| link::set_down(&mut Socket::route().unwrap(), 2.max(eth0_index())).unwrap());
        let again = world.call(&request("ADD", "c1", &ns)).unwrap();
        assert_eq!(first_ip(&again), first_ip(&first));
        world.call(&with(request("CHECK", "c1", &ns), "prevResult", again)).unwrap();
        // The container was made anew with another namespace.
        let other = container();
        let moved = world.call(&request("ADD", "c1", &other)).unwrap();
        assert_eq!(first_ip(&moved), first_ip(&first));
        world.call(&with(request("CHECK", "c1", &other), "prevResult", moved)).unwrap();
        world.call(&request("DEL", "c1", &other)).unwrap();
        world.assert_clean();
    });
}

#[test]
fn failures_are_undone() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        for step in ["enforce", "announce"] {
            world.host.fail = Some(step);
            let error = world.call(&request("ADD", "c1", &ns)).unwrap_err();
            assert_eq!(error.msg, format!("{step} was told to fail"));
            world.host.fail = None;
            world.assert_clean();
        }
        // The kernel refuses.
        let bad = with(request("ADD", "c1", &ns), "sysctls", json!({"net.ipv4.no_such": "1"}));
        assert_eq!(world.call(&bad).unwrap_err().code, code::ATTACH_FAILED);
        world.assert_clean();
        // No file can be written: nothing is done at all.
        let folder = world.dir.path().join("endpoints");
        fs::remove_dir(&folder).unwrap();
        fs::write(&folder, "in its place").unwrap();
        world.host.log.clear();
        assert_eq!(world.call(&request("ADD", "c1", &ns)).unwrap_err().code, code::IO_FAILURE);
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        world.assert_clean();
        // The caller has gone.
        let request_gone = request("ADD", "c1", &ns);
        let answer = world.handler.handle(&mut world.host, &request_gone, &|| false, Now::read());
        assert!(matches!(answer, CniAnswer::Failure(f) if f.code == 11));
        world.assert_clean();
        // And all the same it works afterwards. Only what was announced has to rest.
        let usage = world.handler.ipam().usage(Instant::now());
        assert_eq!((usage[0].resting, usage[0].free), (1, 15));
        world.call(&request("ADD", "c1", &ns)).unwrap();
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

#[test]
fn a_del_that_fails_can_be_repeated() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        // The agent's side failing does not hold a DEL up.
        world.host.fail = Some("withdraw");
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.host.fail = None;
        world.assert_clean();
        // A configuration that ADD would refuse is no obstacle, and neither are strange arguments.
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let mut del = with(request("DEL", "c1", &ns), "mtu", "nonsense".into());
        del.args = "nonsense".into();
        world.call(&del).unwrap();
        world.assert_clean();
    });
}

#[test]
fn gc_knows_absent_from_empty() {
    private(|| {
        let mut world = World::new();
        let containers: Vec<_> = (0..4).map(|_| container()).collect();
        for (i, ns) in containers.iter().enumerate() {
            world.call(&request("ADD", &format!("c{i}"), ns)).unwrap();
        }
        let other = with(request("ADD", "c0", &containers[0]), "name", "other".into());
        world.call(&CniRequest { ifname: "net1".into(), ..other }).unwrap();
        let names = |world: &World| {
            let mut names: Vec<_> = world.handler.attachments().map(|a| a.endpoint.key.to_string()).collect();
            names.sort();
            names.join(" ")
        };
        let gc = request("GC", "", &containers[0]);
        world.call(&gc).unwrap();
        assert_eq!(world.handler.attachments().len(), 5);
        let doomed =
            world.handler.attachments().find(|a| a.endpoint.key.container_id == "c3").unwrap().ifindex;
        link::delete(&mut Socket::route().unwrap(), doomed).unwrap();
        world.call(&gc).unwrap();
        assert_eq!(names(&world), "net/c0/eth0 net/c1/eth0 net/c2/eth0 other/c0/net1");
        let valid = json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth7"}]);
        world.call(&with(gc.clone(), "cni.dev/valid-attachments", valid)).unwrap();
        assert_eq!(names(&world), "net/c1/eth0 other/c0/net1");
        world.call(&with(gc.clone(), "cni.dev/valid-attachments", json!([]))).unwrap();
        assert_eq!(names(&world), "other/c0/net1");
        world.call(&with(with(gc, "name", "other".into()), "cni.dev/valid-attachments", json!([]))).unwrap();
        world.assert_clean();
    });
}

/// Names of every length that is allowed, also where the kernel has less room for them.
#[test]
fn the_longest_names() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        for (network, id) in [(1, 255), (255, 1), (255, 255), (1, 240), (1, 236)] {
            let add = with(request("ADD", &"c".repeat(id), &ns), "name", Value::from("n".repeat(network)));
            let result = world.call(&add).unwrap();
            let check = CniRequest { command: "CHECK".into(), ..with(add.clone(), "prevResult", result) };
            world.call(&check).unwrap();
            let recovery = world.restart();
            assert_eq!((recovery.adopted, recovery.cleaned), (1, 0), "{network} {id}");
            world.call(&CniRequest { command: "DEL".into(), ..add }).unwrap();
            world.assert_clean();
        }
    });
}

/// A runtime gives all port mappings to every network of a container: the first serves them, then the next.
#[test]
fn port_mappings_of_a_container_with_two_networks() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let ports = json!({"portMappings": [{"hostPort": 8099, "containerPort": 80, "protocol": "tcp"}]});
        let first = with(request("ADD", "c1", &ns), "runtimeConfig", ports);
        let second = CniRequest { ifname: "net1".into(), ..with(first.clone(), "name", "other".into()) };
        world.call(&first).unwrap();
        let result = world.call(&second).unwrap();
        let serve = |world: &World| -> Vec<(String, usize, usize)> {
            let of = |a: &Attachment| {
                (a.endpoint.key.ifname.clone(), a.port_mappings.len(), a.spare_mappings.len())
            };
            let mut all: Vec<_> = world.handler.attachments().map(of).collect();
            all.sort();
            all
        };
        let both = [("eth0".to_owned(), 1, 0), ("net1".to_owned(), 0, 1)];
        assert_eq!(serve(&world), both);
        world.restart();
        assert_eq!(serve(&world), both);
        world.call(&CniRequest { command: "DEL".into(), ..first }).unwrap();
        for _ in 0..2 {
            assert_eq!(serve(&world), [("net1".to_owned(), 1, 0)]);
            world.restart();
        }
        let index = world.handler.attachments().next().unwrap().ifindex;
        let routes = std::process::Command::new("ip")
            .args(["-6", "route", "show", "table", "local"])
            .output()
            .unwrap();
        let name = link::list(&mut Socket::route().unwrap())
            .unwrap()
            .into_iter()
            .find(|l| l.index == index)
            .unwrap()
            .name;
        let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
        assert!(routes.contains(&format!("local ::1 dev {name}")), "{routes}");
        let check = CniRequest { command: "CHECK".into(), ..with(second.clone(), "prevResult", result) };
        world.call(&check).unwrap();
        world.call(&CniRequest { command: "DEL".into(), ..second }).unwrap();
        world.assert_clean();
    });
}

/// What another IPAM plugin gave to a container that went without a DEL is told to it by the next GC.
#[test]
fn gc_tells_of_what_went_without_a_del() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let given = json!({"ips": [{"address": "10.99.0.5/24"}]});
        let add = with(request("ADD", "c1", &ns), "ipam", json!({"type": "host-local"}));
        let add = with(add, crate::cni::types::IPAM_RESULT_KEY, given);
        let (gc, mut config) = (request("GC", "", &ns), add.stdin.clone());
        config.as_object_mut().unwrap().remove(crate::cni::types::IPAM_RESULT_KEY);
        let gone = json!([{"containerID": "c1", "ifname": "eth0", "config": config}]);
        let vanish = |world: &mut World| {
            let attachment = world.handler.attachments().next().unwrap().clone();
            link::delete(&mut Socket::route().unwrap(), attachment.ifindex).unwrap();
            world.handler.link_gone(&mut world.host, &attachment.endpoint.id, Now::read());
            let day = Duration::from_secs(86_400);
            let later = Now { mono: Instant::now() + day, wall: SystemTime::now() + day };
            world.handler.tick(&mut world.host, later);
        };
        world.call(&add).unwrap();
        vanish(&mut world);
        world.restart();
        assert_eq!(world.call(&gc).unwrap()[REMOVED_KEY], gone);
        assert_eq!(world.call(&gc).unwrap(), Value::Null);
        // It is there again, or its DEL has come.
        world.call(&add).unwrap();
        vanish(&mut world);
        world.call(&add).unwrap();
        assert_eq!(world.call(&gc).unwrap(), Value::Null);
        vanish(&mut world);
        let del = request("DEL", "c1", &ns);
        assert_eq!(world.call(&del).unwrap()[REMOVED_KEY], gone);
        // Our plugin has told it.
        world.call(&with(del, crate::cni::types::DONE_KEY, true.into())).unwrap();
        assert_eq!(world.call(&gc).unwrap(), Value::Null);
        world.assert_clean();
    });
}
