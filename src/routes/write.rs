//! Steps: what is planned goes to the kernel in batches, and what the kernel answers is noted.

use std::{cmp::Reverse, time::Instant};

use super::{
    Kernel, Op, Step,
    checks::Reason,
    sets::{Set, SetTrouble},
    state::{Broken, DeviceRoute, LinkState, State, Trouble},
    table::{RouteRef, Target, flag},
};
use crate::{
    model::{Family, Prefix, gateway6},
    netlink::{Error, KernelError, nexthop::Via, route::Mode},
};

/// How often neighbours that do not answer are asked again. Left out of the groups, they get no traffic that would.
const PROBE: std::time::Duration = std::time::Duration::from_secs(1);

/// What a next-hop operation was for.
enum ObjectOp {
    Hop(u32),
    Group(u32),
    DropGroup(u32),
    DropIdle(u32),
    DropHop(u32),
}

impl State {
    /// Does a bounded part of what is to be done: next-hop objects first, then at most `budget` routes.
    ///
    /// # Errors
    /// When the kernel cannot be read or written at all; everything stays queued, and later steps try again.
    pub(super) fn step(
        &mut self,
        kernel: &mut dyn Kernel,
        now: Instant,
        budget: usize,
    ) -> Result<Step, Error> {
        self.wake(kernel, now);
        if self.resync_at.is_some_and(|at| at <= now) {
            match self.reconcile(kernel, now) {
                // Soon again; what is urgent comes in with the next commands.
                Err(Error::Interrupted) => {}
                other => other?,
            }
        }
        self.look_at_told(kernel, now)?;
        self.resolve_queued();
        self.write_sets(kernel, now)?;
        self.rescan();
        self.promote();
        self.write_locals(kernel, now)?;
        self.write_routes(kernel, now, budget)?;
        self.drop_leftovers(kernel, now)?;
        self.drop_former(kernel, now)?;
        if self.garbage && self.is_idle() {
            self.collect_garbage(kernel, now)?;
        }
        Ok(Step { more: !self.is_idle(), wakeup: self.next_wakeup() })
    }

    /// Whether nothing waits to be written now.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.local_queue.is_empty()
            && !self.gateways.has_queued()
            && !self.sets.has_queued()
            && self.told.is_empty()
    }

    /// Queues what is due.
    fn wake(&mut self, kernel: &mut dyn Kernel, now: Instant) {
        while let Some(Reverse((at, route))) = self.retries.peek().copied() {
            if at > now {
                break;
            }
            self.retries.pop();
            // The slot may belong to another route by now; one comparison more does no harm.
            if self.troubles.contains_key(&route) {
                self.enqueue(route);
            }
        }
        let due = |retry: Option<Instant>| retry.is_some_and(|at| at <= now);
        if !self.troubled_sets.is_empty() {
            for index in std::mem::take(&mut self.troubled_sets) {
                let Some(set) = self.sets.get(index).filter(|s| !s.is_settled()) else { continue };
                if set.trouble.as_ref().is_none_or(|t| t.retry <= now) {
                    self.sets.enqueue(index);
                } else {
                    self.troubled_sets.insert(index);
                }
            }
        }
        if !self.broken.is_empty() {
            let is_due = |b: &Broken| b.active && b.retry <= now;
            let healed: Vec<Via> = self.broken.iter().filter(|(_, b)| is_due(b)).map(|(v, _)| *v).collect();
            for via in healed {
                if let Some(broken) = self.broken.get_mut(&via) {
                    broken.active = false;
                }
                self.retarget_users(|v| *v == via);
            }
        }
        if !self.troubled_locals.is_empty() {
            for prefix in std::mem::take(&mut self.troubled_locals) {
                match self.locals.get(&prefix).and_then(|l| l.retry) {
                    Some(at) if at > now => drop(self.troubled_locals.insert(prefix)),
                    Some(_) => self.local_queue.push(prefix),
                    None => {}
                }
            }
        }
        if due(self.audit_at) {
            self.resync_at = Some(now);
        }
        if due(self.probe_at) {
            self.probe_at = None;
            self.probe(kernel, now);
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        let retry = self.retries.peek().map(|Reverse((at, _))| *at);
        let sets =
            self.troubled_sets.iter().filter_map(|i| Some(self.sets.get(*i)?.trouble.as_ref()?.retry)).min();
        let broken = self.broken.values().filter(|b| b.active).map(|b| b.retry).min();
        let locals = self.troubled_locals.iter().filter_map(|p| self.locals.get(p)?.retry).min();
        [retry, sets, broken, locals, self.resync_at, self.audit_at, self.probe_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Writes a batch; when the outcome is unknown, reads the kernel anew.
    fn write(
        &mut self,
        kernel: &mut dyn Kernel,
        now: Instant,
        ops: &[Op],
    ) -> Result<Vec<KernelError>, Error> {
        match kernel.write(&self.config, ops) {
            Ok(errors) => {
                // What others did already is no refusal.
                let harmless = |error: &&KernelError| match ops.get(error.index) {
                    Some(
                        Op::DropObject { .. }
                        | Op::DropRoute { .. }
                        | Op::DropLocal { .. }
                        | Op::DropLeftover(_),
                    ) => error.is_missing(),
                    Some(Op::Gateway { .. }) => error.is_exists(),
                    _ => false,
                };
                for error in errors.iter().filter(|error| !harmless(error)) {
                    self.counters.refused += 1;
                    self.last_error = Some(error.to_string());
                }
                Ok(errors)
            }
            Err(error) => {
                self.counters.overruns += u64::from(matches!(error, Error::Overrun));
                self.last_error = Some(error.to_string());
                self.schedule_resync(now);
                Err(error)
            }
        }
    }

    // ---- next-hop objects -------------------------------------------------------------------------------------

    /// Brings the queued sets' groups to what they should consist of.
    fn write_sets(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        if !self.sets.has_queued() {
            return Ok(());
        }
        let (mut ops, mut of) = (Vec::new(), Vec::new());
        for index in self.sets.take_queue() {
            let Some(set) = self.sets.get_mut(index) else { continue };
            if set.is_settled() {
                set.trouble = None;
                if set.target.is_empty() {
                    set.repairs = 0;
                }
                continue;
            }
            if set.trouble.as_ref().is_some_and(|t| t.retry > now) {
                continue;
            }
            if !self.objects {
                // Inline: the contents are in every route.
                set.outdated |= set.present && set.used > 0;
                set.content = set.target.clone();
                set.present = !set.target.is_empty();
                self.scan |= set.outdated || (set.present && set.waiting);
                continue;
            }
            if set.target.is_empty() {
                ops.push(Op::DropObject { id: self.config.first_group_id() + index });
                of.push(ObjectOp::DropGroup(index));
                continue;
            }
            let target = set.target.clone();
            let mut members = Vec::with_capacity(target.len());
            for (via, weight) in &target {
                let Some(hop) = self.hops.intern(via) else { continue };
                let id = self.config.first_hop_id() + hop;
                members.push((id, *weight));
                if let Some(object) = self.hops.get_mut(hop)
                    && !object.present
                {
                    object.present = true;
                    ops.push(Op::Hop { id, via: *via });
                    of.push(ObjectOp::Hop(hop));
                }
            }
            members.sort_unstable();
            ops.push(Op::Group { id: self.config.first_group_id() + index, members });
            of.push(ObjectOp::Group(index));
        }
        tracing::debug!(messages = ops.len(), "write next-hop groups");
        self.write_objects(kernel, now, &ops, &of)?;
        tracing::debug!("next-hop groups are written");
        Ok(())
    }

    fn write_objects(
        &mut self,
        kernel: &mut dyn Kernel,
        now: Instant,
        ops: &[Op],
        of: &[ObjectOp],
    ) -> Result<(), Error> {
        if ops.is_empty() {
            return Ok(());
        }
        let mut errors = self.write(kernel, now, ops)?.into_iter().peekable();
        let mut broken = Vec::new();
        for (i, op) in of.iter().enumerate() {
            let error = errors.next_if(|e| e.index == i);
            self.counters.objects_written += u64::from(error.is_none());
            match (op, error) {
                (ObjectOp::Hop(hop), error) => broken.extend(self.hop_written(*hop, error, now)),
                (ObjectOp::Group(set), error) => self.group_written(*set, error, now),
                (ObjectOp::DropGroup(index), error) => {
                    let Some(set) = self.sets.get_mut(*index) else { continue };
                    match error {
                        Some(error) if !error.is_missing() => {
                            set_trouble(set, &error, now);
                            self.troubled_sets.insert(*index);
                        }
                        _ => {
                            self.garbage = true;
                            set.repairs = 0;
                            set.present = false;
                            set.content.clear();
                            set.lost = set.used > 0;
                            set.trouble = None;
                            self.scan |= set.lost || set.waiting;
                        }
                    }
                }
                (ObjectOp::DropIdle(_) | ObjectOp::DropHop(_), Some(error)) if !error.is_missing() => {
                    tracing::warn!(%error, "cannot delete an unused next-hop object; trying again");
                    self.garbage = true;
                }
                (ObjectOp::DropIdle(set), _) => self.forget_set(*set),
                (ObjectOp::DropHop(hop), _) => self.hops.remove(*hop),
            }
        }
        // The groups of a next hop that the kernel refuses go on without it.
        for via in broken {
            self.retarget_users(|v| *v == via);
        }
        Ok(())
    }

    fn hop_written(&mut self, index: u32, error: Option<KernelError>, now: Instant) -> Option<Via> {
        let object = self.hops.get_mut(index)?;
        let via = object.via;
        let Some(error) = error else {
            self.broken.remove(&via);
            return None;
        };
        object.present = false;
        let attempts = self.broken.get(&via).map_or(0, |b| b.attempts) + 1;
        tracing::warn!(gateway = %via.gateway, ifindex = via.ifindex, %error, "the kernel refuses a next hop");
        let retry = now + Self::backoff(attempts + 3);
        self.broken.insert(via, Broken { active: true, attempts, retry, error: error.to_string() });
        Some(via)
    }

    fn group_written(&mut self, index: u32, error: Option<KernelError>, now: Instant) {
        let Some(set) = self.sets.get_mut(index) else { return };
        let Some(error) = error else {
            // Members that are no longer in it may be of no use to any other.
            self.garbage |= !set.content.iter().all(|(via, _)| set.target.iter().any(|(v, _)| v == via));
            set.present = true;
            set.content = set.target.clone();
            set.trouble = None;
            self.counters.repaired += std::mem::take(&mut set.repairs);
            self.scan |= set.waiting;
            return;
        };
        // Perhaps a member is gone though we thought it was there: write all of them again next time.
        for (via, _) in set.target.clone() {
            if let Some(object) = self.hops.find(&via).and_then(|i| self.hops.get_mut(i)) {
                (object.present, object.doubtful) = (false, object.present || object.doubtful);
            }
        }
        let Some(set) = self.sets.get_mut(index) else { return };
        set_trouble(set, &error, now);
        self.troubled_sets.insert(index);
        // Perhaps it is gone without our knowing.
        self.told.entry(self.config.first_group_id() + index).or_default();
        if set.trouble.as_ref().is_some_and(|t| t.attempts > 1) {
            tracing::warn!(index, %error, "the kernel refuses a next-hop group");
        }
    }

    /// Looks through all routes once when groups came, went or changed in a way that concerns their routes.
    fn rescan(&mut self) {
        if !std::mem::take(&mut self.scan) {
            return;
        }
        let mut found = Vec::new();
        for (route, meta) in self.table.iter() {
            let of = |target: Target| target.index().and_then(|i| self.sets.get(i));
            let actual = of(meta.actual);
            let gone = match actual {
                Some(set) if set.lost => Some(Target::NONE),
                Some(set) if set.shaken => Some(Target::DOUBTFUL),
                _ => None,
            };
            let outdated = actual.is_some_and(|s| s.outdated);
            // Not only those whose group is there now: also those that kept an old way and have lost the new one.
            let ends = |s: &Set| s.waiting && (s.present || s.target.is_empty());
            let waits = meta.actual != meta.desired && of(meta.desired).is_some_and(ends);
            if gone.is_some() || outdated || waits {
                found.push((route, gone, outdated));
            }
        }
        for (route, gone, outdated) in found {
            if let Some(actual) = gone {
                self.set_actual(route, actual);
            } else if outdated {
                self.table.meta_mut(route).put(flag::OUTDATED, true);
            }
            self.enqueue(route);
        }
        for (_, set) in self.sets.iter_mut() {
            set.lost = false;
            set.shaken = false;
            set.outdated = false;
            set.waiting &= !set.present;
        }
    }

    /// Admits routes that the limit kept out, once there is room.
    fn promote(&mut self) {
        if !self.over_limit || self.counted >= self.config.max_routes {
            return;
        }
        let room = self.config.max_routes - self.counted;
        let mut waiting = self.table.collect(|m| m.reason == Reason::OverLimit as u8);
        self.over_limit = waiting.len() > room;
        waiting.truncate(room);
        for route in waiting {
            self.enqueue(route);
        }
    }

    /// Deletes groups and objects that nothing uses.
    fn collect_garbage(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        self.garbage = false;
        let (mut ops, mut of) = (Vec::new(), Vec::new());
        for index in self.sets.idle() {
            if self.objects && self.sets.get(index).is_some_and(|s| s.present) {
                ops.push(Op::DropObject { id: self.config.first_group_id() + index });
                of.push(ObjectOp::DropIdle(index));
            } else {
                self.forget_set(index);
            }
        }
        // Groups that are not as they should be, or whose members we cannot name, may consist of anything.
        let certain = |s: &Set| (s.is_settled() || s.key.is_none()) && (!s.present || !s.content.is_empty());
        if self.objects && self.sets.iter().all(|(_, s)| certain(s)) {
            let mut used = hashbrown::HashSet::new();
            for (_, set) in self.sets.iter().filter(|(_, s)| s.wanted > 0 || s.used > 0) {
                used.extend(set.content.iter().chain(&set.target).filter_map(|(v, _)| self.hops.find(v)));
            }
            let unused: Vec<_> = self
                .hops
                .iter()
                .filter(|(i, _)| !used.contains(i))
                .map(|(i, h)| (i, h.present || h.doubtful))
                .collect();
            for (index, may_be_there) in unused {
                if may_be_there {
                    ops.push(Op::DropObject { id: self.config.first_hop_id() + index });
                    of.push(ObjectOp::DropHop(index));
                } else {
                    self.hops.remove(index);
                }
            }
        } else if self.objects {
            self.garbage = true;
        }
        self.write_objects(kernel, now, &ops, &of)
    }

    /// Forgets a set that no route wants or uses and that the kernel does not have.
    fn forget_set(&mut self, index: u32) {
        let Some(set) = self.sets.remove(index) else { return };
        for gateway in &set.gateways {
            if let Some(addr) = self.gateways.release(*gateway, index) {
                // Learned routes may cover it again.
                self.touch_covering(addr);
            }
        }
    }

    /// Asks again for neighbours that do not answer.
    fn probe(&mut self, kernel: &mut dyn Kernel, now: Instant) {
        let in_use = |(addr, ifindex): &(std::net::IpAddr, u32)| {
            self.gateways
                .iter()
                .any(|(_, g)| g.ways.iter().any(|(v, _)| v.gateway == *addr && v.ifindex == *ifindex))
        };
        let keep: hashbrown::HashSet<_> = self.failed.iter().copied().filter(in_use).collect();
        self.failed = keep;
        let ops: Vec<_> =
            self.failed.iter().map(|(addr, ifindex)| Op::Probe { ifindex: *ifindex, addr: *addr }).collect();
        if !ops.is_empty() {
            self.probe_at = Some(now + PROBE);
            // Whether it helps is told by the neighbour's next notification.
            if let Err(error) = kernel.write(&self.config, &ops) {
                tracing::debug!(%error, "cannot probe neighbours");
            }
        }
    }

    /// A neighbour that is a first hop stopped or began to answer.
    pub(super) fn set_failed(&mut self, addr: std::net::IpAddr, ifindex: u32, failed: bool, now: Instant) {
        let changed =
            if failed { self.failed.insert((addr, ifindex)) } else { self.failed.remove(&(addr, ifindex)) };
        if changed {
            self.retarget_users(|via| via.gateway == addr && via.ifindex == ifindex);
            if failed && self.probe_at.is_none() {
                self.probe_at = Some(now + PROBE);
            }
        }
    }

    // ---- routes -----------------------------------------------------------------------------------------------

    fn write_routes(&mut self, kernel: &mut dyn Kernel, now: Instant, budget: usize) -> Result<(), Error> {
        let (mut ops, mut of) = (Vec::new(), Vec::new());
        while ops.len() < budget {
            let Some(route) = self.queue.pop_front() else { break };
            self.plan_route(route, &mut ops, &mut of);
        }
        if ops.is_empty() {
            return Ok(());
        }
        let errors = self.write(kernel, now, &ops)?;
        let (mut again, mut again_of) = (Vec::new(), Vec::new());
        let mut errors = errors.into_iter().peekable();
        for (i, ((route, want), op)) in of.iter().zip(&ops).enumerate() {
            let error = errors.next_if(|e| e.index == i);
            // A route is in the kernel that we did not expect. If it is ours (its notification is still on the way),
            // deleting ours makes room; if it is not, deleting ours changes nothing and the second try fails too.
            if error.as_ref().is_some_and(KernelError::is_exists) {
                let prefix = self.table.prefix(*route);
                again.push(Op::DropRoute { prefix, metric: self.config.metric });
                again.push(op.clone());
                again_of.push((*route, *want));
                continue;
            }
            self.route_written(*route, *want, op, error, now);
        }
        if again.is_empty() {
            return Ok(());
        }
        let mut errors = self.write(kernel, now, &again)?.into_iter().peekable();
        for (i, (route, want)) in again_of.into_iter().enumerate() {
            let _dropped = errors.next_if(|e| e.index == 2 * i);
            let error = errors.next_if(|e| e.index == 2 * i + 1);
            if error.as_ref().is_some_and(KernelError::is_exists) {
                self.set_actual(route, Target::NONE);
                self.table.meta_mut(route).reason = Reason::Conflict as u8;
                let prefix = self.table.prefix(route);
                tracing::warn!(%prefix, "a route of somebody else has the same prefix and metric: ours stays out");
            } else if let Some(op) = again.get(2 * i + 1) {
                self.route_written(route, want, op, error, now);
            }
        }
        Ok(())
    }

    fn route_written(
        &mut self,
        route: RouteRef,
        want: Target,
        op: &Op,
        error: Option<KernelError>,
        now: Instant,
    ) {
        let error = match (op, error) {
            // Gone already.
            (Op::DropRoute { .. }, Some(error)) if error.is_missing() => None,
            (_, error) => error,
        };
        let Some(error) = error else {
            match op {
                Op::DropRoute { .. } => {
                    self.counters.deleted += 1;
                    self.set_actual(route, Target::NONE);
                }
                Op::Route { mode: Mode::Create, .. } => {
                    self.counters.created += 1;
                    self.set_actual(route, want);
                }
                _ => {
                    self.counters.changed += 1;
                    self.set_actual(route, want);
                }
            }
            let meta = self.table.meta_mut(route);
            meta.put(flag::OUTDATED, false);
            if meta.has(flag::TROUBLED) {
                meta.put(flag::TROUBLED, false);
                self.troubles.remove(&route);
            }
            let meta = *self.table.meta(route);
            if meta.desired == Target::NONE
                && meta.actual == Target::NONE
                && !meta.has(flag::BLOCK | flag::QUEUED)
            {
                self.table.remove(route);
            }
            return;
        };
        if matches!(op, Op::Route { mode: Mode::Change, .. }) && error.is_missing() {
            // Somebody deleted it: create it instead.
            self.counters.repaired += 1;
            self.set_actual(route, Target::NONE);
            self.enqueue(route);
            return;
        }
        let trouble = self.troubles.entry(route).or_insert(Trouble { attempts: 0, error: String::new() });
        trouble.attempts += 1;
        trouble.error = error.to_string();
        if let Some(index) = want.index().filter(|_| self.objects && error.errno == libc::EINVAL)
            && let Some(set) = self.sets.get_mut(index)
        {
            // Perhaps the group is gone without our knowing; then this route comes with it.
            set.waiting = true;
            self.told.entry(self.config.first_group_id() + index).or_default();
        }
        let at = now + Self::backoff(trouble.attempts);
        self.retries.push(Reverse((at, route)));
        let meta = self.table.meta_mut(route);
        meta.put(flag::TROUBLED, true);
        meta.reason = Reason::Refused as u8;
    }

    /// Deletes routes of ours with another metric, once stale routes go.
    fn drop_leftovers(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        // What takes their place, with another metric or in another table, comes first.
        if self.keep_stale.contains(&true) || !self.is_idle() {
            return Ok(());
        }
        if !self.searched_tables {
            match self.search_tables(kernel) {
                Ok(()) | Err(Error::Interrupted | Error::DumpInterrupted) => {}
                Err(error) => return Err(error),
            }
        }
        if self.leftovers.is_empty() {
            return Ok(());
        }
        let leftovers = std::mem::take(&mut self.leftovers);
        // To the kernel a route with the same prefix and metric may be the one that was meant.
        let same_key = |l: &&super::Leftover| {
            let metric = l.metric == self.config.metric || l.metric == self.config.local_metric;
            l.table == self.config.table && metric
        };
        let doubtful: Vec<Prefix> = leftovers.iter().filter(same_key).map(|l| l.prefix).collect();
        // To the kernel a metric of 0 means any: if that route is gone already, another of ours may have gone instead.
        let any = |l: &super::Leftover| l.metric == 0 && l.table == self.config.table;
        if leftovers.iter().any(any) {
            self.schedule_resync(now);
        }
        self.counters.deleted += leftovers.len() as u64;
        let ops: Vec<_> = leftovers.into_iter().map(Op::DropLeftover).collect();
        self.write(kernel, now, &ops)?;
        for prefix in doubtful {
            if let Some(route) = self.table.find(prefix) {
                if self.table.meta(route).actual != Target::NONE {
                    self.set_actual(route, Target::DOUBTFUL);
                }
                self.enqueue(route);
            }
            if let Some(ifindex) = self.locals.get(&prefix).map(|local| local.ifindex) {
                self.rewrite_local(kernel, now, prefix, ifindex)?;
            }
        }
        Ok(())
    }

    /// Writes the route to a container anew, whether the kernel has it or not.
    fn rewrite_local(
        &mut self,
        kernel: &mut dyn Kernel,
        now: Instant,
        prefix: Prefix,
        ifindex: u32,
    ) -> Result<(), Error> {
        let metric = self.config.local_metric;
        let ops = [Op::DropLocal { prefix, ifindex, metric }, Op::Local { prefix, ifindex }];
        let errors = self.write(kernel, now, &ops)?;
        self.device_routes.remove(&prefix);
        if !errors.iter().any(|error| error.index == 1) {
            self.device_routes.insert(prefix, DeviceRoute { ifindex, metric });
        }
        self.local_queue.push(prefix);
        Ok(())
    }

    /// Deletes the next-hop objects of earlier protocol numbers, once no route refers to them.
    fn drop_former(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        // Stale routes and those not yet written anew may still lead to them, and would go with them.
        if self.config.former.is_empty() || self.keep_stale.contains(&true) || !self.is_idle() {
            return Ok(());
        }
        let objects = self.former_objects(kernel)?;
        if !objects.is_empty() {
            tracing::info!(count = objects.len(), "next-hop objects of an earlier protocol number: deleted");
            let ops: Vec<_> = objects.into_iter().map(|id| Op::DropObject { id }).collect();
            self.write(kernel, now, &ops)?;
        }
        self.config.former.clear();
        Ok(())
    }

    /// The gateway's address that a container's host end lacks. It goes with the link when somebody sets that down.
    fn missing_gateway(&self, prefix: Prefix) -> Option<std::net::Ipv6Addr> {
        if !self.config.gateway6 || prefix.family() != Family::Ipv6 {
            return None;
        }
        let ifindex = self.locals.get(&prefix)?.ifindex;
        let addr = gateway6(ifindex);
        // Of a link that is down the kernel takes addresses, and of one that is gone nothing.
        let up = self.links.get(&ifindex).is_some_and(|link| link.up);
        let there = self.addrs.get(&std::net::IpAddr::V6(addr)).is_some_and(|on| on.contains(&ifindex));
        (up && !there).then_some(addr)
    }

    // ---- local containers -------------------------------------------------------------------------------------

    /// Asks the kernel about the links of routes to containers that it has dropped: it tells of a route that went with
    /// its link before it tells of the link, and then there is nothing to repair.
    fn look_at_lost(&mut self, kernel: &mut dyn Kernel, queue: &[Prefix]) -> Result<(), Error> {
        let lost = queue.iter().filter_map(|prefix| self.locals.get(prefix)).filter(|local| local.lost);
        let mut links: Vec<u32> = lost.map(|local| local.ifindex).collect();
        links.sort_unstable();
        links.dedup();
        for ifindex in links {
            match kernel.link(ifindex) {
                Ok(link) => self.set_link(ifindex, link.as_ref().map(LinkState::of)),
                Err(error) => {
                    self.local_queue.extend(queue);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether the kernel would take a route onto a container's link; if not, that is noted.
    fn takes_routes(&mut self, prefix: Prefix, ifindex: u32) -> bool {
        let Some(local) = self.locals.get_mut(&prefix) else { return true };
        let why = match self.links.get(&ifindex) {
            Some(link) if link.up => return true,
            Some(link) => format!("its interface {} is down", link.name),
            // Of a new link we may not have heard yet.
            None if !local.lost => return true,
            None => "its interface is gone".to_owned(),
        };
        local.error = Some(why);
        false
    }

    fn write_locals(&mut self, kernel: &mut dyn Kernel, now: Instant) -> Result<(), Error> {
        if self.local_queue.is_empty() {
            return Ok(());
        }
        let mut queue = std::mem::take(&mut self.local_queue);
        queue.sort_unstable();
        queue.dedup();
        self.look_at_lost(kernel, &queue)?;
        let (mut ops, mut of): (Vec<Op>, Vec<Prefix>) = (Vec::new(), Vec::new());
        for prefix in queue {
            if let Some(addr) = self.missing_gateway(prefix) {
                let ifindex = self.locals.get(&prefix).map_or(0, |local| local.ifindex);
                ops.push(Op::Gateway { ifindex, addr });
                of.push(prefix);
            }
            let actual = self.device_routes.get(&prefix).copied();
            let metric = self.config.local_metric;
            let want = self.locals.get_mut(&prefix).map(|local| {
                local.retry = None;
                DeviceRoute { ifindex: local.ifindex, metric }
            });
            if actual == want {
                if let Some(local) = self.locals.get_mut(&prefix) {
                    (local.error, local.attempts, local.lost) = (None, 0, false);
                }
                continue;
            }
            // On a link that is down the kernel takes no route; when it is up again, we are told.
            let want = want.filter(|w| self.takes_routes(prefix, w.ifindex));
            // The same with another metric: first the new one, so that there is no moment without.
            let changes = actual.zip(want).is_some_and(|(a, w)| a.ifindex == w.ifindex);
            if let Some(DeviceRoute { ifindex, .. }) = actual.filter(|_| !changes) {
                ops.push(Op::DropLocal { prefix, ifindex, metric: 0 });
                of.push(prefix);
            }
            if let Some(DeviceRoute { ifindex, .. }) = want {
                ops.push(Op::Local { prefix, ifindex });
                of.push(prefix);
            }
            if let Some(DeviceRoute { ifindex, metric }) = actual.filter(|_| changes) {
                ops.push(Op::DropLocal { prefix, ifindex, metric });
                of.push(prefix);
            }
        }
        if ops.is_empty() {
            return Ok(());
        }
        let mut errors = match self.write(kernel, now, &ops) {
            Ok(errors) => errors.into_iter().peekable(),
            Err(error) => {
                self.local_queue.extend(of);
                return Err(error);
            }
        };
        for (i, (prefix, op)) in of.into_iter().zip(&ops).enumerate() {
            match (op, errors.next_if(|e| e.index == i)) {
                (Op::Gateway { ifindex, addr }, None) => {
                    self.counters.repaired += 1;
                    self.addrs.entry(std::net::IpAddr::V6(*addr)).or_default().push(*ifindex);
                }
                (Op::Gateway { .. }, Some(error)) if error.is_exists() => {}
                (Op::Gateway { .. }, Some(error)) => {
                    tracing::warn!(%prefix, %error, "cannot give a container its IPv6 gateway back");
                }
                (Op::DropLocal { .. }, Some(error)) if !error.is_missing() => {
                    tracing::warn!(%prefix, %error, "cannot delete the route to a container");
                }
                (Op::DropLocal { metric, .. }, _) => {
                    let same = |r: &DeviceRoute| *metric == 0 || r.metric == *metric;
                    if self.device_routes.get(&prefix).is_some_and(same) {
                        self.device_routes.remove(&prefix);
                    }
                }
                (Op::Local { ifindex, .. }, None) => {
                    let route = DeviceRoute { ifindex: *ifindex, metric: self.config.local_metric };
                    self.device_routes.insert(prefix, route);
                    if let Some(local) = self.locals.get_mut(&prefix) {
                        (local.error, local.attempts) = (None, 0);
                        self.counters.repaired += u64::from(std::mem::take(&mut local.lost));
                    }
                }
                (_, Some(error)) => {
                    let Some(local) = self.locals.get_mut(&prefix) else { continue };
                    local.attempts += 1;
                    local.retry = Some(now + Self::backoff(local.attempts));
                    local.error = Some(error.to_string());
                    self.troubled_locals.insert(prefix);
                    if local.attempts == 5 {
                        tracing::warn!(%prefix, %error, "cannot write the route to a container");
                    }
                }
                (_, None) => {}
            }
        }
        Ok(())
    }
}

fn set_trouble(set: &mut Set, error: &KernelError, now: Instant) {
    let attempts = set.trouble.as_ref().map_or(0, |t| t.attempts) + 1;
    // The first retry is immediate: usually only our idea of the kernel was old.
    let wait = if attempts == 1 { std::time::Duration::ZERO } else { State::backoff(attempts) };
    set.trouble = Some(SetTrouble { attempts, retry: now + wait, error: error.to_string() });
}
