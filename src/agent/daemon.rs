//! Starts the owners in order, carries changes between them, and ends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::{
    Options,
    actor::Actor,
    addresses,
    announce::{Announcer, Telling},
    config::Config,
    core::{Core, Elsewhere, Outside, RemoteChange, Word},
    files::{self, Fingerprint},
    flows::Flows,
    former,
    gate::Gate,
    host_ends, load,
    logging::{self, FilterHandle},
    metrics::MetricsPage,
    policies::Policies,
    run_dir::{self, RunDir},
    service::{DaemonRequest, Service},
    settling::Settling,
    shared, sysctls,
};
use crate::{
    api::{Failure, ShutdownMode},
    bgp::{
        rib::BestChange,
        speaker::{Shutdown, Speaker, SpeakerEvent, SpeakerEvents, SpeakerHandle},
    },
    cni::attach::RETIRED,
    model::{EndpointId, Prefix},
    netlink::{NftEvent, NftWatch, link::Link},
    routes::thread::{FibCommand, FibHandle, FibStopped, OwnAddresses, RouteChange},
};

/// A marker in the run directory: an agent ran here since boot and left its routes in the kernel on purpose.
const MARKER: &str = "speaker.running";

/// How often the host's own addresses are looked at.
const LOOK_AT_ADDRESSES: Duration = Duration::from_secs(2);

/// The running agent, as seen by the loop that holds it together.
struct Daemon {
    options: Options,
    log: FilterHandle,
    service: Service,
    fib: FibHandle,
    speaker: Option<SpeakerHandle>,
    metrics: MetricsPage,
}

pub(super) async fn run(options: Options, config: Arc<Config>, log: FilterHandle) -> anyhow::Result<()> {
    sysctls::apply().context("cannot switch IP forwarding on")?;
    let (requests, mut from_service) = mpsc::channel(16);
    let former = former::take_over(&config.run_dir, config.routes.protocol)?;
    let (fib, _thread) =
        FibHandle::start(super::fib_config(&config, former)).context("cannot read the kernel's routes")?;
    blackholes(&fib, &config).await?;
    protect(&fib, &config).await?;
    // Endpoints first: they are announced with the very first UPDATE after a restart, before End-of-RIB.
    let own = fib.own_addresses().await?;
    let core = start_core(config.clone(), fib.clone(), own.clone()).await?;
    let gate = gate(&config);
    let (speaker, events) = start_speaker(&config, &core, &fib).await?;
    watch_tables(&core).await?;
    addresses::watch(core.clone()).context("cannot watch the host's addresses")?;
    let service =
        Service::new(core.clone(), fib.clone(), speaker.clone(), requests, gate.clone(), config.clone());
    let markers = speaker.is_some().then(|| config.run_dir.join(MARKER)).into_iter().collect();
    let mut run_dir = RunDir::open(&config.run_dir, config.routes.protocol, markers, &service)?;
    let metrics = MetricsPage::start(config.metrics_listen, &service).await?;
    let (ended, speaker_ended) = oneshot::channel();
    let mut speaker_ended = speaker.is_some().then_some(speaker_ended);
    let mut daemon = Daemon { options, log, service: service.clone(), fib: fib.clone(), speaker, metrics };
    let routes = fib.clone();
    if let Some(speaker) = &daemon.speaker {
        tell_costs(&fib, speaker.clone()).await?;
        tokio::spawn(shared::watch(service.clone(), speaker.clone()));
    }
    let told_in = config.run_dir.clone();
    tokio::spawn(async move {
        gate.opens().await;
        run_dir::note_told(&told_in);
    });
    tell_gone(&fib, service.core().clone()).await?;
    host_ends::watch(&core).context("cannot watch the host's interfaces")?;
    tokio::spawn(tell_own(fib.clone(), service.core().clone(), own));
    if let Some(events) = events {
        tokio::spawn(pump(events, service.clone(), fib, ended));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut look = tokio::time::interval(files::INTERVAL);
    let unsettled = service.core().ask(|core| core.policies().unsettled()).await?;
    let mut folder = Settling::new((!unsettled).then(|| Fingerprint::of_folder(&config.policy_dir)));
    tracing::info!(
        hostname = config.hostname,
        config = %config.file.display(),
        run_dir = %config.run_dir.display(),
        "slash32 {} is ready",
        env!("CARGO_PKG_VERSION")
    );
    let mode = loop {
        tokio::select! {
            Some(request) = from_service.recv() => match request {
                DaemonRequest::Reload(reply) => {
                    // The asker may have gone away.
                    let _ = reply.send(daemon.reload_and_tell().await);
                }
                DaemonRequest::Shutdown(mode) => break mode,
            },
            () = gone(&mut speaker_ended) => {
                run_dir.close();
                anyhow::bail!("the BGP speaker has ended; start the agent again");
            }
            () = core.ended() => {
                run_dir.close();
                anyhow::bail!("the thread of endpoints and policies has ended; start the agent again");
            }
            () = routes.ended() => {
                run_dir.close();
                anyhow::bail!("the thread that writes routes has ended; start the agent again");
            }
            _ = terminate.recv() => break ShutdownMode::Restart,
            _ = interrupt.recv() => break ShutdownMode::Restart,
            _ = hangup.recv() => {
                if let Err(failure) = daemon.reload_and_tell().await {
                    tracing::error!("reload: {failure}");
                }
            }
            _ = look.tick() => {
                run_dir.look().await;
                if folder.look(&daemon.service.config().policy_dir, Instant::now()) {
                    daemon.reload_policies().await;
                }
            }
        }
    };
    run_dir.close();
    daemon.stop(mode).await;
    Ok(())
}

/// Resolves when the speaker has ended by itself; never without one.
async fn gone(ended: &mut Option<oneshot::Receiver<()>>) {
    match ended {
        // An error means that the task died, which is no better.
        Some(ended) => _ = ended.await,
        None => std::future::pending().await,
    }
}

/// Puts our nftables table back when somebody else touches it.
async fn watch_tables(core: &Actor<Core>) -> anyhow::Result<()> {
    let Some(port) = core.ask(|c| c.policies().port()).await? else { return Ok(()) };
    let watched = core.clone();
    // A look takes in all that has happened before it; more than one need not wait.
    let waiting = Arc::new(AtomicBool::new(false));
    let concerns_us = |event: &NftEvent| match event {
        NftEvent::Changed { table, .. } => table == "slash32",
        NftEvent::Overrun => true,
    };
    let others = Arc::new(AtomicBool::new(false));
    NftWatch::spawn("nft-watch", &[port], move |event| {
        if !concerns_us(&event) {
            if others.swap(true, Ordering::AcqRel) {
                return true;
            }
            let others = others.clone();
            let note = move |core: &mut Core| {
                others.store(false, Ordering::Release);
                core.policies_mut().others_changed();
            };
            return watched.tell(note).is_ok();
        }
        if waiting.swap(true, Ordering::AcqRel) {
            return true;
        }
        let waiting = waiting.clone();
        let look = move |core: &mut Core| {
            waiting.store(false, Ordering::Release);
            core.table_changed();
        };
        watched.tell(look).is_ok()
    })
    .context("cannot watch nftables")?;
    // Nobody was told of what happened between the loading of the table and now.
    core.tell(Core::table_changed)?;
    Ok(())
}

/// An unused address of the host's own blocks must not loop between host and switch.
async fn blackholes(fib: &FibHandle, config: &Config) -> Result<(), FibStopped> {
    for block in config.pools.iter().flat_map(|pool| &pool.blocks) {
        fib.send(FibCommand::SetBlackhole(*block)).await?;
    }
    Ok(())
}

/// No learned route may take over the way to a neighbour.
async fn protect(fib: &FibHandle, config: &Config) -> Result<(), FibStopped> {
    fib.send(FibCommand::Protect(config.neighbours().collect())).await
}

/// Carries what the speaker learns to the kernel's routes and to the policies. Waits while the FIB has more than
/// enough to do; the RIB coalesces changes meanwhile.
async fn pump(mut events: SpeakerEvents, service: Service, fib: FibHandle, ended: oneshot::Sender<()>) {
    while let Some(event) = events.recv().await {
        if let SpeakerEvent::PeerDown { peer, .. } = &event {
            let peer = peer.clone();
            // Without a core there is nothing to be remembered.
            let _ = service.core().tell(move |core: &mut Core| core.policies_mut().session_over(&peer));
        }
        let done = match event {
            SpeakerEvent::Best(changes) => best_paths(changes, &service, &fib).await,
            SpeakerEvent::Converged => {
                if service.core().tell(Core::converged).is_err() {
                    tracing::error!("the core has stopped");
                }
                fib.send(FibCommand::SweepStale(None)).await
            }
            SpeakerEvent::Complete { peer, family } => {
                let name = peer.clone();
                let complete = move |core: &mut Core| core.policies_mut().complete(name, family);
                if service.core().tell(complete).is_err() {
                    tracing::error!("the core has stopped");
                }
                // Behind all that it has told.
                service.gate().told(&peer, family);
                Ok(())
            }
            SpeakerEvent::NextHops(uses) => fib.send(FibCommand::WatchNextHops(uses)).await,
            SpeakerEvent::PeerUp { peer, address: (addr, ifindex), .. } => {
                if !service.gate().is_open() {
                    tokio::spawn(negotiated(service.clone(), peer));
                }
                fib.send(FibCommand::NextHopUp(addr, ifindex)).await
            }
            // One message for each set of next hops, instead of one for each route that is going to be withdrawn.
            SpeakerEvent::PeerDown { gone: Some((addr, ifindex)), retained, .. } => {
                let command = if retained { FibCommand::NextHopSuspect } else { FibCommand::NextHopDown };
                fib.send(command(addr, ifindex)).await
            }
            SpeakerEvent::PeerDown { gone: None, .. } => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!("{error}");
        }
    }
    // The loop that holds everything together may have ended first.
    let _ = ended.send(());
}

/// A family that a session does not have is not waited for.
async fn negotiated(service: Service, peer: String) {
    if let Ok(families) = service.families_of(&peer).await {
        service.gate().negotiated(&peer, &families);
    }
}

/// Carries what the kernel's routes say of next hops to the speaker, which chooses paths by it.
async fn tell_costs(fib: &FibHandle, speaker: SpeakerHandle) -> Result<(), FibStopped> {
    let (sender, mut news) = mpsc::unbounded_channel();
    fib.send(FibCommand::TellReach(sender)).await?;
    tokio::spawn(async move {
        while let Some(news) = news.recv().await {
            for reach in &news {
                if let Some(cost) = reach.cost {
                    tracing::debug!(next_hop = %reach.gateway, cost, "a next hop can be reached");
                } else {
                    tracing::info!(next_hop = %reach.gateway, "no route leads to a next hop");
                }
            }
            let costs = news.iter().map(|reach| (reach.gateway, reach.ifindex, reach.cost)).collect();
            if speaker.set_next_hop_costs(costs).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Carries the names of interfaces that are gone to the core: those of containers whose namespace is gone. What a DEL has
/// retired is known to be about to go.
async fn tell_gone(fib: &FibHandle, core: Actor<Core>) -> Result<(), FibStopped> {
    let (sender, mut links) = mpsc::unbounded_channel::<Link>();
    fib.send(FibCommand::TellGone(sender)).await?;
    tokio::spawn(async move {
        while let Some(link) = links.recv().await {
            let ours = link.name.starts_with(EndpointId::PREFIX) && link.group != RETIRED;
            if ours && core.tell(move |core| core.link_gone(&EndpointId(link.name))).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Carries the host's own addresses to the core when they have changed. That may take a moment: before one is given, the
/// kernel is asked whether it is the host's.
async fn tell_own(fib: FibHandle, core: Actor<Core>, mut known: OwnAddresses) {
    let mut look = tokio::time::interval(LOOK_AT_ADDRESSES);
    loop {
        look.tick().await;
        let Ok(own) = fib.own_addresses().await else { return };
        if own == known {
            continue;
        }
        known.clone_from(&own);
        if core.tell(move |core| core.own_addresses(&own)).is_err() {
            return;
        }
    }
}

/// Routes go to the kernel; what they say about endpoints of other hosts goes to the policies.
async fn best_paths(changes: Vec<BestChange>, service: &Service, fib: &FibHandle) -> Result<(), FibStopped> {
    let config = service.config();
    let in_pool = |prefix: Prefix| config.pools.iter().any(|pool| pool.cidr.covers(prefix));
    let remote: Vec<RemoteChange> = changes
        .iter()
        .filter(|change| in_pool(change.prefix))
        .map(|change| {
            let identity = match &change.best {
                Some(best) => best.identity.clone().filter(|_| !best.local),
                None => change.told.as_ref().map(|told| told.identity.clone()),
            };
            let lost = change.told.as_ref().and_then(|told| told.lost);
            let word = match (identity, lost) {
                (None, _) => Word::Nothing,
                (Some(identity), Some(since)) => Word::Lost(identity, since),
                (Some(identity), None) => Word::Known(identity),
            };
            (change.prefix, word)
        })
        .collect();
    let elsewhere: Vec<_> = changes
        .iter()
        .filter(|change| change.prefix.is_host() && in_pool(change.prefix))
        .map(|change| {
            let best = change.best.as_ref().filter(|best| !best.local);
            let elsewhere = best.map_or(Elsewhere::Gone, |best| Elsewhere::Announced(best.sequence));
            (change.prefix.addr(), elsewhere)
        })
        .collect();
    // A new container of another host is known before packets can be routed to it.
    let tell = move |core: &mut Core| {
        core.remote(remote);
        core.elsewhere(elsewhere);
    };
    if changes.iter().any(|change| in_pool(change.prefix)) && service.core().ask(tell).await.is_err() {
        tracing::error!("the core has stopped");
    }
    if !config.routes.install {
        return Ok(());
    }
    let route = |change: BestChange| RouteChange {
        prefix: change.prefix,
        next_hops: change.best.filter(|best| !best.local).map(|best| best.next_hops),
    };
    fib.apply(changes.into_iter().map(route).collect()).await
}

async fn start_core(config: Arc<Config>, fib: FibHandle, own: OwnAddresses) -> anyhow::Result<Actor<Core>> {
    let runtime = tokio::runtime::Handle::current();
    let start = move || {
        let policies = Policies::start(&config)?;
        let telling = Telling::of(&config.policy);
        let outside =
            Outside { policies, announcer: Announcer::new(runtime, telling), fib, flows: Flows::default() };
        Core::start(&config, outside, &own)
    };
    let started = tokio::task::spawn_blocking(move || Actor::start("core", start)).await??;
    let (core, _thread) = started?;
    Ok(core)
}

/// Where ADDs wait for the neighbours, unless an agent of this boot knew what they know and left in order to come back.
fn gate(config: &Config) -> Gate {
    if run_dir::told(&config.run_dir) && config.run_dir.join(MARKER).exists() {
        return Gate::default();
    }
    Gate::closed(config, Instant::now())
}

/// Starts the speaker with the prefixes of the endpoints that live.
async fn start_speaker(
    config: &Config,
    core: &Actor<Core>,
    fib: &FibHandle,
) -> anyhow::Result<(Option<SpeakerHandle>, Option<SpeakerEvents>)> {
    let Some(bgp) = &config.bgp else {
        tracing::warn!("no [bgp] in the configuration: containers of this host only");
        fib.send(FibCommand::SweepStale(None)).await?;
        core.tell(Core::alone)?;
        return Ok((None, None));
    };
    let marker = config.run_dir.join(MARKER);
    let mut speaker_config = bgp.clone();
    speaker_config.restarting = marker.exists();
    speaker_config.bfd_state_dir = Some(config.run_dir.join("bfd"));
    let restarting = speaker_config.restarting;
    let initial = core.ask(|c| c.local_routes()).await?;
    let (speaker, events) = Speaker::start(speaker_config, initial)?;
    let handle = speaker.clone();
    core.ask(move |c| c.announce_with(handle)).await?;
    if !restarting {
        // Nobody will confirm the routes that an agent before the last boot, or one without a speaker, left behind.
        fib.send(FibCommand::SweepStale(None)).await?;
        core.tell(Core::not_restarting)?;
    }
    std::fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))?;
    Ok((Some(speaker), Some(events)))
}

impl Daemon {
    async fn reload_policies(&mut self) {
        match self.service.core().ask(Core::reload_policies).await {
            Ok(Ok(changes)) => changes.iter().for_each(|change| tracing::info!("{change}")),
            Ok(Err(_)) => {} // logged where it was found, and shown by status
            Err(gone) => tracing::error!("{gone}"),
        }
    }

    /// Reloads; what went wrong is shown until a reload succeeds.
    async fn reload_and_tell(&mut self) -> Result<Vec<String>, Failure> {
        let result = self.reload().await;
        self.service.set_refused(result.as_ref().err().map(ToString::to_string));
        result
    }

    /// Reads the configuration and the policies again; nothing changes when the configuration has an error.
    async fn reload(&mut self) -> Result<Vec<String>, Failure> {
        let config = load(&self.options).map_err(|e| {
            Failure::new(e.to_string()).with_hint("the agent goes on with the configuration it has")
        })?;
        let old = self.service.config();
        let config = Arc::new(config);
        let mut changes = restart_needed(&old, &config);
        if old.metrics_listen != config.metrics_listen {
            self.metrics.listen(config.metrics_listen, &self.service).await?;
            changes.push(match config.metrics_listen {
                Some(address) => format!("metrics_listen = {address}"),
                None => "metrics are no longer served".to_owned(),
            });
        }
        if old.log != config.log {
            logging::change(&self.log, &config.log).map_err(|e| Failure::new(e.to_string()))?;
            changes.push(format!("log = {}", config.log));
        }
        if let (Some(speaker), Some(bgp)) = (&self.speaker, &config.bgp) {
            let report = speaker.reconfigure(bgp.clone()).await.map_err(|e| Failure::new(e.to_string()))?;
            changes.extend(super::describe::reconfigured(&report));
            // Whoever is no neighbour any more is no dead one either.
            for address in report.removed.iter().filter_map(|peer| peer.parse().ok()) {
                self.fib.send(FibCommand::NextHopUp(address, 0)).await?;
            }
        }
        protect(&self.fib, &config).await?;
        self.service.set_config(config.clone());
        self.service.gate().reconfigure(&config);
        if old.pools != config.pools {
            for pool in &old.pools {
                for block in &pool.blocks {
                    self.fib.send(FibCommand::RemoveBlackhole(*block)).await?;
                }
            }
            blackholes(&self.fib, &config).await?;
        }
        if old.pools != config.pools || old.policy != config.policy || old.label_rules != config.label_rules {
            changes.push("pools, label rules or policy defaults changed".to_owned());
        }
        if old.mtu != config.mtu {
            changes.push("[network] mtu changed: for new containers".to_owned());
        }
        let rest = |c: &Config| (c.quarantine_seconds, c.ipam_audit_seconds, c.neighbours_wait);
        if rest(&old) != rest(&config) {
            changes.push("[ipam] changed".to_owned());
        }
        let core = self.service.core();
        let policies = core
            .ask(move |core| {
                core.reconfigure(&config);
                core.reload_policies()
            })
            .await?;
        match policies {
            Ok(list) => changes.extend(list),
            Err(errors) => {
                return Err(Failure::new(errors.join("\n")).with_hint("the last good policies stay in force"));
            }
        }
        for change in &changes {
            tracing::info!("reload: {change}");
        }
        Ok(changes)
    }

    async fn stop(self, mode: ShutdownMode) {
        let config = self.service.config();
        let speaker_mode = match mode {
            ShutdownMode::Restart => Shutdown::Restart,
            ShutdownMode::Leave => Shutdown::Cease("the agent was stopped by its administrator".to_owned()),
        };
        tracing::info!("stopping; containers, routes and policies stay in the kernel");
        if let Some(speaker) = &self.speaker {
            let ended = tokio::time::timeout(Duration::from_secs(3), speaker.shutdown(speaker_mode)).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::warn!("the speaker did not end its sessions in time");
            }
        }
        if mode == ShutdownMode::Leave {
            // Not there if there was no speaker.
            let _ = std::fs::remove_file(config.run_dir.join(MARKER));
        }
    }
}

/// Settings that take effect only with a new process.
fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let mut list = Vec::new();
    let mut changed = |what: &str, differs: bool| {
        if differs {
            list.push(format!("{what} changed: takes effect when the agent is restarted"));
        }
    };
    changed("agent.run_dir", old.run_dir != new.run_dir);
    changed("agent.state_dir", old.state_dir() != new.state_dir());
    changed("the presence of [bgp]", old.bgp.is_some() != new.bgp.is_some());
    changed("[routes]", old.routes != new.routes);
    changed("policy.enabled", old.policy.enabled != new.policy.enabled);
    list
}
