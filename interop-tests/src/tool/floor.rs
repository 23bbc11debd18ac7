//! `lab-tool floor`: what a container's network costs when nobody manages it.
//!
//! The messages that no plugin can do without, in as few system calls as the kernel allows: a veth pair whose peer is
//! made in the container's namespace, IPv4 and IPv6 addresses, routes on both sides.

use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use slash32::model::Prefix;
use slash32::netlink::nexthop::Via;
use slash32::netlink::ns::{Netns, NsHelper};
use slash32::netlink::{Batch, Socket, addr, link, route};

const RTM_NEWLINK: u16 = 16;
/// `NLM_F_CREATE | NLM_F_EXCL`.
const NEW: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_PEER: u16 = 1;
/// Beyond what the kernel gives by itself, and what slash32 takes.
const FIRST_INDEX: u32 = 0x0200_0000;

/// For each line of stdin, `spawn` or the path of a namespace, prints nanoseconds.
pub fn run() -> Result<()> {
    println!("ready");
    let helper = NsHelper::start()?;
    let mut socket = Socket::route()?;
    for (number, line) in (0..).zip(std::io::stdin().lock().lines()) {
        let line = line.context("read a line")?;
        let start = Instant::now();
        if line == "spawn" {
            spawn()?;
        } else {
            attach(&helper, &mut socket, &line, number)?;
        }
        println!("{}", start.elapsed().as_nanos());
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn spawn() -> Result<()> {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start /bin/true")?;
    drop(child.stdin.take());
    child.wait_with_output().context("wait for /bin/true").map(drop)
}

fn attach(helper: &NsHelper, socket: &mut Socket, path: &str, number: u32) -> Result<()> {
    let ns = Netns::open(path)?;
    let (host, inside) = (FIRST_INDEX + 2 * number, FIRST_INDEX + 2 * number + 1);
    let [high, low] = (number as u16).to_be_bytes();
    let four: IpAddr = [10, 33, high, low].into();
    let six: IpAddr = [0xfd00, 0x33, 0, 0, 0, 0, 0, number as u16 + 1].into();
    let gateway: IpAddr = [169, 254, 1, 1].into();
    let gateway6: IpAddr = [0xfe80, 0, 0, 0, 0, 0, 0, 1].into();

    let mut batch = Batch::new();
    batch.add(RTM_NEWLINK, NEW, |w| {
        w.raw(&ifinfomsg(host)).attr_str(IFLA_IFNAME, &format!("floor{number}")).nest(IFLA_LINKINFO, |w| {
            w.attr_str(INFO_KIND, "veth").nest(INFO_DATA, |w| {
                w.nest(INFO_PEER, |w| {
                    w.raw(&ifinfomsg(inside))
                        .attr_str(IFLA_IFNAME, "eth0")
                        .attr_u32(IFLA_NET_NS_FD, ns.as_raw_fd() as u32);
                });
            });
        });
    });
    link::push_up(&mut batch, host);
    addr::push_add(&mut batch, host, gateway6, 64);
    for to in [four, six] {
        device_route(&mut batch, to, host);
    }
    socket.execute(&mut batch)?;

    let mut there = helper.route_socket(&ns)?;
    let mut batch = Batch::new();
    link::push_up(&mut batch, 1);
    link::push_up(&mut batch, inside);
    addr::push_add(&mut batch, inside, four, 32);
    addr::push_add(&mut batch, inside, six, 128);
    device_route(&mut batch, gateway, inside);
    device_route(&mut batch, gateway6, inside);
    for (default, via) in [("0.0.0.0/0", gateway), ("::/0", gateway6)] {
        let key = key(default.parse().context("a prefix")?);
        let via = Via { gateway: via, ifindex: inside, onlink: true };
        route::push(&mut batch, &key, route::Target::Via(&[(via, 1)]), route::Mode::Create);
    }
    there.execute(&mut batch).map(drop)?;
    Ok(())
}

fn device_route(batch: &mut Batch, to: IpAddr, device: u32) {
    route::push(batch, &key(Prefix::host(to)), route::Target::Device(device), route::Mode::Create);
}

fn key(prefix: Prefix) -> route::Key {
    route::Key { prefix, table: route::TABLE_MAIN, protocol: 4, metric: 0 }
}

fn ifinfomsg(index: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}
