//! The thread that owns the [`Fib`], its netlink socket and its notifications.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Difference, Fib, FibConfig, Netlink, Reach,
    status::{RouteFilter, RouteStatus, Summary},
};
use crate::{
    model::{Family, NextHopSet, Prefix},
    netlink::{
        Error, Socket,
        link::Link,
        watch::{KernelEvent, Topic, Watch},
    },
};

/// Commands on their way; a full channel makes the sender wait, which is how the kernel's pace reaches BGP.
const CHANNEL: usize = 256;
/// Routes a step; between steps commands and notifications are taken in.
const BUDGET: usize = 512;
/// Commands taken in between two steps at most.
const COMMANDS: usize = 64;
/// Notifications taken in at once at most.
const EVENTS: usize = 4096;
/// How often the carriers of links in use are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A change of a learned route: where it leads, or none when it is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The destination.
    pub prefix: Prefix,
    /// Where it leads.
    pub next_hops: Option<Arc<NextHopSet>>,
}

/// What the thread is asked to do. See the methods of [`Fib`] of the same names.
#[derive(Debug)]
pub enum FibCommand {
    /// Changes of learned routes, in order.
    Routes(Vec<RouteChange>),
    /// Wants the route to a local container.
    SetLocal(Prefix, u32),
    /// No longer wants it.
    RemoveLocal(Prefix),
    /// Wants a block of the host dropped.
    SetBlackhole(Prefix),
    /// No longer wants it dropped.
    RemoveBlackhole(Prefix),
    /// Stops using a next hop (address, interface or 0) at once.
    NextHopDown(IpAddr, u32),
    /// Uses a next hop only where there is no other.
    NextHopSuspect(IpAddr, u32),
    /// Uses it again.
    NextHopUp(IpAddr, u32),
    /// The neighbours to which no learned route may take over the way.
    Protect(Vec<IpAddr>),
    /// Tells of these next hops (address, interface or 0), or no longer (`false`), through [`FibCommand::TellReach`].
    WatchNextHops(Vec<(IpAddr, u32, bool)>),
    /// Where what leads to the watched next hops is told. Not bounded: nothing is told twice, and in a circle less and
    /// less often.
    TellReach(mpsc::UnboundedSender<Vec<Reach>>),
    /// Where interfaces that are gone are told.
    TellGone(mpsc::UnboundedSender<Link>),
    /// All wanted routes of the family are known.
    SweepStale(Option<Family>),
    /// Reads the kernel anew.
    Resync,
    /// Answers when everything asked for so far has been written, as far as the kernel lets it.
    Settle(oneshot::Sender<()>),
    /// Compares the kernel with what is wanted, after everything asked for so far has been written.
    Verify(oneshot::Sender<Result<Vec<Difference>, Error>>),
    /// Lists routes.
    Show(RouteFilter, oneshot::Sender<Vec<RouteStatus>>),
    /// Everything in numbers.
    Summary(oneshot::Sender<Summary>),
    /// The host's own addresses.
    Own(oneshot::Sender<OwnAddresses>),
    /// Answers, whatever there is to do.
    Alive(oneshot::Sender<()>),
    /// Ends the thread. Routes stay in the kernel: traffic goes on while the agent is replaced. With `true`, learned
    /// and blackhole routes are deleted first.
    Stop(bool, oneshot::Sender<()>),
}

/// The addresses of the host and of whom its own routes lead to, without those that count on one link only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Of all interfaces.
    pub addresses: BTreeSet<IpAddr>,
    /// Gateways of routes that are not ours.
    pub gateways: BTreeSet<IpAddr>,
}

/// The thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread that writes routes has ended")]
pub struct FibStopped;

/// Talks to the thread. Every method waits while the thread has more than enough to do; those that answer something
/// wait for the answer. In synchronous code, use [`Self::send_blocking`].
#[derive(Clone, Debug)]
pub struct FibHandle {
    commands: mpsc::Sender<FibCommand>,
    /// Past all others. Not bounded: what comes here is a word for each time that a session comes or goes.
    express: mpsc::UnboundedSender<FibCommand>,
    urgent: Arc<AtomicUsize>,
}

impl FibCommand {
    /// Whether reading the kernel, which may take long, is to be given up for it.
    const fn is_urgent(&self) -> bool {
        matches!(self, Self::NextHopDown(..) | Self::NextHopSuspect(..))
    }

    /// Whether it goes past the routes that wait: a way that is lost, and the same way when it is back, in their order.
    const fn is_express(&self) -> bool {
        self.is_urgent() || matches!(self, Self::NextHopUp(..))
    }
}

impl FibHandle {
    /// Starts the thread in the caller's network namespace and reads the kernel.
    ///
    /// # Errors
    /// When the kernel cannot be read (no privilege, for instance).
    pub fn start(config: FibConfig) -> Result<(Self, thread::JoinHandle<()>), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Os { call: "tokio runtime", source })?;
        let kernel = Netlink::new(Socket::route()?);
        let watch = {
            let _inside = runtime.enter();
            // Before reading, so that no change falls between.
            Watch::open(&Topic::ALL, &[kernel.port()?])?
        };
        let fib = Fib::new(config, kernel, Instant::now())?;
        let urgent = fib.urgent();
        let (commands, queue) = mpsc::channel(CHANNEL);
        let (express, fast) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("fib".into())
            .spawn(move || {
                let worker = Worker { fib, watch, queue, fast, waiting: Vec::new(), reach: None, gone: None };
                runtime.block_on(worker.run());
            })
            .map_err(|source| Error::Os { call: "spawn thread", source })?;
        Ok((Self { commands, express, urgent }, thread))
    }

    /// Resolves when the thread has ended, which it does only when told to or by a bug.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Sends any command.
    pub async fn send(&self, command: FibCommand) -> Result<(), FibStopped> {
        match self.send_express(command)? {
            Some(command) => self.commands.send(command).await.map_err(|_| FibStopped),
            None => Ok(()),
        }
    }

    /// Sends any command from a thread that is not part of an async runtime.
    pub fn send_blocking(&self, command: FibCommand) -> Result<(), FibStopped> {
        match self.send_express(command)? {
            Some(command) => self.commands.blocking_send(command).map_err(|_| FibStopped),
            None => Ok(()),
        }
    }

    /// Sends what goes past the others; gives back what does not.
    fn send_express(&self, command: FibCommand) -> Result<Option<FibCommand>, FibStopped> {
        if !command.is_express() {
            return Ok(Some(command));
        }
        if command.is_urgent() {
            self.urgent.fetch_add(1, Ordering::Relaxed);
        }
        self.express.send(command).map_err(|_| FibStopped)?;
        Ok(None)
    }

    /// Changes learned routes.
    pub async fn apply(&self, changes: Vec<RouteChange>) -> Result<(), FibStopped> {
        self.send(FibCommand::Routes(changes)).await
    }

    /// Waits until everything asked for so far has been written, as far as the kernel lets it.
    pub async fn settle(&self) -> Result<(), FibStopped> {
        self.ask(FibCommand::Settle).await
    }

    /// Compares the kernel with what is wanted.
    pub async fn verify(&self) -> Result<Result<Vec<Difference>, Error>, FibStopped> {
        self.ask(FibCommand::Verify).await
    }

    /// Lists routes.
    pub async fn routes(&self, filter: RouteFilter) -> Result<Vec<RouteStatus>, FibStopped> {
        self.ask(|answer| FibCommand::Show(filter, answer)).await
    }

    /// Everything in numbers.
    pub async fn summary(&self) -> Result<Summary, FibStopped> {
        self.ask(FibCommand::Summary).await
    }

    /// The host's own addresses, and those of its gateways.
    pub async fn own_addresses(&self) -> Result<OwnAddresses, FibStopped> {
        self.ask(FibCommand::Own).await
    }

    /// Answers when the thread takes in commands.
    pub async fn alive(&self) -> Result<(), FibStopped> {
        self.ask(FibCommand::Alive).await
    }

    /// Ends the thread; see [`FibCommand::Stop`].
    pub async fn stop(&self, remove: bool) -> Result<(), FibStopped> {
        self.ask(|answer| FibCommand::Stop(remove, answer)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> FibCommand) -> Result<T, FibStopped> {
        let (answer, result) = oneshot::channel();
        self.send(command(answer)).await?;
        result.await.map_err(|_| FibStopped)
    }
}

/// Who waits until the queue is empty.
enum Waiting {
    Settle(oneshot::Sender<()>),
    Verify(oneshot::Sender<Result<Vec<Difference>, Error>>),
}

struct Worker {
    fib: Fib<Netlink>,
    watch: Watch,
    queue: mpsc::Receiver<FibCommand>,
    fast: mpsc::UnboundedReceiver<FibCommand>,
    waiting: Vec<Waiting>,
    reach: Option<mpsc::UnboundedSender<Vec<Reach>>>,
    gone: Option<mpsc::UnboundedSender<Link>>,
}

impl Worker {
    async fn run(mut self) {
        let mut look = Instant::now() + LOOK;
        loop {
            if look <= Instant::now() {
                self.fib.look_at_links();
                look = Instant::now() + LOOK;
            }
            let (more, wakeup) = match self.fib.step(Instant::now(), BUDGET) {
                Ok(step) => (step.more, step.wakeup),
                Err(error) => {
                    tracing::warn!(%error, "cannot write routes; trying again");
                    // A resync is due by then.
                    (false, Some(Instant::now() + Duration::from_millis(500)))
                }
            };
            let more_reach = self.tell_reach();
            if more {
                // Take in what is there, and go on.
                if !self.take_in() {
                    return;
                }
                continue;
            }
            self.answer_waiting();
            // What the step has just resolved counts: nothing else may happen for hours.
            let look = self.fib.uses_links().then_some(look);
            let wakeup = [wakeup, more_reach, look].into_iter().flatten().min();
            let sleep = tokio::time::sleep_until(wakeup.map_or_else(far, Into::into));
            tokio::select! {
                // In this order, so that a stream of commands cannot starve the notifications.
                biased;
                event = self.watch.next() => self.event(event),
                Some(command) = self.fast.recv() => {
                    self.command(command);
                }
                command = self.queue.recv() => match command {
                    Some(command) => if !self.command(command) { return },
                    None => return,
                },
                () = sleep => {}
            }
            if !self.take_in() {
                return;
            }
        }
    }

    /// Tells what has changed of the next hops watched; when there is more to tell.
    fn tell_reach(&mut self) -> Option<Instant> {
        let reach = self.reach.as_ref()?;
        let (news, wakeup) = self.fib.poll_reach(Instant::now());
        if !news.is_empty() {
            // Whoever listened may have ended first.
            let _ = reach.send(news);
        }
        wakeup
    }

    fn event(&mut self, event: Result<KernelEvent, Error>) {
        match event {
            Ok(event) => {
                if let (Some(gone), KernelEvent::LinkGone(link)) = (&self.gone, &event) {
                    // Whoever listened may have ended first.
                    let _ = gone.send(link.clone());
                }
                self.fib.handle_event(event, Instant::now());
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the kernel's notifications");
                self.fib.resync(Instant::now() + Duration::from_secs(1));
                // Do not spin.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Takes in what is there already, without giving way to anybody: commands, and before each of them what is more
    /// urgent than routes. False when the thread is to end.
    fn take_in(&mut self) -> bool {
        self.take_in_news();
        for _ in 0..COMMANDS {
            match self.queue.try_recv() {
                Ok(command) => {
                    if !self.command(command) {
                        return false;
                    }
                }
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
            // A thousand routes take their time; what happened meanwhile goes to the kernel before the next thousand.
            if self.take_in_news() {
                break;
            }
        }
        true
    }

    /// Takes in notifications and what goes past the routes; whether there was any.
    fn take_in_news(&mut self) -> bool {
        let mut any = false;
        while let Ok(command) = self.fast.try_recv() {
            self.command(command);
            any = true;
        }
        for _ in 0..EVENTS {
            let Some(event) = self.watch.try_next().transpose() else { break };
            any = true;
            let failed = event.is_err();
            self.event(event);
            if failed {
                break;
            }
        }
        any
    }

    /// Does what a command says; false when it ends the thread.
    fn command(&mut self, command: FibCommand) -> bool {
        let fib = &mut self.fib;
        if command.is_urgent() {
            fib.urgent().fetch_sub(1, Ordering::Relaxed);
        }
        match command {
            FibCommand::Routes(changes) => {
                for change in changes {
                    match change.next_hops {
                        Some(next_hops) => fib.set(change.prefix, &next_hops),
                        None => fib.remove(change.prefix),
                    }
                }
            }
            FibCommand::SetLocal(prefix, ifindex) => fib.set_local(prefix, ifindex),
            FibCommand::RemoveLocal(prefix) => fib.remove_local(prefix),
            FibCommand::SetBlackhole(prefix) => fib.set_blackhole(prefix),
            FibCommand::RemoveBlackhole(prefix) => fib.remove_blackhole(prefix),
            FibCommand::NextHopDown(gateway, ifindex) => {
                tracing::info!(%gateway, "a lost neighbour: no route uses it from now on");
                fib.mark_next_hop_down(gateway, ifindex);
            }
            FibCommand::NextHopSuspect(gateway, ifindex) => {
                tracing::info!(%gateway, "a neighbour that may be lost: used only where there is no other");
                fib.suspect_next_hop(gateway, ifindex);
            }
            FibCommand::NextHopUp(gateway, ifindex) => fib.mark_next_hop_up(gateway, ifindex),
            FibCommand::WatchNextHops(next_hops) => {
                for (gateway, ifindex, on) in next_hops {
                    if on {
                        fib.watch_next_hop(gateway, ifindex);
                    } else {
                        fib.unwatch_next_hop(gateway, ifindex);
                    }
                }
            }
            FibCommand::TellReach(reach) => self.reach = Some(reach),
            FibCommand::TellGone(gone) => self.gone = Some(gone),
            FibCommand::Protect(neighbours) => fib.protect(neighbours),
            FibCommand::SweepStale(family) => fib.sweep_stale(family),
            FibCommand::Resync => fib.resync(Instant::now()),
            FibCommand::Settle(answer) => self.waiting.push(Waiting::Settle(answer)),
            FibCommand::Verify(answer) => self.waiting.push(Waiting::Verify(answer)),
            FibCommand::Show(filter, answer) => reply(answer, fib.routes(filter)),
            FibCommand::Summary(answer) => reply(answer, fib.summary()),
            FibCommand::Own(answer) => reply(answer, fib.own_addresses()),
            FibCommand::Alive(answer) => reply(answer, ()),
            FibCommand::Stop(remove, answer) => {
                if remove {
                    self.remove_all();
                }
                reply(answer, ());
                return false;
            }
        }
        true
    }

    fn answer_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Settle(answer) => reply(answer, ()),
                Waiting::Verify(answer) => match self.fib.verify() {
                    Err(Error::Interrupted) => self.waiting.push(Waiting::Verify(answer)),
                    result => reply(answer, result),
                },
            }
        }
    }

    fn remove_all(&mut self) {
        self.fib.clear();
        loop {
            match self.fib.step(Instant::now(), BUDGET) {
                Ok(step) if step.more => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot delete all routes");
                    return;
                }
            }
        }
    }
}

/// Answers; that nobody waits for it any more is no error.
fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    let _not_wanted = answer.send(value);
}

/// No deadline: the audit sets one long before.
fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(3600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::NextHop,
        netlink::{Batch, addr, link, ns::testing, route},
    };

    fn delete(socket: &mut Socket, prefix: &str) {
        let key =
            route::Key { prefix: prefix.parse().unwrap(), table: route::TABLE_MAIN, protocol: 32, metric: 0 };
        let mut batch = Batch::new();
        route::push_delete(&mut batch, &key, route::RouteKind::Other(0), None);
        socket.execute(&mut batch).unwrap();
    }

    /// A link that is up, with 192.0.2.0/31; 192.0.2.1 is behind it.
    fn uplink() -> Socket {
        let mut socket = Socket::route().unwrap();
        link::create_veth(&mut socket, "va", "vb", None).unwrap();
        for name in ["va", "vb"] {
            let index = link::by_name(&mut socket, name).unwrap().index;
            link::set_up(&mut socket, index).unwrap();
        }
        let dev = link::by_name(&mut socket, "va").unwrap().index;
        addr::add(&mut socket, dev, "192.0.2.0".parse().unwrap(), 31).unwrap();
        socket
    }

    #[test]
    fn the_thread_writes_repairs_and_ends() {
        testing::private(|| {
            let mut socket = uplink();
            let (fib, thread) = FibHandle::start(FibConfig::default()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let hops: Arc<NextHopSet> =
                Arc::new([NextHop::via("192.0.2.1".parse().unwrap())].into_iter().collect());
            let change = |i: u8| RouteChange {
                prefix: Prefix::host([10, 1, 0, i].into()),
                next_hops: Some(Arc::clone(&hops)),
            };
            runtime.block_on(async {
                fib.apply((0..100).map(change).collect()).await.unwrap();
                fib.settle().await.unwrap();
                assert_eq!(fib.verify().await.unwrap().unwrap(), []);
                assert_eq!(fib.summary().await.unwrap().installed, 100);
                // Its notification reaches the thread before the answer that we wait for, or soon after.
                delete(&mut socket, "10.1.0.7/32");
                let mut repaired = 0;
                while repaired == 0 {
                    repaired = fib.summary().await.unwrap().counters.repaired;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                fib.settle().await.unwrap();
                assert_eq!(fib.verify().await.unwrap().unwrap(), []);
                let filter = RouteFilter { limit: 3, ..RouteFilter::default() };
                assert_eq!(fib.routes(filter).await.unwrap().len(), 3);
                fib.stop(true).await.unwrap();
                assert_eq!(fib.settle().await, Err(FibStopped));
            });
            thread.join().unwrap();
            let ours = route::Filter { table: None, protocol: Some(32) };
            assert_eq!(route::list(&mut socket, Family::Ipv4, ours).unwrap(), []);
        });
    }

    /// The kernel may tell of a lost carrier late. It is asked, also when nothing has happened since the first route.
    #[test]
    fn links_in_use_are_looked_at() {
        testing::private(|| {
            uplink();
            let (fib, thread) = FibHandle::start(FibConfig::default()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // Quiet: all that the kernel tells of the link has come.
            thread::sleep(Duration::from_millis(1500));
            runtime.block_on(async {
                let looks = async || fib.summary().await.unwrap().counters.looks;
                let hops = [NextHop::via("192.0.2.1".parse().unwrap())].into_iter().collect();
                let prefix = Prefix::host([10, 1, 0, 1].into());
                assert_eq!(looks().await, 0, "none is in use");
                fib.apply(vec![RouteChange { prefix, next_hops: Some(Arc::new(hops)) }]).await.unwrap();
                tokio::time::sleep(20 * LOOK).await;
                // One may be due to our question.
                assert!(looks().await > 1);
                fib.stop(true).await.unwrap();
            });
            thread.join().unwrap();
        });
    }

    /// What the kernel tells is heard between the routes, not after them.
    #[test]
    fn news_does_not_wait_for_routes() {
        const ROUTES: u32 = 40_000;
        testing::private(|| {
            let mut socket = uplink();
            let (fib, thread) = FibHandle::start(FibConfig::default()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let hops: Arc<NextHopSet> =
                Arc::new([NextHop::via("192.0.2.1".parse().unwrap())].into_iter().collect());
            let all = |next_hops: Option<Arc<NextHopSet>>| {
                let change = move |i: u32| RouteChange {
                    prefix: Prefix::host(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).into()),
                    next_hops: next_hops.clone(),
                };
                (0..ROUTES).map(change).collect::<Vec<_>>()
            };
            let heard_between = runtime.block_on(async {
                fib.settle().await.unwrap();
                // This thread may be late, but not each time.
                for round in 0..10 {
                    let before = fib.summary().await.unwrap().foreign;
                    fib.apply(all((round % 2 == 0).then(|| Arc::clone(&hops)))).await.unwrap();
                    let wanted = if round % 2 == 0 { ROUTES as usize } else { 0 };
                    while fib.summary().await.unwrap().ipv4 != wanted {}
                    let prefix = Prefix::new([198, 51, 100, round].into(), 32).unwrap();
                    let key = route::Key { prefix, table: route::TABLE_MAIN, protocol: 4, metric: 0 };
                    let mut batch = Batch::new();
                    route::push(&mut batch, &key, route::Target::Blackhole, route::Mode::Create);
                    socket.execute(&mut batch).unwrap();
                    let pending = loop {
                        let summary = fib.summary().await.unwrap();
                        if summary.foreign > before {
                            break summary.pending;
                        }
                    };
                    if pending > 0 {
                        return true;
                    }
                    fib.settle().await.unwrap();
                }
                false
            });
            runtime.block_on(fib.stop(true)).unwrap();
            thread.join().unwrap();
            assert!(heard_between);
        });
    }
}
