//! Addresses that move between hosts.
//!
//! An address may be asked for on a host whose blocks it is not in; it is announced from there with an attachment
//! number, and BGP prefers the path with the higher number. A host that learns of a higher number for an address it
//! holds gives way: the container that was there first has been replaced. And a host that sees one of its blocks'
//! addresses announced by another does not give it to anybody.
//!
//! Switches of other makes do not know the number. So that they too choose the newer announcement, and pass it on to the
//! host that has to give way, the announcement is made better for [`TAKEOVER`]: its ORIGIN is EGP, or IGP if the one it
//! replaces is in its own takeover; that of all other containers is INCOMPLETE. Afterwards it is like all, and the
//! address can move on.

use std::{
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use super::{Handler, Host, Now};
use crate::cni::{
    attachment::{Attachment, TAKEOVER},
    types::CniError,
};

/// How long after a start an address counts as another host's because it was before: time for sessions to come up.
const REMEMBER: Duration = Duration::from_secs(60);

/// What became of a remote announcement of a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nobody on this host holds it.
    NotOurs,
    /// A container here held it and has lost it.
    GaveWay,
    /// A container here holds it and keeps it: it is anycast, or its announcement is the newer one.
    Kept,
}

impl Handler {
    /// Says that another host announces this address, with its attachment number if it has one.
    pub fn announced_elsewhere(
        &mut self,
        host: &mut impl Host,
        addr: IpAddr,
        number: Option<u32>,
        now: Now,
    ) -> Result<Move, CniError> {
        match number {
            Some(number) => self.numbers.insert(addr, number),
            None => self.numbers.remove(&addr),
        };
        self.remembered.0.remove(&addr);
        if self.given_up.contains_key(&addr) {
            self.held_elsewhere.insert(addr);
        }
        let holder = self.ipam.owner(addr).and_then(|id| self.attachments.get(id)).cloned();
        let Some(holder) = holder else {
            self.set_elsewhere(addr, true, now);
            return Ok(Move::NotOurs);
        };
        // A plain announcement (no number) never takes over: it may be a stale one, or a mistake.
        if holder.anycast || number.is_none() || number <= holder.number(addr) {
            return Ok(Move::Kept);
        }
        let mut lost = holder.clone();
        lost.endpoint.ipv4 = holder.endpoint.ipv4.filter(|a| IpAddr::V4(*a) == addr);
        lost.endpoint.ipv6 = holder.endpoint.ipv6.filter(|a| IpAddr::V6(*a) == addr);
        let mut kept = holder;
        kept.endpoint.ipv4 = kept.endpoint.ipv4.filter(|a| IpAddr::V4(*a) != addr);
        kept.endpoint.ipv6 = kept.endpoint.ipv6.filter(|a| IpAddr::V6(*a) != addr);
        kept.moved.retain(|a| *a != addr);
        kept.given_up.push(addr);
        tracing::warn!(endpoint = %kept.endpoint.key, %addr, "the address has moved to another host: given up here");
        self.held_elsewhere.insert(addr);
        self.give_up(host, &lost, kept)?;
        self.ipam.give_back_one(addr, now.mono);
        self.set_elsewhere(addr, true, now);
        Ok(Move::GaveWay)
    }

    /// Says that no other host announces this address any more. A container here that had it gets it back.
    pub fn no_longer_elsewhere(&mut self, host: &mut impl Host, addr: IpAddr, now: Now) {
        self.numbers.remove(&addr);
        self.remembered.0.remove(&addr);
        self.set_elsewhere(addr, false, now);
        self.held_elsewhere.remove(&addr);
        self.take_back(host, addr);
    }

    fn set_elsewhere(&mut self, addr: IpAddr, elsewhere: bool, now: Now) {
        if self.ipam.set_elsewhere(addr, elsewhere, now.mono) {
            self.note_elsewhere();
        }
    }

    /// For the next process.
    pub(super) fn note_elsewhere(&self) {
        let list: Vec<IpAddr> = self.ipam.elsewhere().collect();
        if let Err(error) = self.store.put_elsewhere(&list) {
            tracing::warn!(%error, "cannot note which addresses other hosts have");
        }
    }

    /// An address that another host had before the start: nobody gets it before the neighbours have told of it.
    pub(super) fn remember_elsewhere(&mut self, addr: IpAddr, now: Now) {
        self.ipam.set_elsewhere(addr, true, now.mono);
        self.held_elsewhere.insert(addr);
        self.remembered.0.insert(addr);
        self.remembered.1 = Some(now.mono + REMEMBER);
    }

    /// Forgets what nobody has announced since the start.
    pub(super) fn forget_remembered(&mut self, host: &mut impl Host, now: Now) {
        if self.remembered.1.is_some_and(|until| until <= now.mono) {
            self.nobody_told(host, now);
        }
    }

    fn nobody_told(&mut self, host: &mut impl Host, now: Now) {
        for addr in std::mem::take(&mut self.remembered).0 {
            self.no_longer_elsewhere(host, addr, now);
        }
    }

    /// Says that all neighbours have told what they know: what nobody has announced by now, nobody does.
    pub fn converged(&mut self, host: &mut impl Host, now: Now) {
        self.nobody_told(host, now);
        let free: Vec<IpAddr> =
            self.given_up.keys().copied().filter(|addr| !self.held_elsewhere.contains(addr)).collect();
        for addr in free {
            self.take_back(host, addr);
        }
    }

    /// Gives an address back to the container that had to give it up. With the number it had then: if the newer attachment
    /// is announced again, it wins again.
    fn take_back(&mut self, host: &mut impl Host, addr: IpAddr) {
        let Some(mut whole) = self.given_up.get(&addr).and_then(|id| self.attachments.get(id)).cloned()
        else {
            return;
        };
        let (id, key) = (whole.endpoint.id.clone(), whole.endpoint.key.clone());
        // Another container of this host may have asked for it meanwhile.
        if self.ipam.adopt(&id, addr).is_err() {
            return;
        }
        whole.given_up.retain(|a| *a != addr);
        match addr {
            IpAddr::V4(addr) => whole.endpoint.ipv4 = Some(addr),
            IpAddr::V6(addr) => whole.endpoint.ipv6 = Some(addr),
        }
        if !self.ipam.is_local(addr) {
            whole.moved.push(addr);
        }
        tracing::warn!(endpoint = %key, %addr, "no other host announces the address any more: taken back");
        let note = |what, error: String| tracing::warn!(endpoint = %key, %addr, error, "cannot {what}");
        if let Err(error) = self.store.put(&whole) {
            note("write the file", error.to_string());
        }
        if let Err(error) = self.attacher.repair_host_side(&whole) {
            note("restore the route", error.to_string());
        }
        self.keep(whole);
        // Again at every tick until it succeeds.
        self.unfinished.insert(id, String::new());
        self.finish_adoptions(host);
    }

    /// Announces what has moved here as everything else, once that must do.
    pub(super) fn end_takeovers(&mut self, host: &mut impl Host, now: Now) {
        let ids = std::mem::take(&mut self.taking_over);
        for id in ids {
            let Some(attachment) = self.attachments.get(&id) else { continue };
            if attachment.takes_over(now.wall) {
                self.taking_over.push(id);
            } else if let Err(error) = host.announce(attachment) {
                tracing::warn!(endpoint = %attachment.endpoint.key, %error, "cannot announce it anew");
                self.taking_over.push(id);
            }
        }
    }

    /// The file first, so that a crash does not bring the address back.
    fn give_up(&mut self, host: &mut impl Host, lost: &Attachment, kept: Attachment) -> Result<(), CniError> {
        self.store.put(&kept)?;
        let withdrawn = host.withdraw(lost);
        for addr in lost.endpoint.addresses() {
            self.attacher.drop_host_route(addr, lost.ifindex)?;
        }
        let enforced = self.enforce_living(host, &kept);
        self.keep(kept);
        withdrawn.and(enforced)
    }
}

/// Whether an attachment with this number may be in its takeover still.
pub(super) fn is_recent(number: u32, now: Now) -> bool {
    let made = UNIX_EPOCH + Duration::from_secs(number.into());
    // One of a clock ahead of ours is.
    now.wall.duration_since(made).is_ok_and(|age| age < TAKEOVER) || made > now.wall
}
