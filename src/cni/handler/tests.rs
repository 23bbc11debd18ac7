//! Every verb against the real kernel, with an agent that only takes notes.

use std::{
    collections::HashSet,
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::*;
use crate::{
    cni::{
        attach::prepare,
        fault::tests::{dying_at, points_of},
        ipam::PoolConfig,
        store::Tombstone,
        types::{NetConf, SpecVersion},
    },
    model::EndpointKey,
    netlink::{
        Socket, addr, link,
        ns::testing::{NamedNetns, private},
    },
};

/// An agent that notes what it is asked, and fails where it is told to.
#[derive(Debug, Default)]
struct Notes {
    log: Vec<String>,
    enforced: HashSet<EndpointId>,
    announced: HashSet<IpAddr>,
    fail: Option<&'static str>,
}

impl Notes {
    fn step(&mut self, what: &'static str, attachment: &Attachment) -> Result<(), CniError> {
        self.log.push(format!("{what} {}", attachment.endpoint.key));
        if self.fail == Some(what) {
            return Err(CniError::new(code::POLICY_FAILED, format!("{what} was told to fail")));
        }
        Ok(())
    }
}

impl Host for Notes {
    fn enforce(&mut self, a: &Attachment) -> Result<(), CniError> {
        self.step("enforce", a)?;
        self.enforced.insert(a.endpoint.id.clone());
        Ok(())
    }
    fn unenforce(&mut self, a: &Attachment) -> Result<(), CniError> {
        self.enforced.remove(&a.endpoint.id);
        self.step("unenforce", a)
    }
    fn announce(&mut self, a: &Attachment) -> Result<(), CniError> {
        self.step("announce", a)?;
        self.announced.extend(a.endpoint.addresses());
        Ok(())
    }
    fn withdraw(&mut self, a: &Attachment) -> Result<(), CniError> {
        for addr in a.endpoint.addresses() {
            self.announced.remove(&addr);
        }
        self.step("withdraw", a)
    }
    fn check(&mut self, a: &Attachment) -> Result<(), CniError> {
        self.step("check", a)
    }
}

/// A host with the handler, in the private namespace of the calling thread.
struct World {
    dir: tempfile::TempDir,
    handler: Handler,
    host: Notes,
}

fn config(dir: &Path) -> HandlerConfig {
    let pool = |cidr: &str, block: &str| PoolConfig {
        name: "default".into(),
        cidr: cidr.parse().unwrap(),
        blocks: vec![block.parse().unwrap()],
        exclude: vec![],
    };
    HandlerConfig {
        run_dir: dir.to_owned(),
        attach: AttachConfig::default(),
        ipam: IpamConfig {
            quarantine: Duration::from_secs(30),
            pools: vec![pool("10.32.0.0/16", "10.32.4.0/28"), pool("fd00:32::/64", "fd00:32::4:0/112")],
        },
        mtu: None,
        label_rules: vec![],
    }
}

impl World {
    fn new() -> Self {
        prepare::enable_forwarding().unwrap();
        addr::add(&mut Socket::route().unwrap(), 1, "192.0.2.1".parse().unwrap(), 32).unwrap();
        Self::on_prepared_host()
    }

    fn on_prepared_host() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut handler = Handler::start(config(dir.path())).unwrap();
        let mut host = Notes::default();
        assert_eq!(handler.recover(&mut host, Now::read()).unwrap(), Recovery::default());
        Self { dir, handler, host }
    }

    /// The agent dies and comes back.
    fn restart(&mut self) -> Recovery {
        self.handler = Handler::start(config(self.dir.path())).unwrap();
        self.host = Notes::default();
        self.handler.recover(&mut self.host, Now::read()).unwrap()
    }

    fn call_at(&mut self, now: Now, request: &CniRequest) -> Result<Value, CniFailure> {
        match self.handler.handle(&mut self.host, request, &|| true, now) {
            CniAnswer::Success(value) => Ok(value),
            CniAnswer::Failure(failure) => Err(failure),
        }
    }

    fn call(&mut self, request: &CniRequest) -> Result<Value, CniFailure> {
        self.call_at(Now::read(), request)
    }

    /// The agent is killed: no destructor runs.
    fn kill(&mut self) {
        let fresh = Handler::start(config(self.dir.path())).unwrap();
        std::mem::forget(std::mem::replace(&mut self.handler, fresh));
        self.host = Notes::default();
    }

    /// Leases, files, links and what the agent was told are about the same endpoints.
    fn assert_consistent(&mut self) {
        let addresses: HashSet<IpAddr> =
            self.handler.attachments().flat_map(|a| a.endpoint.addresses()).collect();
        let ids: HashSet<EndpointId> = self.handler.attachments().map(|a| a.endpoint.id.clone()).collect();
        assert_eq!(self.handler.ipam().leases().map(|(addr, _)| addr).collect::<HashSet<_>>(), addresses);
        assert_eq!(self.host.announced, addresses);
        assert_eq!(self.host.enforced, ids);
        let files = fs::read_dir(self.dir.path().join("endpoints")).unwrap().count();
        assert_eq!(files, ids.len());
        let links = self.handler.attacher.list_ours().unwrap();
        assert_eq!(links.into_iter().map(|e| e.id).collect::<HashSet<_>>(), ids);
        let routes = self.handler.attacher.host_routes().unwrap();
        assert_eq!(routes.into_iter().map(|(_, addr)| addr).collect::<HashSet<_>>(), addresses);
    }

    /// Nothing is left of anything.
    fn assert_clean(&mut self) {
        assert_eq!(self.handler.attachments().len(), 0);
        assert_eq!(self.handler.ipam().leases().count(), 0);
        assert_eq!((self.host.enforced.len(), self.host.announced.len()), (0, 0));
        assert_eq!(fs::read_dir(self.dir.path().join("endpoints")).unwrap().count(), 0);
        assert_eq!(self.handler.attacher.host_routes().unwrap(), []);
        self.handler.finish();
        let links = link::list(&mut Socket::route().unwrap()).unwrap();
        assert_eq!(links.iter().filter(|l| l.name.starts_with("s32")).count(), 0);
    }
}

fn request(command: &str, container: &str, ns: &NamedNetns) -> CniRequest {
    CniRequest {
        command: command.into(),
        container_id: container.into(),
        netns: ns.path().to_str().unwrap().into(),
        ifname: "eth0".into(),
        args: String::new(),
        path: String::new(),
        stdin: json!({"cniVersion": "1.1.0", "name": "net", "type": "slash32"}),
    }
}

fn with(mut request: CniRequest, key: &str, value: Value) -> CniRequest {
    request.stdin[key] = value;
    request
}

fn container() -> NamedNetns {
    NamedNetns::create("s32h").unwrap()
}

fn first_ip(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

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

fn eth0_index() -> u32 {
    link::by_name(&mut Socket::route().unwrap(), "eth0").unwrap().index
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
        fs::remove_dir(world.dir.path().join("endpoints")).unwrap();
        world.host.log.clear();
        assert_eq!(world.call(&request("ADD", "c1", &ns)).unwrap_err().code, code::IO_FAILURE);
        fs::create_dir(world.dir.path().join("endpoints")).unwrap();
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
fn addresses_rest_across_a_restart_and_run_out_clearly() {
    private(|| {
        let mut world = World::new();
        let containers: Vec<_> = (0..17).map(|_| container()).collect();
        for (i, ns) in containers.iter().take(16).enumerate() {
            world.call(&request("ADD", &format!("c{i}"), ns)).unwrap();
        }
        let one_more = request("ADD", "c16", &containers[16]);
        let error = world.call(&one_more).unwrap_err();
        assert_eq!(error.code, code::OUT_OF_ADDRESSES);
        assert!(error.msg.contains("10.32.4.0/28: 16 in use, 0 resting"), "{}", error.msg);
        let status = request("STATUS", "", &containers[0]);
        assert_eq!(world.call(&status).unwrap_err().code, 50);
        world.call(&request("DEL", "c3", &containers[3])).unwrap();
        assert_eq!(world.call(&one_more).unwrap_err().code, code::TRY_AGAIN_LATER);
        let recovery = world.restart();
        assert_eq!((recovery.adopted, recovery.cleaned), (15, 0));
        assert_eq!(world.call(&one_more).unwrap_err().code, code::TRY_AGAIN_LATER);
        let later = Now {
            mono: Instant::now() + Duration::from_secs(31),
            wall: SystemTime::now() + Duration::from_secs(31),
        };
        assert_eq!(first_ip(&world.call_at(later, &one_more).unwrap()), "10.32.4.3/32");
        world.handler.tick(&mut world.host, later);
        assert_eq!(fs::read_dir(world.dir.path().join("released")).unwrap().count(), 0);
    });
}

#[test]
fn a_restart_adopts_what_lives_and_cleans_what_does_not() {
    private(|| {
        let mut world = World::new();
        let (a, b, c, d, e) = (container(), container(), container(), container(), container());
        for (id, ns) in [("a", &a), ("b", &b), ("c", &c), ("d", &d), ("e", &e)] {
            let mut add = request("ADD", id, ns);
            add.args = "S32_LABELS=role=web".into();
            world.call(&add).unwrap();
        }
        let of = |world: &World, id: &str| {
            world.handler.attachments().find(|x| x.endpoint.key.container_id == id).unwrap().clone()
        };
        let [a0, b0, c0, d0, e0] = ["a", "b", "c", "d", "e"].map(|id| of(&world, id));
        // b is gone with its link; c has a tombstone; d's file is damaged; e's DEL was begun by the plugin.
        let mut socket = Socket::route().unwrap();
        link::delete(&mut socket, b0.ifindex).unwrap();
        Tombstone::leave(world.dir.path(), &c0.endpoint.key, SystemTime::now()).unwrap();
        fs::write(world.dir.path().join(format!("endpoints/{}.json", d0.endpoint.id)), "{\"endpo").unwrap();
        crate::cni::attach::retire(&mut socket, &e0.endpoint.id).unwrap();
        // A host route that somebody removed comes back.
        let key = crate::netlink::route::Key {
            prefix: crate::model::Prefix::host(a0.endpoint.ipv4.unwrap().into()),
            table: 254,
            protocol: 32,
            metric: 0,
        };
        let mut batch = netlink::Batch::new();
        crate::netlink::route::push_delete(&mut batch, &key, crate::netlink::route::RouteKind::Unicast, None);
        socket.execute(&mut batch).unwrap();

        let recovery = world.restart();
        assert_eq!((recovery.adopted, recovery.cleaned), (2, 3), "{recovery:?}");
        assert_eq!(recovery.rebuilt, std::slice::from_ref(&d0.endpoint.id));
        assert_eq!(recovery.problems.len(), 1, "{recovery:?}");
        assert_eq!(of(&world, "a"), a0);
        // Where its namespace is, the first CHECK tells.
        let told = d0.result().to_json(SpecVersion::LATEST);
        world.call(&with(request("CHECK", "d", &e), "prevResult", told.clone())).unwrap_err();
        world.call(&with(request("CHECK", "d", &d), "prevResult", told)).unwrap();
        assert_eq!(of(&world, "d").netns_id, d0.netns_id);
        let rebuilt = of(&world, "d");
        assert_eq!(
            (rebuilt.endpoint.ipv4, rebuilt.endpoint.key.clone()),
            (d0.endpoint.ipv4, d0.endpoint.key.clone())
        );
        assert_eq!(world.handler.attacher.check(&a0).unwrap(), []);
        assert_eq!(world.host.announced.len(), 4);
        assert_eq!(world.handler.ipam().leases().count(), 4);
        assert_eq!(world.handler.ipam().resting(Instant::now()).len(), 6);
        assert_eq!(fs::read_dir(world.dir.path().join("tombstones")).unwrap().count(), 0);
        // Nothing changes when nothing happened, and the runtime can still delete everything.
        let recovery = world.restart();
        assert_eq!((recovery.adopted, recovery.cleaned, recovery.problems.len()), (2, 0, 0));
        for (id, ns) in [("a", &a), ("b", &b), ("c", &c), ("d", &d), ("e", &e)] {
            world.call(&request("DEL", id, ns)).unwrap();
        }
        world.assert_clean();
    });
}

#[test]
fn what_fails_at_start_is_tried_again() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        world.handler = Handler::start(config(world.dir.path())).unwrap();
        world.host = Notes { fail: Some("announce"), ..Notes::default() };
        let recovery = world.handler.recover(&mut world.host, Now::read()).unwrap();
        assert_eq!((recovery.adopted, recovery.problems.len()), (1, 1));
        world.handler.tick(&mut world.host, Now::read());
        assert_eq!(world.host.announced.len(), 0);
        world.host.fail = None;
        world.handler.tick(&mut world.host, Now::read());
        assert_eq!(world.host.announced.len(), 2);
        world.host.log.clear();
        world.handler.tick(&mut world.host, Now::read());
        assert!(world.host.log.is_empty());
    });
}

#[test]
fn a_late_tombstone_is_honoured_and_not_twice() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let key = world.handler.attachments().next().unwrap().endpoint.key.clone();
        // The agent hung; the plugin gave up waiting. Then the agent did the DEL after all, and a new ADD came.
        Tombstone::leave(world.dir.path(), &key, SystemTime::now()).unwrap();
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        world.handler.tick(&mut world.host, Now::read());
        assert_eq!(world.handler.attachments().len(), 1);
        Tombstone::leave(world.dir.path(), &key, SystemTime::now()).unwrap();
        world.handler.tick(&mut world.host, Now::read());
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

#[test]
fn a_namespace_that_dies_releases_its_address() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let attachment = world.handler.attachments().next().unwrap().clone();
        world.handler.link_gone(&mut world.host, &attachment.endpoint.id, Now::read());
        assert_eq!(world.handler.attachments().len(), 1, "it is alive");
        world.handler.tick(&mut world.host, Now::read());
        assert_eq!(world.handler.attachments().len(), 1, "it is alive");
        link::delete(&mut Socket::route().unwrap(), attachment.ifindex).unwrap();
        let later = Now { mono: Instant::now() + LOOK, wall: SystemTime::now() };
        world.handler.tick(&mut world.host, later);
        world.assert_clean();
        // Whoever wants its address does not have to wait until somebody looks; only for the address to rest.
        let taken = attachment.endpoint.ipv6.unwrap();
        world.call(&with(request("ADD", "c2", &ns), "runtimeConfig", json!({"ips": [taken]}))).unwrap();
        let other = container();
        let add = with(request("ADD", "c3", &other), "runtimeConfig", json!({"ips": [taken]}));
        assert_eq!(world.call(&add).unwrap_err().code, code::ADDRESS_REFUSED);
        let gone = world.handler.attachments().next().unwrap().ifindex;
        link::delete(&mut Socket::route().unwrap(), gone).unwrap();
        assert!(world.call(&add).unwrap()["ips"].to_string().contains(&format!("{taken}/128")));
        world.call(&request("DEL", "c3", &other)).unwrap();
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
        world.restart();
        assert_eq!(world.handler.attachment(&id).unwrap().endpoint.labels.to_string(), "role=web");
        world.handler.set_labels(&mut world.host, &id, &Labels::new(), &["role".into()]).unwrap();
        assert!(world.handler.attachment(&id).unwrap().endpoint.labels.is_empty());
        let unknown = EndpointId("s32x".into());
        assert_eq!(world.handler.set_labels(&mut world.host, &unknown, &set, &[]).unwrap_err().code, 3);
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

/// The agent is killed at every step of ADD, and of DEL. After its return everything fits together, whether the
/// runtime then sends DEL, or repeats what it did.
#[test]
fn killed_at_every_step() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let (add, del) = (request("ADD", "c1", &ns), request("DEL", "c1", &ns));
        let add_points = points_of(|| world.call(&add).unwrap());
        let del_points = points_of(|| world.call(&del).unwrap());
        world.assert_clean();
        assert!(add_points.len() >= 8 && del_points.len() >= 5, "{add_points:?} {del_points:?}");
        for verb in [&add, &del] {
            let points = if verb.command == "ADD" { &add_points } else { &del_points };
            for point in points {
                for next in [&add, &del] {
                    // A new host each time, so that addresses are never short.
                    let mut world = World::on_prepared_host();
                    if verb.command == "DEL" {
                        world.call(&add).unwrap();
                    }
                    let died = dying_at(point, || world.call(verb)).is_none();
                    assert!(died, "{point} was not reached");
                    world.kill();
                    let recovery = world.handler.recover(&mut world.host, Now::read()).unwrap();
                    assert_eq!(recovery.problems, [] as [String; 0], "{point}");
                    world.assert_consistent();
                    let result = world.call(next).unwrap();
                    if next.command == "ADD" {
                        world.assert_consistent();
                        world.call(&with(request("CHECK", "c1", &ns), "prevResult", result)).unwrap();
                        world.call(&del).unwrap();
                    }
                    world.assert_clean();
                }
            }
        }
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
        world.handler.no_longer_elsewhere(v4, now);
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
