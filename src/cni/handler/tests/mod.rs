//! Every verb against the real kernel, with an agent that only takes notes.

mod addresses;
mod checks;
mod mending;
mod recovery;
mod routes;
mod state;
mod verbs;
mod wishes;

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
        fault::tests::{dying_at, failing, points_of},
        ipam::PoolConfig,
        store::Tombstone,
        types::{NetConf, SpecVersion},
    },
    model::{EndpointKey, Family, Prefix},
    netlink::{
        Socket, addr, link,
        ns::testing::{NamedNetns, private},
        route,
    },
};

/// An agent that notes what it is asked, and fails where it is told to.
#[derive(Debug, Default)]
struct Notes {
    log: Vec<String>,
    enforced: HashSet<EndpointId>,
    announced: HashSet<IpAddr>,
    fail: Option<&'static str>,
    /// The same, of the next time only.
    fail_once: Option<&'static str>,
    /// Why port mappings of endpoints that live are refused.
    unmapped: Vec<String>,
}

impl Notes {
    fn step(&mut self, what: &'static str, attachment: &Attachment) -> Result<(), CniError> {
        self.log.push(format!("{what} {}", attachment.endpoint.key));
        if self.fail == Some(what) || self.fail_once.take_if(|step| *step == what).is_some() {
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
    fn enforce_living(&mut self, a: &Attachment) -> Result<Vec<String>, CniError> {
        self.enforce(a)?;
        Ok(self.unmapped.clone())
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
        state_dir: None,
        attach: AttachConfig::default(),
        ipam: IpamConfig {
            quarantine: Duration::from_secs(30),
            pools: vec![pool("10.32.0.0/16", "10.32.4.0/28"), pool("fd00:32::/64", "fd00:32::4:0/112")],
        },
        mtu: None,
        neighbours: vec![],
        infrastructure: vec![],
        label_rules: vec![],
        look: Duration::from_secs(15),
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

fn eth0_index() -> u32 {
    link::by_name(&mut Socket::route().unwrap(), "eth0").unwrap().index
}
