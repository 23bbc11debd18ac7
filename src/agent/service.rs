//! Answers requests: each goes to the owner of what it asks about.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{
    actor::{Actor, Gone},
    config::{self, Config},
    core::Core,
    doctor,
    gate::Gate,
    limits, metrics, mrt_dump, pulse, rib_queries, rules, shared, sysctls, vrf,
};
use crate::{
    api::{Answer, CniRequest, Failure, Request, ShutdownMode},
    bgp::{
        PeerId,
        rib::Rib,
        speaker::{PeerAction, PeerStatus, SpeakerError, SpeakerHandle},
    },
    model::{Family, Prefix},
    netlink::tcp_ao,
    routes::{
        Difference, Reason, RouteFilter,
        thread::{FibHandle, FibStopped},
    },
};

/// What the service asks the daemon itself to do.
#[derive(Debug)]
pub(super) enum DaemonRequest {
    /// Read the files again; the answer lists what changed.
    Reload(oneshot::Sender<Result<Vec<String>, Failure>>),
    /// End.
    Shutdown(ShutdownMode),
}

/// Said as long as it lasts: somebody may have forgotten it.
const DRAINING: &str = "this host is being drained: everything is announced with GRACEFUL_SHUTDOWN, so that neighbours prefer \
                        other ways; `slash32 drain --off` ends it";

/// Everything an answer may need. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Actor<Core>,
    fib: FibHandle,
    speaker: Option<SpeakerHandle>,
    daemon: mpsc::Sender<DaemonRequest>,
    gate: Gate,
    config: Mutex<Arc<Config>>,
    /// Why the last reload did not take all of what it read.
    refused: Mutex<Option<String>>,
    /// What other hosts give of this host's blocks.
    shared: Mutex<shared::Found>,
    started: Instant,
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::new(gone.to_string())
    }
}

impl From<FibStopped> for Failure {
    fn from(error: FibStopped) -> Self {
        Self::new(error.to_string())
    }
}

impl From<SpeakerError> for Failure {
    fn from(error: SpeakerError) -> Self {
        let hint = match error {
            SpeakerError::NoPeer(_) => "`slash32 peers` lists them",
            _ => "",
        };
        Self::new(error.to_string()).with_hint(hint)
    }
}

fn value(of: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of).map_err(|e| Failure::new(format!("the answer does not serialize: {e}")))
}

/// Runs what takes long where nobody waits for it but the asker.
async fn aside(work: impl FnOnce() -> Result<Value, Failure> + Send + 'static) -> Result<Value, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::new(e.to_string()))?
}

impl Service {
    pub(super) fn new(
        core: Actor<Core>,
        fib: FibHandle,
        speaker: Option<SpeakerHandle>,
        daemon: mpsc::Sender<DaemonRequest>,
        gate: Gate,
        config: Arc<Config>,
    ) -> Self {
        let inner = Inner {
            core,
            fib,
            speaker,
            daemon,
            gate,
            config: Mutex::new(config),
            refused: Mutex::new(None),
            shared: Mutex::default(),
            started: Instant::now(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        self.inner.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_config(&self, config: Arc<Config>) {
        *self.inner.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Why the last reload failed; `None` after one that did not.
    pub(super) fn set_refused(&self, reason: Option<String>) {
        *self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// What other hosts give of this host's blocks.
    pub(super) fn set_shared(&self, found: shared::Found) {
        *self.inner.shared.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn shared(&self) -> shared::Found {
        self.inner.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refused(&self) -> Option<String> {
        self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where CNI calls pass.
    pub(super) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    pub(super) fn core(&self) -> &Actor<Core> {
        &self.inner.core
    }

    /// Answers a CNI verb on the core's own thread: `send` gets the answer there. `alive` turns false when the asker
    /// goes away.
    pub(super) async fn cni<T: Send + 'static>(
        &self,
        call: CniRequest,
        alive: Arc<AtomicBool>,
        send: impl FnOnce(&Answer) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let Inner { core, gate, .. } = &*self.inner;
        let (reply, answer) = oneshot::channel();
        let core = core.clone();
        gate.pass(gate.passing(&call), move |passed| {
            let work = move |core: &mut Core| {
                let answer = core.cni(&call, passed, &|| alive.load(Ordering::Relaxed));
                // The asker may have gone away meanwhile.
                let _ = reply.send(send(&match value(answer) {
                    Ok(value) => Answer::Ok(value),
                    Err(failure) => Answer::Error(failure),
                }));
            };
            // Whoever asked sees that nobody is going to answer.
            let _ = core.tell(work);
        });
        Ok(answer.await.map_err(|_| Gone)?)
    }

    /// Answers one request.
    pub(super) async fn handle(&self, request: Request) -> Answer {
        match self.answer(request).await {
            Ok(value) => Answer::Ok(value),
            Err(failure) => Answer::Error(failure),
        }
    }

    async fn answer(&self, request: Request) -> Result<Value, Failure> {
        let core = &self.inner.core;
        match request {
            Request::Cni(call) => match self.cni(call, Arc::new(AtomicBool::new(true)), Answer::clone).await?
            {
                Answer::Ok(value) => Ok(value),
                Answer::Error(failure) => Err(failure),
            },
            Request::Ping => Ok(self.pulse().await),
            Request::Status => self.status().await,
            Request::Peers => value(self.peers().await?),
            Request::Rib(query) => value(rib_queries::rib(self.speaker()?, query).await?),
            Request::Explain { prefix } => {
                rib_queries::explain(self.speaker()?, &self.inner.fib, prefix).await
            }
            Request::ClearPeer { peer, soft } => self.clear(&peer, soft).await,
            Request::Drain { on } => {
                self.speaker()?.drain(on).await?;
                Ok(json!({ "draining": on }))
            }
            Request::DumpMrt { file } => {
                let (speaker, config) = (self.speaker()?, self.config());
                let Some(bgp) = &config.bgp else {
                    return Err(Failure::new("this agent has no [bgp] table"));
                };
                mrt_dump::dump(speaker, bgp, &config.hostname, &file).await
            }
            Request::Collectors => value(self.collectors().await?),
            Request::Bfd => value(self.speaker()?.bfd().await?),
            Request::Routes => value(self.inner.fib.routes(RouteFilter::default()).await?),
            Request::RoutesVerify => value(self.verify().await?),
            Request::Endpoints => value(core.ask(|c| c.endpoints()).await?),
            Request::Label { endpoint, set, remove } => {
                core.ask(move |c| c.label(&endpoint, &set, &remove)).await?
            }
            Request::IpamShow => value(core.ask(|c| c.ipam()).await?),
            Request::IpamCheck { fix } => core.ask(move |c| c.ipam_check(fix)).await?,
            Request::IpamRelease { address } => core.ask(move |c| c.ipam_release(address)).await?,
            Request::PolicyShow { nft } => core.ask(move |c| c.policies_mut().show(nft)).await?,
            Request::PolicyExplain { src, dst, service, source_port, interface } => {
                let ask = move |c: &mut Core| {
                    c.explain_policy((&src, &dst), &service, source_port, interface.as_deref())
                };
                let mut answer = core.ask(ask).await??;
                self.name_hosts(&mut answer).await;
                Ok(answer)
            }
            Request::PolicyMatrix => {
                let survey = core.ask(|c| c.policies().survey()).await?;
                aside(move || survey.matrix()).await
            }
            Request::PolicyDiff { old, new } => {
                let survey = core.ask(|c| c.policies().survey()).await?;
                aside(move || survey.diff(old.as_deref(), &new)).await
            }
            Request::PolicyTrace { after } => core.ask(move |c| c.policies_mut().trace(after)).await?,
            Request::Reload => {
                let (reply, answer) = oneshot::channel();
                self.inner.daemon.send(DaemonRequest::Reload(reply)).await.map_err(|_| Gone)?;
                Ok(json!({ "changes": answer.await.map_err(|_| Gone)?? }))
            }
            Request::Doctor => value(doctor::checks(&self.facts().await?)),
            Request::Metrics => Ok(Value::String(self.metrics().await)),
            Request::Shutdown { mode } => {
                self.inner.daemon.send(DaemonRequest::Shutdown(mode)).await.map_err(|_| Gone)?;
                Ok(json!({ "stopping": true }))
            }
        }
    }

    /// That the agent lives, and which of the threads that answers come from does nothing at all.
    async fn pulse(&self) -> Value {
        let Inner { core, fib, speaker, .. } = &*self.inner;
        let rib = async {
            if let Some(speaker) = speaker {
                _ = speaker.query(|_| ()).await;
            }
        };
        let (core, fib, rib) = tokio::join!(
            pulse::feel("core", async { _ = core.ask(|_| ()).await }),
            pulse::feel("fib", async { _ = fib.alive().await }),
            pulse::feel("rib", rib),
        );
        let stuck: Vec<String> = [core, fib, rib].into_iter().flatten().map(|s| s.to_string()).collect();
        json!({ "alive": true, "stuck": stuck })
    }

    /// What keeps packets of containers from the routes, though the routes are right.
    fn surroundings(config: &Config) -> Result<Vec<String>, Failure> {
        let pools: Vec<Prefix> = config.pools.iter().map(|pool| pool.cidr).collect();
        rules::problems(config.routes.table, &pools)
    }

    fn vrf_problems(config: &Config) -> Result<Vec<String>, Failure> {
        vrf::problems(config.bgp.iter().flat_map(|bgp| &bgp.peers).map(|peer| &peer.address))
    }

    /// Compares the kernel's routes with the intent.
    async fn verify(&self) -> Result<Vec<Difference>, Failure> {
        let verify = async || {
            let differences = self.inner.fib.verify().await?;
            differences.map_err(|e| Failure::new(e.to_string()).with_hint("try again"))
        };
        let first = verify().await?;
        if first.is_empty() {
            return Ok(first);
        }
        // An ADD or DEL under way writes to the kernel what the FIB hears of a moment later: when the core is through
        // with it, only what is really different is left.
        self.inner.core.ask(|_| ()).await?;
        let mut second = verify().await?;
        second.retain(|d| first.iter().any(|f| (&f.what, f.kind) == (&d.what, d.kind)));
        Ok(second)
    }

    fn speaker(&self) -> Result<&SpeakerHandle, Failure> {
        self.inner.speaker.as_ref().ok_or_else(|| {
            Failure::new("this agent has no BGP speaker")
                .with_hint("add a [bgp] table to the configuration and restart")
        })
    }

    async fn peers(&self) -> Result<Vec<Value>, Failure> {
        let Some(speaker) = &self.inner.speaker else { return Ok(Vec::new()) };
        let peers = speaker.peers().await?;
        let kept_out = self.kept_out(speaker).await?;
        let with_kept_out = |peer: &PeerStatus| {
            let mut row = value(peer)?;
            row["not_installed"] = value(kept_out.get(&peer.id).cloned().unwrap_or_default())?;
            Ok(row)
        };
        peers.iter().map(with_kept_out).collect()
    }

    /// The families of a neighbour's session; none without one.
    pub(super) async fn families_of(&self, peer: &str) -> Result<Vec<Family>, Failure> {
        let peers = self.speaker()?.peers().await?;
        let session = peers.into_iter().find(|row| row.peer == peer && row.uptime_seconds.is_some());
        session.map(|row| row.families).ok_or_else(|| Failure::new("the session is over"))
    }

    /// How many best routes of each neighbour are not in the kernel, by reason.
    async fn kept_out(
        &self,
        speaker: &SpeakerHandle,
    ) -> Result<HashMap<PeerId, BTreeMap<Reason, u64>>, Failure> {
        let mut counts: HashMap<PeerId, BTreeMap<Reason, u64>> = HashMap::new();
        let summary = self.inner.fib.summary().await?;
        if summary.unresolved + summary.rejected + summary.conflicts + summary.refused == 0 {
            return Ok(counts);
        }
        let filter = RouteFilter { problems: true, ..RouteFilter::default() };
        let list: Vec<_> = self
            .inner
            .fib
            .routes(filter)
            .await?
            .into_iter()
            .filter_map(|r| Some((r.prefix, r.reason?)))
            .collect();
        // Piece by piece, so that the RIB never stops for long.
        for piece in list.chunks(2000) {
            let piece = piece.to_vec();
            let from = move |rib: &mut Rib| {
                piece.iter().map(|(prefix, reason)| (rib.best_from(*prefix), *reason)).collect::<Vec<_>>()
            };
            for (peer, reason) in speaker.query(from).await? {
                if let Some(peer) = peer {
                    *counts.entry(peer).or_default().entry(reason).or_default() += 1;
                }
            }
        }
        Ok(counts)
    }

    async fn collectors(&self) -> Result<Vec<Value>, Failure> {
        let Some(speaker) = &self.inner.speaker else { return Ok(Vec::new()) };
        speaker.collectors().await?.iter().map(value).collect()
    }

    /// Resets one session, or all of them, or refreshes the routes in both directions.
    async fn clear(&self, peer: &str, soft: bool) -> Result<Value, Failure> {
        let speaker = self.speaker()?;
        let names: Vec<String> = match peer {
            "*" => speaker.peers().await?.into_iter().map(|p| p.peer).collect(),
            one => vec![one.to_owned()],
        };
        for name in &names {
            if soft {
                speaker.act(name, PeerAction::RefreshIn).await?;
                speaker.act(name, PeerAction::RefreshOut).await?;
            } else {
                speaker.act(name, PeerAction::Reset).await?;
            }
        }
        Ok(json!({ "count": names.len() }))
    }

    /// Says behind which next hop the host is that enforces the other side.
    async fn name_hosts(&self, explanation: &mut Value) {
        for (side, end) in [("egress", "source"), ("ingress", "destination")] {
            if explanation[side]["enforced_here"] != false {
                continue;
            }
            let Some(addr) = explanation["flow"][end].as_str().and_then(|text| text.parse().ok()) else {
                continue;
            };
            let filter = RouteFilter { prefix: Some(Prefix::host(addr)), ..RouteFilter::default() };
            let gateway = match self.inner.fib.routes(filter).await {
                Ok(routes) => routes.into_iter().flat_map(|r| r.next_hops).find_map(|hop| hop.gateway),
                Err(_) => None,
            };
            explanation[side]["host"] = gateway.map(|g| g.to_string()).into();
        }
    }

    async fn status(&self) -> Result<Value, Failure> {
        let config = self.config();
        let peers = self.peers().await?;
        let established = peers.iter().filter(|p| p["state"] == "Established").count();
        let (endpoints, mended, policies, mut problems, attention, kept, drops) = self
            .inner
            .core
            .ask(|c| {
                let policies = c.policies();
                let (endpoints, kept) = (c.endpoint_count(), policies.kept());
                let drops: Vec<String> =
                    policies.known_foreign_drops().iter().map(|(what, _)| what.clone()).collect();
                (endpoints, c.mended(), policies.count(), policies.problems(), c.attention(), kept, drops)
            })
            .await?;
        let fib = self.inner.fib.summary().await?;
        // What is wrong with policies is told by those who read them.
        if let Some(reason) =
            self.refused().filter(|reason| !problems.iter().any(|p| reason.contains(p.as_str())))
        {
            problems
                .push(format!("the last reload failed, and the former configuration is in force: {reason}"));
        }
        problems.extend(attention);
        let wait = self.inner.gate.wait(Instant::now());
        problems.extend(wait.as_ref().map(ToString::to_string));
        problems.extend(drops.iter().map(|what| {
            format!("another firewall: {what}; `slash32 doctor` says what lets containers through")
        }));
        problems.extend(shared::lines(&self.shared()));
        problems.extend(fib.problems());
        problems.extend(sysctls::missing());
        problems.extend(Self::surroundings(&config)?);
        problems.extend(Self::vrf_problems(&config)?);
        for peer in &peers {
            if peer["state"] != "Established" {
                let error = peer["last_error"].as_str().map_or_else(String::new, |e| format!(": {e}"));
                problems.push(format!(
                    "neighbour {} is {}{error}",
                    peer["peer"].as_str().unwrap_or("?"),
                    peer["state"].as_str().unwrap_or("?")
                ));
            }
        }
        let bgp = config.bgp.as_ref();
        let collectors = self.collectors().await?;
        for collector in collectors.iter().filter(|c| c["state"] != "connected") {
            let error = collector["last_error"].as_str().map_or_else(String::new, |e| format!(": {e}"));
            let address = collector["collector"].as_str().unwrap_or("?");
            problems.push(format!("BMP collector {address} is not connected{error}"));
        }
        let update_log = match &self.inner.speaker {
            Some(speaker) => speaker.update_log().await?,
            None => None,
        };
        if let Some(error) = update_log.as_ref().and_then(|log| log.error.as_ref()) {
            problems.push(format!("the log of updates: {error}"));
        }
        let rib = match &self.inner.speaker {
            Some(speaker) => Some(speaker.query(|rib| rib.stats()).await?),
            None => None,
        };
        if rib.as_ref().is_some_and(|rib| rib.draining) {
            problems.push(DRAINING.to_owned());
        }
        Ok(json!({
            "ready": true,
            "version": env!("CARGO_PKG_VERSION"),
            "hostname": config.hostname,
            "pid": std::process::id(),
            "uptime_seconds": self.inner.started.elapsed().as_secs(),
            "config": config.file,
            "run_dir": config.run_dir,
            "asn": bgp.map(|b| b.asn.get()),
            "router_id": bgp.map(|b| b.router_id.to_string()),
            "peers": peers.len(),
            "peers_established": established,
            "rib": rib,
            "bmp": collectors,
            "mrt": update_log,
            "adds_waiting": wait.map(|wait| {
                json!({ "count": wait.adds, "neighbours": wait.neighbours, "seconds": wait.seconds() })
            }),
            "endpoints": endpoints,
            "endpoints_repaired": mended,
            "policies": policies,
            "foreign_drops": drops,
            "identities_kept": { "count": kept.count, "oldest_seconds": kept.age.as_secs() },
            "routes_learned": fib.ipv4 + fib.ipv6,
            "routes_installed": fib.installed,
            "routes": fib,
            "problems": problems,
        }))
    }

    async fn facts(&self) -> Result<doctor::Facts, Failure> {
        let config = self.config();
        let (
            endpoints,
            leases,
            attention,
            drops,
            marks,
            forged,
            policy_error,
            mut file_errors,
            kept,
            left_out,
        ) = self
            .inner
            .core
            .ask(|c| {
                (
                    c.endpoints_by_family(),
                    c.lease_problems(),
                    c.attention(),
                    c.foreign_drops(),
                    c.policies_mut().foreign_marks(),
                    c.policies_mut().forged(),
                    c.policies().failed(),
                    c.policies().file_errors().to_vec(),
                    c.policies().kept(),
                    c.left_out(),
                )
            })
            .await?;
        if let Err(error) = config::load(&config.file, &super::host::surroundings()) {
            file_errors.push(error.to_string());
        }
        let pool_routes = match &self.inner.speaker {
            Some(speaker) => {
                rib_queries::pool_routes(speaker, config.pools.iter().map(|p| p.cidr).collect()).await?
            }
            None => (0, 0),
        };
        let differences = self.verify().await?.len();
        let summary = self.inner.fib.summary().await?;
        let local6 = endpoints[1];
        Ok(doctor::Facts {
            sysctls: sysctls::missing(),
            peers: self.peers().await?,
            bgp: config.bgp.is_some(),
            route_differences: differences,
            pool_routes,
            kept_identities: (kept.count, kept.age.as_secs()),
            leases,
            attention,
            foreign_drops: drops,
            foreign_marks: marks,
            forged,
            policy: config.policy.enabled,
            policy_error,
            file_errors,
            rules: Self::surroundings(&config)?,
            vrf: Self::vrf_problems(&config)?,
            limits: limits::problems(limits::Load { endpoints, routes6: summary.ipv6 + local6 }),
            route_problems: summary.problems(),
            routes_rejected: summary.rejected - summary.over_limit,
            nexthop_objects: summary.nexthop_objects,
            tcp_ao: config
                .bgp
                .as_ref()
                .filter(|bgp| bgp.uses_tcp_ao())
                .map(|_| tcp_ao::supported().unwrap_or(false)),
            draining: match &self.inner.speaker {
                Some(speaker) => speaker.query(|rib| rib.stats().draining).await?,
                None => false,
            },
            left_out,
            adds_wait: self.inner.gate.wait(Instant::now()).map(|wait| wait.to_string()),
            shared: shared::lines(&self.shared()),
            pools: config.pools.len(),
            pools_without_block: config
                .pools
                .iter()
                .filter(|p| p.blocks.is_empty())
                .map(|p| p.cidr.to_string())
                .collect(),
        })
    }

    /// The metrics page.
    pub(super) async fn metrics(&self) -> String {
        let mut page = metrics::Page::default();
        page.metric("slash32_uptime_seconds", "gauge", "Seconds since the agent started.");
        page.sample("slash32_uptime_seconds", &[], self.inner.started.elapsed().as_secs());
        let peers = self.peers().await.unwrap_or_default();
        metrics::peers(&mut page, &peers);
        metrics::refusals(&mut page, &peers);
        if let Some(speaker) = &self.inner.speaker
            && let Ok(sessions) = speaker.bfd().await
        {
            metrics::bfd(&mut page, &sessions);
        }
        metrics::collectors(&mut page, &self.collectors().await.unwrap_or_default());
        if let Some(speaker) = &self.inner.speaker
            && let Ok(Some(log)) = speaker.update_log().await
        {
            metrics::update_log(&mut page, &log);
        }
        if let Some(speaker) = &self.inner.speaker
            && let Ok(stats) = speaker.query(|rib| rib.stats()).await
        {
            metrics::rib(&mut page, &stats);
        }
        if let Ok(fib) = self.inner.fib.summary().await {
            metrics::routes(&mut page, &fib);
        }
        let facts = self
            .inner
            .core
            .ask(|c| (c.cni_stats().clone(), c.ipam_usage(), c.attention_counts(), c.mended()));
        if let Ok((stats, usage, attention, mended)) = facts.await {
            stats.write(&mut page);
            metrics::addresses(&mut page, &usage);
            let blocks: Vec<Prefix> = usage.iter().filter(|b| b.local).map(|b| b.block).collect();
            shared::write(&mut page, &blocks, &self.shared());
            metrics::attention(&mut page, &attention);
            metrics::mended(&mut page, mended);
            self.inner.gate.write(&mut page);
        }
        let facts = self.inner.core.ask(|c| (c.endpoint_count(), c.policies_mut().figures()));
        if let Ok((endpoints, policies)) = facts.await {
            metrics::gauge(
                &mut page,
                "slash32_endpoints",
                "Containers attached on this host.",
                endpoints as u64,
            );
            policies.write(&mut page);
        }
        page.finish()
    }
}
