//! The place where most cases happen: one to four routers as switches, one to three hosts with slash32, each host with a
//! container, each switch with a service behind it.
//!
//! Switch S and host H are joined by a cable of their own with 198.18.S.2H/31 and 2001:db8:S:H::/64, the switch first.
//! A router that writes no kernel routes sits on an Ethernet segment with the hosts instead: it is 198.18.S.1 and
//! 2001:db8:S::1, they are 198.18.S.1H and 2001:db8:S::1H. Containers of host H are in 10.32.H.0/24 and
//! fd00:32:0:H::/64. The service of switch S is 10.99.0.S and fd00:99::S, in a namespace behind it as a container would be.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use interop_tests::{
    Agent, Capture, Container, Image, ImageRun, Lab, Machine, Network, PATIENCE, PeerRow, eventually,
};
use serde_json::Value;

use crate::flavors::Flavor;
use crate::spec::{Family, Foreign, Neighbor, Remote, RouterSpec, unsupported};

/// AS number of the switches, and of everybody with iBGP.
pub(crate) const SWITCH_AS: u32 = 65100;

/// How hosts and switches are joined by sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// An IPv4 session for IPv4 and an IPv6 one for IPv6.
    Separate,
    OnlyFour,
    OnlySix,
    /// Both families over one IPv4 session.
    Shared,
    /// The switch listens on a range and dials nobody; separate sessions.
    Range,
    /// By interface, both families over one link-local session.
    Unnumbered,
}

type Change<T> = Box<dyn Fn(usize, &mut T) + Send + Sync>;

/// What is to be built.
pub(crate) struct Plan {
    pub(crate) flavor: &'static dyn Flavor,
    pub(crate) switches: usize,
    pub(crate) hosts: usize,
    pub(crate) sessions: Sessions,
    /// Everybody in one AS, the switch a reflector if it passes on.
    pub(crate) internal: bool,
    /// The AS number of each host; by default 65000 + H.
    pub(crate) host_as: fn(usize) -> u32,
    pub(crate) switch_as: u32,
    /// Lines for each host's `[bgp]`.
    pub(crate) bgp: String,
    /// Lines for each host's group of neighbours.
    pub(crate) group: String,
    /// More addresses that each switch has and announces.
    pub(crate) anycast: Vec<&'static str>,
    router: Vec<Change<RouterSpec>>,
    neighbor: Vec<Change<Neighbor>>,
}

/// What was built.
pub(crate) struct Site {
    pub(crate) plan: Plan,
    pub(crate) switches: Vec<Switch>,
    pub(crate) hosts: Vec<Host>,
    _captures: Vec<Capture>,
}

pub(crate) struct Switch {
    pub(crate) machine: Machine,
    pub(crate) spec: RouterSpec,
    pub(crate) run: ImageRun,
    /// Addresses of its ports, to set them again after a reboot.
    ports: Vec<(String, Vec<String>)>,
    /// Kernel routes that stand in for those a router does not write.
    statics: Vec<String>,
}

pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) agent: Agent,
    pub(crate) container: Container,
    pub(crate) config: String,
}

impl Plan {
    /// One switch and two hosts with eBGP, separate sessions for IPv4 and IPv6.
    pub(crate) fn new(flavor: &'static dyn Flavor) -> Self {
        Self {
            flavor,
            switches: 1,
            hosts: 2,
            sessions: Sessions::Separate,
            internal: false,
            host_as: |host| 65000 + host as u32,
            switch_as: SWITCH_AS,
            bgp: String::new(),
            group: String::new(),
            anycast: Vec::new(),
            router: Vec::new(),
            neighbor: Vec::new(),
        }
    }

    pub(crate) fn sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = sessions;
        self
    }

    pub(crate) fn switches(mut self, count: usize) -> Self {
        self.switches = count;
        self
    }

    pub(crate) fn hosts(mut self, count: usize) -> Self {
        self.hosts = count;
        self
    }

    pub(crate) fn internal(mut self) -> Self {
        self.internal = true;
        self.host_as = |_| SWITCH_AS;
        self
    }

    pub(crate) fn host_as(mut self, of: fn(usize) -> u32) -> Self {
        self.host_as = of;
        self
    }

    /// Adds lines to each host's `[bgp]`.
    pub(crate) fn bgp(mut self, lines: &str) -> Self {
        self.bgp += lines;
        self.bgp += "\n";
        self
    }

    /// Adds lines to each host's group of neighbours.
    pub(crate) fn group(mut self, lines: &str) -> Self {
        self.group += lines;
        self.group += "\n";
        self
    }

    /// Changes the job of each switch; the number is the switch's, from 1.
    pub(crate) fn router(mut self, change: impl Fn(usize, &mut RouterSpec) + Send + Sync + 'static) -> Self {
        self.router.push(Box::new(change));
        self
    }

    /// Changes each neighbour of each switch; the number is the host's, from 1.
    pub(crate) fn neighbor(mut self, change: impl Fn(usize, &mut Neighbor) + Send + Sync + 'static) -> Self {
        self.neighbor.push(Box::new(change));
        self
    }

    pub(crate) fn anycast(mut self, addresses: &[&'static str]) -> Self {
        self.anycast.extend(addresses);
        self
    }

    fn routed(&self) -> bool {
        self.flavor.forwards()
    }

    /// The address of switch `s` towards host `h`.
    pub(crate) fn switch_address(&self, s: usize, h: usize, family: Family) -> String {
        match (self.routed(), family) {
            (true, Family::Four) => format!("198.18.{s}.{}", 2 * h),
            (true, Family::Six) => format!("2001:db8:{s}:{h}::1"),
            (false, Family::Four) => format!("198.18.{s}.1"),
            (false, Family::Six) => format!("2001:db8:{s}::1"),
        }
    }

    /// The address of host `h` towards switch `s`.
    pub(crate) fn host_address(&self, s: usize, h: usize, family: Family) -> String {
        match (self.routed(), family) {
            (true, Family::Four) => format!("198.18.{s}.{}", 2 * h + 1),
            (true, Family::Six) => format!("2001:db8:{s}:{h}::2"),
            (false, Family::Four) => format!("198.18.{s}.1{h}"),
            (false, Family::Six) => format!("2001:db8:{s}::1{h}"),
        }
    }

    /// The job of switch `s` before it is written in the router's language.
    pub(crate) fn spec(&self, s: usize) -> RouterSpec {
        let mut spec = RouterSpec {
            asn: self.switch_as,
            router_id: format!("198.18.{s}.1"),
            networks: vec![format!("10.99.0.{s}/32"), format!("fd00:99::{s}/128")],
            addresses: Family::BOTH.map(|family| self.switch_address(s, 1, family)).to_vec(),
            ..RouterSpec::default()
        };
        for address in &self.anycast {
            spec.networks.push(format!("{address}/{}", if address.contains(':') { 128 } else { 32 }));
        }
        if !self.flavor.passes_on() {
            // Somebody has to tell hosts of each other: the router does, as an injector of written routes.
            for h in 1..=self.hosts {
                for family in self.families() {
                    spec.foreign.push(Foreign {
                        prefix: block(h, family),
                        next_hop: self.host_address(s, h, family),
                        owner: format!("h{h}"),
                    });
                }
            }
        }
        if self.sessions == Sessions::Range {
            let ranges =
                [(Family::Four, format!("198.18.{s}.0/24")), (Family::Six, format!("2001:db8:{s}::/48"))];
            for (family, range) in ranges {
                let mut neighbor = Neighbor::new(
                    &format!("range_{}", family.word()),
                    Remote::Range(range),
                    "",
                    (self.host_as)(1),
                );
                (neighbor.four, neighbor.six) = (family == Family::Four, family == Family::Six);
                neighbor.passive = true;
                spec.neighbors.push(neighbor);
            }
        } else {
            for h in 1..=self.hosts {
                for (family, four, six) in self.session_list() {
                    let remote = if self.sessions == Sessions::Unnumbered {
                        Remote::Interface(format!("port{h}"))
                    } else {
                        Remote::Address(self.host_address(s, h, family))
                    };
                    let local = self.switch_address(s, h, family);
                    let name = format!("h{h}{}", family.word());
                    let mut neighbor = Neighbor::new(&name, remote, &local, (self.host_as)(h));
                    (neighbor.four, neighbor.six) = (four, six);
                    neighbor.reflector_client = self.internal && self.flavor.passes_on();
                    for change in &self.neighbor {
                        change(h, &mut neighbor);
                    }
                    spec.neighbors.push(neighbor);
                }
            }
        }
        for change in &self.router {
            change(s, &mut spec);
        }
        spec
    }

    /// The sessions of a host with a switch: the transport's family, and whether IPv4 and IPv6 go over it.
    fn session_list(&self) -> Vec<(Family, bool, bool)> {
        match self.sessions {
            Sessions::Separate | Sessions::Range => {
                vec![(Family::Four, true, false), (Family::Six, false, true)]
            }
            Sessions::OnlyFour => vec![(Family::Four, true, false)],
            Sessions::OnlySix => vec![(Family::Six, false, true)],
            Sessions::Shared => vec![(Family::Four, true, true)],
            Sessions::Unnumbered => vec![(Family::Six, true, true)],
        }
    }

    /// The families that have routes.
    pub(crate) fn families(&self) -> Vec<Family> {
        match self.sessions {
            Sessions::OnlyFour => vec![Family::Four],
            Sessions::OnlySix => vec![Family::Six],
            _ => Family::BOTH.to_vec(),
        }
    }

    /// The configuration of host `h`.
    pub(crate) fn host_config(&self, h: usize) -> String {
        let asn = (self.host_as)(h);
        let mut text = format!("[bgp]\nasn = {asn}\nrouter_id = \"198.19.0.{h}\"\n{}", self.bgp);
        let _ = write!(
            text,
            "[bgp.group.switch]\nasn = {}\nidentity = \"accept\"\nconnect_retry = 1\n{}",
            self.switch_as, self.group
        );
        for s in 1..=self.switches {
            for (family, four, six) in self.session_list() {
                let families = match (four, six) {
                    (true, true) => r#"["ipv4", "ipv6"]"#,
                    (true, false) => r#"["ipv4"]"#,
                    _ => r#"["ipv6"]"#,
                };
                let who = if self.sessions == Sessions::Unnumbered {
                    format!("interface = \"up{s}\"")
                } else {
                    format!("address = \"{}\"", self.switch_address(s, h, family))
                };
                let _ = write!(text, "[[bgp.peer]]\n{who}\ngroup = \"switch\"\nfamilies = {families}\n");
            }
        }
        text + &pools(h)
    }

    /// Builds it and waits until every session is up on both sides.
    pub(crate) fn start(self, lab: &Lab) -> Result<Site> {
        let site = self.start_unconnected(lab)?;
        site.wait_up()?;
        Ok(site)
    }

    /// Builds it and starts everything.
    pub(crate) fn start_unconnected(self, lab: &Lab) -> Result<Site> {
        // What the router cannot do is known before anything is built.
        let specs: Vec<RouterSpec> = (1..=self.switches).map(|s| self.spec(s)).collect();
        let configs = specs.iter().map(|spec| self.flavor.config(spec)).collect::<Result<Vec<_>>>()?;
        let image = Image::find(self.flavor.image().context("the flavour has no image")?)?;

        let mut boxes = Vec::new();
        for s in 1..=self.switches {
            let name = if self.switches == 1 { "switch".to_owned() } else { format!("switch{s}") };
            boxes.push(lab.forwarder(&name)?);
        }
        let mut machines = Vec::new();
        for h in 1..=self.hosts {
            machines.push(lab.machine(&format!("host{h}"))?);
        }
        let mut switches = Vec::new();
        let mut captures = Vec::new();
        for (s, (machine, (spec, config))) in (1..).zip(boxes.iter().zip(specs.into_iter().zip(&configs))) {
            let ports = self.cable(lab, s, machine, &machines)?;
            serve(machine, &spec.networks)?;
            let mut statics = Vec::new();
            if !self.routed() {
                for h in 1..=self.hosts {
                    let (four, six) =
                        (self.host_address(s, h, Family::Four), self.host_address(s, h, Family::Six));
                    statics.push(format!("ip route replace {} via {four}", block(h, Family::Four)));
                    statics.push(format!("ip -6 route replace {} via {six}", block(h, Family::Six)));
                }
                for line in &statics {
                    machine.run(line)?;
                }
            }
            captures.push(machine.capture("any", "tcp port 179 or udp port 3784 or icmp or icmp6")?);
            self.flavor.prepare(machine)?;
            let run = ImageRun::start(machine, &image, config, self.flavor.env())?;
            switches.push(Switch { machine: machine.clone(), spec, run, ports, statics });
        }
        let mut hosts = Vec::new();
        for (h, machine) in (1..).zip(&machines) {
            let config = self.host_config(h);
            let agent = Agent::start(machine, &config)?;
            let network = Network::slash32()?.label("host", &format!("h{h}"));
            let container = machine.container(&format!("c{h}"), &network)?;
            hosts.push(Host { machine: machine.clone(), agent, container, config });
        }
        let site = Site { plan: self, switches, hosts, _captures: captures };
        for switch in &site.switches {
            switch.wait_ready(site.plan.flavor)?;
        }
        Ok(site)
    }

    /// Joins switch `s` with all hosts; its ports and their addresses.
    fn cable(
        &self,
        lab: &Lab,
        s: usize,
        switch: &Machine,
        hosts: &[Machine],
    ) -> Result<Vec<(String, Vec<String>)>> {
        let bare = self.sessions == Sessions::Unnumbered;
        let (len4, len6) = if self.routed() { (31, 64) } else { (24, 64) };
        let mut ports = Vec::new();
        if !self.routed() && !bare {
            let addresses = Family::BOTH.map(|family| {
                let length = if family == Family::Four { len4 } else { len6 };
                format!("{}/{length}", self.switch_address(s, 1, family))
            });
            switch.bridge("br0", &addresses.each_ref().map(String::as_str))?;
            ports.push(("br0".to_owned(), addresses.to_vec()));
        }
        for (h, host) in (1..).zip(hosts) {
            let mut port = switch.port(&format!("port{h}"));
            let mut uplink = host.port(&format!("up{s}"));
            let mut addresses = Vec::new();
            if !bare {
                for family in Family::BOTH {
                    let length = if family == Family::Four { len4 } else { len6 };
                    uplink = uplink.address(&format!("{}/{length}", self.host_address(s, h, family)));
                    if self.routed() {
                        let address = format!("{}/{length}", self.switch_address(s, h, family));
                        port = port.address(&address);
                        addresses.push(address);
                    }
                }
                if !self.routed() {
                    port = port.on_bridge("br0");
                }
            }
            ports.push((format!("port{h}"), addresses));
            lab.link(port, uplink)?;
        }
        Ok(ports)
    }
}

/// Containers' addresses: the cluster's, and host `h`'s share.
pub(crate) fn pools(h: usize) -> String {
    format!(
        "[[ipam.pool]]\ncidr = \"10.32.0.0/16\"\nblock = \"{}\"\n\
         [[ipam.pool]]\ncidr = \"fd00:32::/48\"\nblock = \"{}\"\n",
        block(h, Family::Four),
        block(h, Family::Six)
    )
}

/// Host `h`'s share of the containers' addresses.
fn block(h: usize, family: Family) -> String {
    match family {
        Family::Four => format!("10.32.{h}.0/24"),
        Family::Six => format!("fd00:32:0:{h}::/64"),
    }
}

/// Puts addresses (prefixes of one address) behind a router: they are those of a namespace joined to it by a cable of its
/// own, as a container is, and the router's kernel has a route to each.
pub(crate) fn serve(router: &Machine, networks: &[String]) -> Result<()> {
    const SPACE: &str = "service";
    router.sandbox(SPACE)?;
    router.run(&format!("ip link add svc type veth peer name eth0 netns {SPACE}"))?;
    for (command, port, gateway) in
        [(router.command("sh"), "svc", true), (router.command("sh").netns(SPACE), "eth0", false)]
    {
        let mut script = format!("set -e; echo 0 > /proc/sys/net/ipv6/conf/{port}/accept_dad\n");
        let mut line = |words: &str| script.extend(["ip ", words, "\n"]);
        line(&format!("link set {port} up"));
        if gateway {
            line("address add 169.254.1.1/32 dev svc");
            line("address add fe80::1/64 dev svc nodad");
        } else {
            line("route add 169.254.1.1 dev eth0");
        }
        for network in networks {
            if gateway {
                line(&format!("route add {network} dev svc"));
            } else {
                line(&format!("address add {network} dev eth0 {}", nodad(network)));
            }
        }
        if !gateway {
            line("route add default via 169.254.1.1");
            line("-6 route add default via fe80::1 dev eth0");
        }
        command.args(["-c", &script]).run()?;
    }
    Ok(())
}

impl Switch {
    /// Waits until the router answers, and gives it what is not in its file.
    pub(crate) fn wait_ready(&self, flavor: &dyn Flavor) -> Result<()> {
        eventually(&format!("{} answers", flavor.name()), PATIENCE, || {
            self.run.check()?;
            flavor.ready(&self.run)
        })?;
        flavor.started(&self.run, &self.spec)
    }

    /// Writes a new configuration and has it read.
    pub(crate) fn reconfigure(
        &mut self,
        flavor: &dyn Flavor,
        change: impl FnOnce(&mut RouterSpec),
    ) -> Result<()> {
        change(&mut self.spec);
        self.run.write_config(&flavor.config(&self.spec)?)?;
        flavor.reload(&self.run, &self.spec)
    }

    /// The power goes: every process ends, the ports lose their carrier, kernel routes are gone.
    pub(crate) fn power_off(&self) -> Result<()> {
        self.run.kill()?;
        for (port, _) in &self.ports {
            self.machine.link_down(port)?;
        }
        Ok(())
    }

    /// The power is back.
    pub(crate) fn power_on(&mut self, flavor: &dyn Flavor) -> Result<()> {
        for (port, addresses) in &self.ports {
            self.machine.link_up(port)?;
            for address in addresses {
                self.machine.run(&format!("ip address replace {address} dev {port} {}", nodad(address)))?;
            }
        }
        for line in &self.statics {
            self.machine.run(line)?;
        }
        self.run.start_again(&[])?;
        self.wait_ready(flavor)
    }

    /// The router shows at least `count` paths to a prefix; what it shows.
    pub(crate) fn wait_paths(&self, flavor: &dyn Flavor, prefix: &str, count: usize) -> Result<String> {
        eventually(&format!("{} has {count} paths to {prefix}", flavor.name()), PATIENCE, || {
            self.run.check()?;
            let shown = flavor.paths(&self.run, prefix)?;
            let seen = flavor.count_paths(&shown);
            ensure!(seen >= count, "it has {seen}: {shown}");
            Ok(shown)
        })
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { "nodad" } else { "" }
}

impl Host {
    /// Replaces the configuration and has it read.
    pub(crate) fn reconfigure(&mut self, change: impl FnOnce(&str) -> String) -> Result<String> {
        self.config = change(&self.config);
        self.agent.reconfigure(&self.config)
    }

    /// The container's address.
    pub(crate) fn address(&self, family: Family) -> Result<String> {
        match family {
            Family::Four => self.container.ipv4(),
            Family::Six => self.container.ipv6(),
        }
    }

    /// The container's prefix.
    pub(crate) fn prefix(&self, family: Family) -> Result<String> {
        let length = if family == Family::Four { 32 } else { 128 };
        Ok(format!("{}/{length}", self.address(family)?))
    }

    /// Rows of `slash32 bgp rib PREFIX --json`.
    pub(crate) fn rib(&self, prefix: &str) -> Result<Vec<Value>> {
        self.agent.cli(&format!("--json bgp rib {prefix}")).json()
    }

    /// Rows of `slash32 peers --json`, whole.
    pub(crate) fn peer_details(&self) -> Result<Vec<Value>> {
        self.agent.cli("--json peers").json()
    }

    /// The neighbour whose address or interface this is.
    pub(crate) fn peer(&self, name: &str) -> Result<Value> {
        let peers = self.peer_details()?;
        peers.into_iter().find(|peer| peer["peer"] == name).with_context(|| format!("no neighbour {name}"))
    }

    /// Waits until `holds` is true of a neighbour.
    pub(crate) fn wait_peer(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(&format!("{what} ({name})"), PATIENCE, || {
            let peer = self.peer(name)?;
            ensure!(holds(&peer), "{peer}");
            Ok(peer)
        })
    }

    /// Waits until all its sessions are up.
    pub(crate) fn wait_up(&self) -> Result<()> {
        let name = self.machine.name();
        eventually(&format!("all sessions of {name} are up"), PATIENCE, || {
            self.agent.process().check()?;
            let peers = self.agent.peers()?;
            let up = peers.iter().filter(|peer| is_up(peer)).count();
            ensure!(up == peers.len() && up > 0, "{up} of {}: {peers:?}", peers.len());
            Ok(())
        })
    }

    /// How many next hops the kernel's route to an address has.
    pub(crate) fn kernel_paths(&self, prefix: &str) -> Result<usize> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let shown = self.machine.run(&format!("ip {family} route show {prefix} proto 32"))?;
        let Some(id) = shown.split_whitespace().skip_while(|word| *word != "nhid").nth(1) else {
            return Ok(shown.matches("via ").count());
        };
        let hop = self.machine.run(&format!("ip nexthop show id {id}"))?;
        // `id 7 group 3/4/5 proto 32`, or one with `via`.
        let mut words = hop.split_whitespace().skip_while(|word| *word != "group");
        Ok(words.nth(1).map_or(usize::from(!hop.trim().is_empty()), |members| members.split('/').count()))
    }

    /// Waits until the kernel's route to an address has `count` next hops.
    pub(crate) fn wait_kernel_paths(&self, prefix: &str, count: usize) -> Result<()> {
        eventually(&format!("{count} next hops to {prefix} in the kernel"), PATIENCE, || {
            let seen = self.kernel_paths(prefix)?;
            ensure!(seen == count, "{seen}");
            Ok(())
        })
    }
}

pub(crate) fn is_up(peer: &PeerRow) -> bool {
    peer.state.eq_ignore_ascii_case("established")
}

impl Site {
    pub(crate) fn flavor(&self) -> &'static dyn Flavor {
        self.plan.flavor
    }

    /// The address of switch `s` towards host `h`, as the host's neighbour.
    pub(crate) fn neighbor(&self, s: usize, h: usize, family: Family) -> String {
        self.plan.switch_address(s, h, family)
    }

    /// The address of host `h` towards switch `s`, as the switch's neighbour.
    pub(crate) fn neighbor_of_switch(&self, s: usize, h: usize, family: Family) -> String {
        self.plan.host_address(s, h, family)
    }

    /// What a router calls its session with host `h` in commands: BIRD by the protocol's name, others by address.
    pub(crate) fn session_name(&self, s: usize, h: usize, family: Family) -> String {
        if self.flavor().daemon() == "bird" {
            format!("h{h}{}", family.word())
        } else {
            self.neighbor_of_switch(s, h, family)
        }
    }

    /// Waits until every session is up, for both sides.
    pub(crate) fn wait_up(&self) -> Result<()> {
        for host in &self.hosts {
            host.wait_up()?;
        }
        for switch in &self.switches {
            let want = self.hosts.len() * self.plan.session_list().len();
            eventually(&format!("{want} sessions of {} are up", self.flavor().name()), PATIENCE, || {
                switch.run.check()?;
                let up = self.flavor().established(&switch.run)?;
                ensure!(up == want, "{up} of {want}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Packets cross: between each container and the service behind each switch, and between containers of all hosts.
    pub(crate) fn traffic(&self) -> Result<()> {
        self.services_reached()?;
        self.containers_reach_each_other()
    }

    /// Each container reaches the service behind each switch.
    pub(crate) fn services_reached(&self) -> Result<()> {
        for host in &self.hosts {
            for s in 1..=self.switches.len() {
                for family in self.plan.families() {
                    let to = service(s, family);
                    reach(&host.container, &to)?;
                }
            }
        }
        Ok(())
    }

    /// Each container reaches those of the other hosts.
    pub(crate) fn containers_reach_each_other(&self) -> Result<()> {
        for from in &self.hosts {
            for to in self.hosts.iter().filter(|to| to.machine.name() != from.machine.name()) {
                for family in self.plan.families() {
                    reach(&from.container, &to.address(family)?)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the case when the router passes nothing on.
    pub(crate) fn needs_passing_on(&self) -> Result<()> {
        if self.flavor().passes_on() {
            Ok(())
        } else {
            unsupported("passes nothing on from one host to another")
        }
    }
}

/// The address of the service behind switch `s`.
pub(crate) fn service(s: usize, family: Family) -> String {
    match family {
        Family::Four => format!("10.99.0.{s}"),
        Family::Six => format!("fd00:99::{s}"),
    }
}

/// A container reaches an address, sooner or later.
pub(crate) fn reach(from: &Container, to: &str) -> Result<()> {
    eventually(&format!("{} reaches {to}", from.name()), PATIENCE, || from.ping(to))
}

/// A container does not reach an address any more, sooner or later.
pub(crate) fn lost(from: &Container, to: &str) -> Result<()> {
    eventually(&format!("{} loses {to}", from.name()), PATIENCE, || from.no_ping(to))
}
