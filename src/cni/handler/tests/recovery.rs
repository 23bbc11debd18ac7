//! Restarts, crashes, and containers that vanish.

use std::process::Command;

use super::*;

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

/// Somebody removes the run directory while the agent runs.
#[test]
fn files_that_were_all_removed_are_written_again() {
    private(|| {
        let mut world = World::new();
        let (one, two) = (container(), container());
        let mut add = request("ADD", "c1", &one);
        add.args = "S32_LABELS=role=web".into();
        world.call(&add).unwrap();
        let elsewhere = "10.32.4.9".parse().unwrap();
        world.handler.announced_elsewhere(&mut world.host, elsewhere, Some(7), Now::read()).unwrap();
        fs::remove_dir_all(world.dir.path()).unwrap();
        // Before anybody has noticed.
        world.call(&request("ADD", "c2", &two)).unwrap();
        world.handler.tick(&mut world.host, Now::read());
        world.assert_consistent();
        let recovery = world.restart();
        assert_eq!((recovery.adopted, recovery.rebuilt, recovery.problems), (2, vec![], vec![]));
        let web = world.handler.attachments().find(|a| a.endpoint.key.container_id == "c1").unwrap();
        assert_eq!(web.endpoint.labels.iter().count(), 1);
        assert!(world.handler.ipam().elsewhere().any(|addr| addr == elsewhere));
        let copies = fs::read_dir(world.dir.path().join("copies")).unwrap().count();
        assert_eq!(copies, 2);
        world.call(&request("DEL", "c1", &one)).unwrap();
        world.call(&request("DEL", "c2", &two)).unwrap();
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
        let later = Now { mono: Instant::now() + Duration::from_secs(15), wall: SystemTime::now() };
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

/// Without a list of what lives, addresses of living containers could be given again: one that is refused is asked for once
/// more, and without any the agent does not start.
#[test]
fn a_kernel_that_does_not_answer_at_the_start() {
    private(|| {
        let mut world = World::new();
        let (one, two) = (container(), container());
        let result = world.call(&request("ADD", "c1", &one)).unwrap();
        failing("list-links", 2);
        assert_eq!(world.restart().adopted, 1);
        world.assert_consistent();
        world.kill();
        failing("list-links", usize::MAX);
        let error = world.handler.recover(&mut world.host, Now::read()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read which containers live"), "{error}");
        failing("list-links", 0);
        assert_eq!(world.restart().adopted, 1);
        let other = world.call(&request("ADD", "c2", &two)).unwrap();
        assert_ne!(result["ips"], other["ips"]);
        world.assert_consistent();
    });
}

/// A route to a host end for an address that its endpoint does not have.
#[test]
fn a_route_that_leads_to_somebody_else() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let index = world.handler.attachments().next().unwrap().ifindex;
        let AttachConfig { table, protocol, metric } = AttachConfig::default();
        let mut batch = netlink::Batch::new();
        for address in ["10.32.4.9", "fd00:32::4:9"] {
            let prefix = Prefix::host(address.parse().unwrap());
            let key = route::Key { prefix, table, protocol, metric: metric + 7 };
            route::push(&mut batch, &key, route::Target::Device(index), route::Mode::Create);
        }
        Socket::route().unwrap().execute(&mut batch).unwrap();
        let mut audit = |fix| world.handler.audit(&mut world.host, fix, Now::read()).unwrap();
        for fix in [false, true] {
            let found = audit(fix);
            assert_eq!(found.len(), 2, "{found:?}");
            assert!(found.iter().all(|p| p.kind == ProblemKind::StrayRoute && p.fixed == fix), "{found:?}");
        }
        assert_eq!(audit(false), []);
        world.assert_consistent();
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

/// An endpoint whose file was lost is told of until it has labels again, or is gone; a file that is lost while the agent
/// runs is written again.
#[test]
fn a_lost_file_is_told_of() {
    private(|| {
        let mut world = World::new();
        let (a, b) = (container(), container());
        for (id, ns) in [("a", &a), ("b", &b)] {
            world.call(&request("ADD", id, ns)).unwrap();
        }
        let ids: Vec<EndpointId> = world.handler.attachments().map(|x| x.endpoint.id.clone()).collect();
        let dir = world.dir.path().join("endpoints");
        let copies = world.dir.path().join("copies");
        let remove_files = || {
            for id in &ids {
                fs::remove_file(dir.join(format!("{id}.json"))).unwrap();
            }
            for copy in fs::read_dir(&copies).unwrap() {
                fs::remove_file(copy.unwrap().path()).unwrap();
            }
        };
        let later = Now { mono: Instant::now() + Duration::from_secs(15), wall: SystemTime::now() };
        world.handler.tick(&mut world.host, later);
        world.assert_consistent();
        world.restart();
        assert_eq!(world.handler.attention(), []);
        let told = |world: &World| -> Vec<_> {
            world.handler.attention().into_iter().map(|x| (x.kind, x.endpoint)).collect()
        };
        let each = |kinds: &[AttentionKind]| -> Vec<_> {
            ids.iter().flat_map(|id| kinds.iter().map(|kind| (*kind, id.clone()))).collect()
        };
        // The kernel tells that they have no labels; under an older agent it did not.
        remove_files();
        world.restart();
        assert_eq!(told(&world), each(&[AttentionKind::Rebuilt]));
        world.handler.attachments().for_each(older_alias);
        fs::remove_dir_all(&dir).unwrap();
        for _ in 0..2 {
            world.restart();
            assert_eq!(told(&world), each(&[AttentionKind::Rebuilt, AttentionKind::LabelsUnknown]));
        }
        world.handler.set_labels(&mut world.host, &ids[0], &Labels::new(), &["none".into()]).unwrap();
        world.restart();
        assert_eq!(world.handler.attention().len(), 2);
        // A CHECK that names labels gives them back, and so does a repeated ADD.
        let left = world.handler.attachment(&ids[1]).unwrap();
        let (id, result) =
            (left.endpoint.key.container_id.clone(), left.result().to_json(SpecVersion::LATEST));
        let ns = if id == "a" { &a } else { &b };
        let named = |verb: &str| CniRequest { args: "S32_LABELS=role=web".into(), ..request(verb, &id, ns) };
        let mut told = result;
        told["interfaces"][1]["sandbox"] = ns.path().to_str().unwrap().into();
        world.call(&with(named("CHECK"), "prevResult", told)).unwrap();
        let labels = |world: &World| world.handler.attachment(&ids[1]).unwrap().endpoint.labels.to_string();
        assert_eq!((labels(&world), world.handler.attention().len()), ("role=web".to_owned(), 0));
        world.handler.attachments().for_each(older_alias);
        fs::remove_file(dir.join(format!("{}.json", ids[1]))).unwrap();
        world.restart();
        assert_eq!((labels(&world), world.handler.attention().len()), (String::new(), 2));
        world.call(&named("ADD")).unwrap();
        assert_eq!((labels(&world), world.handler.attention().len()), ("role=web".to_owned(), 0));
        world.assert_consistent();
        for (id, ns) in [("a", &a), ("b", &b)] {
            world.call(&request("DEL", id, ns)).unwrap();
        }
        assert_eq!(world.handler.attention(), []);
        world.assert_clean();
    });
}

/// Writes the alias as agents did that told nothing of labels.
fn older_alias(attachment: &Attachment) {
    let endpoint = &attachment.endpoint;
    let done = Command::new("ip")
        .args(["link", "set", endpoint.id.as_str(), "alias", &format!("slash32:{}", endpoint.key)])
        .status();
    assert!(done.unwrap().success());
}

/// The kernel keeps labels and `anycast` of an endpoint that lost its file and the copy of it, as they were last.
#[test]
fn the_kernel_tells_of_labels() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let add = CniRequest {
            args: "S32_LABELS=role=web".into(),
            ..with(request("ADD", "c1", &ns), "anycast", true.into())
        };
        let result = world.call(&add).unwrap();
        let lose = |world: &mut World| {
            fs::remove_dir_all(world.dir.path()).unwrap();
            world.restart();
            let attachment = world.handler.attachments().next().unwrap().clone();
            let kinds: Vec<_> = world.handler.attention().into_iter().map(|told| told.kind).collect();
            (attachment.endpoint.labels.to_string(), attachment.anycast, attachment.rebuilt, kinds)
        };
        let whole = |labels: &str| (labels.to_owned(), true, true, vec![AttentionKind::Rebuilt]);
        assert_eq!(lose(&mut world), whole("role=web"));
        let id = world.handler.attachments().next().unwrap().endpoint.id.clone();
        let labels = Labels::try_from([("env", "a,b"), ("role", "db")]).unwrap();
        world.handler.set_labels(&mut world.host, &id, &labels, &[]).unwrap();
        assert_eq!(world.handler.attention(), []);
        assert_eq!(lose(&mut world), whole("env=a,b,role=db"));
        // A CHECK comes with the labels of ADD, which are older.
        let check = CniRequest { command: "CHECK".into(), ..with(add, "prevResult", result) };
        world.call(&check).unwrap();
        assert_eq!(world.handler.attachment(&id).unwrap().endpoint.labels, labels);
        assert_eq!(world.handler.attention(), []);
        // An alias that an agent before wrote is put right without being counted as somebody's change.
        older_alias(world.handler.attachment(&id).unwrap());
        world.restart();
        assert_eq!(world.handler.mended(), 0);
        assert_eq!(lose(&mut world), whole("env=a,b,role=db"));
        // More than the kernel has room for.
        let long = Labels::try_from([("long", "x".repeat(250))]).unwrap();
        world.handler.set_labels(&mut world.host, &id, &long, &["env".into()]).unwrap();
        world.handler.mend_all();
        assert_eq!(world.handler.mended(), 0);
        let unknown = vec![AttentionKind::Rebuilt, AttentionKind::LabelsUnknown];
        assert_eq!(lose(&mut world), (String::new(), true, true, unknown));
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

/// CHECK of the second network of a container whose file was lost: its gateway is not the first one.
#[test]
fn a_lost_file_of_a_second_network() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let second =
            CniRequest { ifname: "net1".into(), ..with(request("ADD", "c1", &ns), "name", "other".into()) };
        let result = world.call(&second).unwrap();
        assert_eq!(result["ips"][0]["gateway"], "169.254.1.2");
        let files = fs::read_dir(world.dir.path().join("endpoints")).unwrap();
        files.for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
        assert_eq!(world.restart().rebuilt.len(), 2);
        let check = CniRequest { command: "CHECK".into(), ..with(second.clone(), "prevResult", result) };
        for _ in 0..2 {
            world.call(&check).unwrap();
        }
        world.call(&CniRequest { command: "DEL".into(), ..second }).unwrap();
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

/// Without its file nobody knows which rules ADD has made in the container, nor where that is, until DEL says so.
#[test]
fn rules_in_the_container_go_with_an_endpoint_that_lost_its_file() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        world.call(&request("ADD", "c1", &ns)).unwrap();
        let named = |command: &str, name: &str, ifname: &str| CniRequest {
            ifname: ifname.into(),
            ..with(request(command, "c1", &ns), "name", name.into())
        };
        for (name, ifname) in [("other", "net1"), ("third", "net2")] {
            world.call(&named("ADD", name, ifname)).unwrap();
        }
        let rules = || {
            let list = |family| netlink::rule::list(&mut Socket::route().unwrap(), family).unwrap();
            let tables = || Family::ALL.into_iter().flat_map(list).filter_map(|rule| rule.table());
            ns.run(|| tables().filter(|table| (3201..3456).contains(table)).collect::<Vec<_>>())
        };
        assert_eq!(rules(), [3202, 3203, 3202, 3203]);
        let files = fs::read_dir(world.dir.path().join("endpoints")).unwrap();
        files.for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
        assert_eq!(world.restart().rebuilt.len(), 3);
        // Another namespace is not believed.
        let elsewhere = container();
        world
            .call(&CniRequest {
                netns: elsewhere.path().to_str().unwrap().into(),
                ..named("DEL", "net", "eth0")
            })
            .unwrap();
        world.call(&named("DEL", "other", "net1")).unwrap();
        assert_eq!(rules(), [3203, 3203], "those of the third network stay");
        world.call(&named("DEL", "third", "net2")).unwrap();
        assert_eq!(rules(), [0; 0]);
        world.assert_clean();
    });
}

/// What is not possible any more does not keep an endpoint from being taken up.
#[test]
fn a_mapping_that_is_refused_now() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let ports = json!({"portMappings": [{"hostPort": 9179, "containerPort": 80, "protocol": "tcp"}]});
        let result = world.call(&with(request("ADD", "c1", &ns), "runtimeConfig", ports)).unwrap();
        let check = with(request("CHECK", "c1", &ns), "prevResult", result);
        world.handler = Handler::start(config(world.dir.path())).unwrap();
        world.host = Notes { unmapped: vec!["reserved".into()], ..Notes::default() };
        let recovery = world.handler.recover(&mut world.host, Now::read()).unwrap();
        assert_eq!((recovery.adopted, recovery.problems.len()), (1, 0));
        world.assert_consistent();
        let told = world.handler.attention();
        assert!(told.len() == 1 && told[0].kind == AttentionKind::HostPort, "{told:?}");
        assert!(told[0].text.ends_with("reserved"), "{told:?}");
        assert!(world.call(&check).unwrap_err().details.contains("reserved"));
        world.host.unmapped.clear();
        let later = Now { mono: Instant::now() + Duration::from_secs(15), wall: SystemTime::now() };
        world.handler.tick(&mut world.host, later);
        assert_eq!(world.handler.attention(), []);
        world.call(&check).unwrap();
        world.host.unmapped.push("taken".into());
        world.handler.host_ports_changed(&mut world.host);
        assert_eq!(world.handler.attention().len(), 1);
        world.call(&request("DEL", "c1", &ns)).unwrap();
        assert_eq!(world.handler.attention(), []);
        world.assert_clean();
    });
}

/// Routes of a `local_metric` from before do not stay beside those of the new one, and names that the kernel has no room
/// for do not cost a container its life when its file is lost.
#[test]
fn another_metric_and_long_names_after_a_restart() {
    private(|| {
        let mut world = World::new();
        let ns = container();
        let add = with(request("ADD", &"c".repeat(255), &ns), "name", Value::from("n".repeat(255)));
        let result = world.call(&add).unwrap();
        for metric in [5, 1] {
            let mut config = config(world.dir.path());
            config.attach.metric = metric;
            world.handler = Handler::start(config).unwrap();
            world.host = Notes::default();
            world.handler.recover(&mut world.host, Now::read()).unwrap();
            assert_eq!(world.handler.attacher.host_routes().unwrap().len(), 2);
        }
        let id = world.handler.attachments().next().unwrap().endpoint.id.clone();
        fs::remove_file(world.dir.path().join(format!("endpoints/{id}.json"))).unwrap();
        let recovery = world.restart();
        assert_eq!((recovery.adopted, recovery.cleaned, recovery.rebuilt.len()), (1, 0, 1));
        world
            .call(&CniRequest { command: "CHECK".into(), ..with(add.clone(), "prevResult", result) })
            .unwrap();
        assert_eq!(world.handler.attachment(&id).unwrap().endpoint.key.container_id.len(), 255);
        world.assert_consistent();
        world.call(&CniRequest { command: "DEL".into(), ..add }).unwrap();
        world.assert_clean();
    });
}

/// A copy of an earlier incarnation, with other addresses and another namespace, says nothing of the one that lives.
#[test]
fn a_copy_of_an_earlier_one_does_not_count() {
    private(|| {
        let mut world = World::new();
        let (before, now) = (container(), container());
        world.call(&request("ADD", "c1", &before)).unwrap();
        world.handler.tick(&mut world.host, Now::read());
        let add = with(request("ADD", "c1", &now), "runtimeConfig", json!({"ips": ["10.32.4.9"]}));
        world.call(&add).unwrap();
        let living = world.handler.attachments().next().unwrap().clone();
        let file = world.dir.path().join(format!("endpoints/{}.json", living.endpoint.id));
        fs::remove_file(file).unwrap();
        assert!(world.dir.path().join(format!("copies/{}.json", living.endpoint.id)).exists());
        assert_eq!(world.restart().rebuilt.len(), 1);
        let known = world.handler.attachments().next().unwrap();
        assert_eq!((known.ifindex, known.endpoint.ipv4), (living.ifindex, living.endpoint.ipv4));
        world.assert_consistent();
        world.call(&request("DEL", "c1", &now)).unwrap();
        world.assert_clean();
    });
}

/// A file that is lost or damaged has a copy: nothing is lost.
#[test]
fn a_lost_file_has_a_copy() {
    private(|| {
        let mut world = World::new();
        let (a, b, c) = (container(), container(), container());
        for (id, ns) in [("a", &a), ("b", &b), ("c", &c)] {
            let ports = json!({"portMappings": [{"hostPort": 8099, "containerPort": 80, "protocol": "tcp"}]});
            let labelled = CniRequest { args: "S32_LABELS=role=web".into(), ..request("ADD", id, ns) };
            world.call(&with(labelled, "runtimeConfig", ports)).unwrap();
        }
        world.handler.tick(&mut world.host, Now::read());
        let before: Vec<Attachment> = world.handler.attachments().cloned().collect();
        let dir = world.dir.path().to_owned();
        let file = |a: &Attachment| dir.join(format!("endpoints/{}.json", a.endpoint.id));
        // One is lost, one is damaged, and the third is deleted while nobody looks: its copy does not bring it back.
        fs::remove_file(file(&before[0])).unwrap();
        fs::write(file(&before[1]), "{").unwrap();
        fs::remove_file(file(&before[2])).unwrap();
        Tombstone::leave(&dir, &before[2].endpoint.key, SystemTime::now()).unwrap();
        let recovery = world.restart();
        assert_eq!((recovery.adopted, recovery.cleaned, recovery.rebuilt.len()), (2, 1, 0), "{recovery:?}");
        assert!(world.handler.attachments().eq(&before[..2]));
        assert_eq!(world.handler.attention(), []);
        world.assert_consistent();
        world.handler.tick(&mut world.host, Now::read());
        assert_eq!(fs::read_dir(dir.join("copies")).unwrap().count(), 2);
        for (id, ns) in [("a", &a), ("b", &b), ("c", &c)] {
            world.call(&request("DEL", id, ns)).unwrap();
        }
        world.handler.tick(&mut world.host, Now::read());
        assert_eq!(fs::read_dir(dir.join("copies")).unwrap().count(), 0);
        world.assert_clean();
    });
}
