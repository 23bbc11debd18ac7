//! Host ends that somebody changes.

use std::{process::Command, sync::mpsc};

use super::*;
use crate::{
    cni::attach::Changes,
    netlink::{
        sysctl,
        watch::{self, Topic},
    },
};

/// How somebody changes a host end.
enum Change {
    /// `ip` with these arguments, where `IF` stands for the interface.
    Ip(&'static str),
    /// A setting below `/proc/sys/net/`.
    Sysctl(&'static str, &'static str),
}
use Change::{Ip, Sysctl};

impl Change {
    fn make(&self, ifname: &str) {
        match self {
            Ip(args) => {
                let args: Vec<String> = args.split(' ').map(|word| word.replace("IF", ifname)).collect();
                let done = Command::new("ip").args(&args).output().unwrap();
                assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
            }
            Sysctl(path, value) => {
                sysctl::write(&format!("net/{}", path.replace("IF", ifname)), value).unwrap();
            }
        }
    }
}

const TOLD: [(&str, Change); 15] = [
    ("down", Ip("link set IF down")),
    ("MTU", Ip("link set IF mtu 1300")),
    ("MAC", Ip("link set IF address 02:00:00:00:00:77")),
    ("address", Ip("-6 addr flush dev IF")),
    ("alias", Ip("link set IF alias other")),
    ("name", Ip("link set IF name other0")),
    ("name", Ip("link set IF name s32other")),
    ("group", Ip("link set IF group 7")),
    ("bridge", Ip("link set IF master br0")),
    ("ARP", Ip("link set IF arp off")),
    ("forwarding", Sysctl("ipv4/conf/IF/forwarding", "0")),
    ("proxy_arp", Sysctl("ipv4/conf/IF/proxy_arp", "0")),
    ("rp_filter", Sysctl("ipv4/conf/IF/rp_filter", "2")),
    ("IPv6 forwarding", Sysctl("ipv6/conf/IF/forwarding", "0")),
    ("IPv6", Sysctl("ipv6/conf/IF/disable_ipv6", "1")),
];

/// The kernel does not say a word.
const SILENT: [(&str, Change); 2] = [
    ("route_localnet", Sysctl("ipv4/conf/IF/route_localnet", "1")),
    ("accept_ra", Sysctl("ipv6/conf/IF/accept_ra", "2")),
];

/// In the end: an interface whose other end comes up drops what is sent until the kernel has noticed, and an IPv6 address
/// that comes back is there before packets to it are taken. A busy kernel does either later than a ping starts.
fn reached(ns: &NamedNetns, attachment: &Attachment) {
    let ping = |target: &str| {
        (0..20).any(|_| {
            Command::new("ping").args(["-c1", "-W1", "-n", target]).output().is_ok_and(|o| o.status.success())
        })
    };
    let gateway = attachment.gateway4().to_string();
    assert!(ns.run(|| ping(&gateway)), "the IPv4 gateway");
    let gateway = format!("{}%eth0", attachment.gateway6());
    assert!(ns.run(|| ping(&gateway)), "the IPv6 gateway");
    for addr in attachment.endpoint.addresses() {
        assert!(ping(&addr.to_string()), "{addr} from the host");
    }
}

/// With a container of the host's own address to reach, and a bridge.
fn world() -> (World, NamedNetns, Attachment) {
    let mut world = World::new();
    addr::add(&mut Socket::route().unwrap(), 1, "fd00:99::1".parse().unwrap(), 128).unwrap();
    Ip("link add br0 type bridge").make("");
    let ns = container();
    world.call(&request("ADD", "c1", &ns)).unwrap();
    let attachment = world.handler.attachments().next().unwrap().clone();
    (world, ns, attachment)
}

#[test]
fn what_the_kernel_tells_of_a_host_end_is_put_right_at_once() {
    private(|| {
        let (mut world, ns, attachment) = world();
        reached(&ns, &attachment);
        let (tx, rx) = mpsc::channel();
        let mut changes = Changes::default();
        let tell = move |event| changes.concerns(event).is_none_or(|index| tx.send(index).is_ok());
        watch::spawn("test", &[Topic::Links, Topic::Addresses, Topic::Settings], &[], tell).unwrap();
        for (count, (what, change)) in (1..).zip(TOLD) {
            change.make(attachment.endpoint.id.as_str());
            // It is not taken for a container that is gone.
            let living = world.handler.attacher.list_ours_and([&attachment]).unwrap();
            assert_eq!(living.len(), 1, "{what}");
            world.handler.link_gone(&mut world.host, &attachment.endpoint.id, Now::read());
            assert_eq!(world.handler.attachments().len(), 1, "{what}");
            // Until it is all right, as told: a second message may be about our own work.
            let now =
                Now { mono: Instant::now() + Duration::from_secs(count * 100), wall: SystemTime::now() };
            while world.handler.mended() < count {
                world.handler.end_changed(rx.recv_timeout(Duration::from_secs(20)).expect(what));
                world.handler.look_at_told(now);
            }
            assert_eq!(world.handler.attacher.check(&attachment).unwrap(), [], "{what}");
            assert_eq!(world.handler.mended(), count, "{what}");
            reached(&ns, &attachment);
        }
        world.assert_consistent();
        assert_eq!(world.host.log.len(), 2, "nobody else had anything to do: {:?}", world.host.log);
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
    });
}

/// Whatever a host has for all interfaces or for new ones, a host end is made as it should be: there is nothing to put right
/// after an ADD, and containers find their gateways.
#[test]
fn settings_for_new_interfaces_cost_no_repairs() {
    private(|| {
        let mut world = World::new();
        addr::add(&mut Socket::route().unwrap(), 1, "fd00:99::1".parse().unwrap(), 128).unwrap();
        let settings = [
            ("ipv4/conf", "rp_filter", "2", "0"),
            ("ipv4/conf", "arp_filter", "1", "0"),
            ("ipv4/conf", "arp_ignore", "1", ""),
            ("ipv4/conf", "arp_announce", "2", "2"),
            ("ipv4/conf", "proxy_arp", "0", "0"),
            ("ipv4/conf", "route_localnet", "1", "0"),
            ("ipv4/conf", "forwarding", "0", ""),
            ("ipv6/conf", "accept_ra", "2", "2"),
            ("ipv6/conf", "forwarding", "0", ""),
            ("ipv6/conf", "addr_gen_mode", "0", ""),
            ("ipv6/conf", "accept_dad", "2", "2"),
            ("ipv6/conf", "disable_ipv6", "1", ""),
        ];
        for (family, key, default, all) in settings {
            for (of, value) in [("default", default), ("all", all)] {
                if !value.is_empty() {
                    sysctl::write(&format!("net/{family}/{of}/{key}"), value).unwrap();
                }
            }
        }
        let (both, four) = (container(), container());
        let only = json!({"type": "slash32", "families": ["ipv4"]});
        for (id, ns, add) in [
            ("c1", &both, request("ADD", "c1", &both)),
            ("c2", &four, with(request("ADD", "c2", &four), "ipam", only)),
        ] {
            world.call(&add).unwrap();
            let made = |a: &&Attachment| a.endpoint.key.container_id == id;
            let attachment = world.handler.attachments().find(made).unwrap().clone();
            // The kernel tells of every new interface.
            world.handler.end_changed(attachment.ifindex);
            world.handler.look_at_told(Now::read());
            world.handler.mend_all();
            assert_eq!((id, world.handler.mended()), (id, 0));
            assert_eq!(world.handler.attacher.check(&attachment).unwrap(), []);
            if attachment.endpoint.ipv6.is_some() {
                reached(ns, &attachment);
            } else {
                // Nobody has asked for IPv6 here.
                let off = format!("net/ipv6/conf/{}/disable_ipv6", attachment.endpoint.id);
                assert_eq!(sysctl::read(&off).unwrap(), "1");
                let ping = || Command::new("ping").args(["-c3", "169.254.1.1"]).output();
                assert!(ns.run(ping).unwrap().status.success());
            }
        }
        assert_eq!(world.handler.attachments().filter(|a| a.endpoint.ipv6.is_some()).count(), 1);
    });
}

#[test]
fn what_the_kernel_does_not_tell_is_put_right_by_the_audit() {
    private(|| {
        let (mut world, ns, attachment) = world();
        for (n, (what, change)) in (1u64..).zip(SILENT.into_iter().chain(TOLD)) {
            change.make(attachment.endpoint.id.as_str());
            assert_ne!(world.handler.attacher.check(&attachment).unwrap(), [], "{what}");
            let later = Now { mono: Instant::now() + Duration::from_secs(15 * n), wall: SystemTime::now() };
            world.handler.tick(&mut world.host, later);
            assert_eq!(world.handler.attacher.check(&attachment).unwrap(), [], "{what}");
            assert_eq!(world.handler.mended(), n, "{what}");
        }
        reached(&ns, &attachment);
    });
}

#[test]
fn a_start_and_a_del_find_a_host_end_whatever_it_is_called() {
    private(|| {
        let (mut world, ns, attachment) = world();
        let id = attachment.endpoint.id.as_str();
        Ip("link set IF name other0 alias none group 7 mtu 1300 down").make(id);
        let recovery = world.restart();
        assert_eq!((recovery.adopted, recovery.cleaned, recovery.problems.len()), (1, 0, 0));
        assert_eq!(world.handler.mended(), 1);
        assert_eq!(world.handler.attacher.check(&attachment).unwrap(), []);
        reached(&ns, &attachment);
        Ip("link set IF name other0 alias none group 7").make(id);
        world.call(&request("DEL", "c1", &ns)).unwrap();
        world.assert_clean();
        link::by_name(&mut Socket::route().unwrap(), "other0").unwrap_err();
    });
}

/// What is switched off for the whole host is not switched on for our interfaces, and is none of their changes.
#[test]
fn a_host_that_does_not_forward() {
    private(|| {
        let (mut world, ns, attachment) = world();
        let host = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
        let ends = ["ipv4", "ipv6"].map(|of| format!("net/{of}/conf/{}/forwarding", attachment.endpoint.id));
        for (value, count) in [("0", 0), ("1", 0)] {
            for setting in host {
                sysctl::write(setting, value).unwrap();
            }
            world.handler.end_changed(attachment.ifindex);
            world.handler.look_at_told(Now::read());
            world.handler.mend_all();
            assert_eq!(world.handler.mended(), count, "{value}");
            for end in &ends {
                assert_eq!(sysctl::read(end).unwrap(), value, "{end}");
            }
        }
        // Of one interface alone it is a change.
        for (end, count) in ends.iter().zip(1..) {
            sysctl::write(end, "0").unwrap();
            world.handler.mend_all();
            assert_eq!((world.handler.mended(), sysctl::read(end).unwrap()), (count, "1".into()), "{end}");
        }
        reached(&ns, &attachment);
    });
}

/// A program that insists is not raced with.
#[test]
fn who_changes_it_again_and_again_is_not_fought() {
    private(|| {
        let (mut world, _ns, attachment) = world();
        let now = Now::read();
        for _ in 0..20 {
            Sysctl("ipv4/conf/IF/proxy_arp", "0").make(attachment.endpoint.id.as_str());
            world.handler.end_changed(attachment.ifindex);
            world.handler.look_at_told(now);
        }
        assert_eq!(world.handler.mended(), 5);
        assert_ne!(world.handler.attacher.check(&attachment).unwrap(), []);
        // The audit does, and so does a later message.
        world.handler.tick(&mut world.host, Now { mono: now.mono + Duration::from_secs(15), wall: now.wall });
        assert_eq!(world.handler.attacher.check(&attachment).unwrap(), []);
        Sysctl("ipv4/conf/IF/proxy_arp", "0").make(attachment.endpoint.id.as_str());
        world.handler.end_changed(attachment.ifindex);
        world.handler.look_at_told(Now { mono: now.mono + Duration::from_secs(61), wall: now.wall });
        assert_eq!(world.handler.mended(), 7);
    });
}
