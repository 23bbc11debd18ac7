//! Whether next hops can be reached, and at what cost, told to whoever asks: BGP chooses paths by it (RFC 4271 sections
//! 9.1.2.1 and 9.1.2.2 e), also between next hops that no route uses yet.
//!
//! The cost is 0 on a link of the host, else the metric of the kernel's route there, at least 1.
//!
//! What BGP chooses may change what leads to a next hop, and so what it chooses: a route can be resolved by one that it
//! replaces. Such a circle never rests, so news that comes again and again is told later and later. Bad news never waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// News this often within [`CALM`] is told at once.
const PATIENCE: u32 = 4;
/// The first delay; it doubles.
const DELAY: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(30);
/// After so much quiet, all is forgiven.
const CALM: Duration = Duration::from_secs(60);

/// What leads to a next hop has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The next hop.
    pub gateway: IpAddr,
    /// Its interface, if it is link-local, else 0.
    pub ifindex: u32,
    /// What it costs to get there; nothing when no route leads there.
    pub cost: Option<u32>,
}

type Key = (IpAddr, u32);
/// Nothing when no route leads there.
type Cost = Option<u32>;

/// The next hops that somebody asked about.
#[derive(Debug, Default)]
pub(super) struct Watched {
    entries: BTreeMap<Key, Entry>,
    /// Those that may have news.
    restless: BTreeSet<Key>,
}

#[derive(Debug, Default)]
struct Entry {
    /// As it is, once it was looked at.
    now: Option<Cost>,
    /// As it was told, when.
    told: Option<(Cost, Instant)>,
    /// How often in a row without calm.
    changes: u32,
}

impl Entry {
    /// When the news can be told.
    fn due(&self) -> Option<Instant> {
        let ((_, at), now) = (self.told?, self.now?);
        let bad = now.is_none();
        let step = self.changes.checked_sub(PATIENCE)?;
        (!bad).then(|| at + DELAY.saturating_mul(1 << step.min(16)).min(LONGEST))
    }
}

impl Watched {
    /// Asks about a next hop; answers whether that is new.
    pub(super) fn add(&mut self, gateway: IpAddr, ifindex: u32) -> bool {
        let new = !self.entries.contains_key(&(gateway, ifindex));
        if new {
            self.entries.insert((gateway, ifindex), Entry::default());
        }
        new
    }

    /// No longer asks about it; answers whether somebody did.
    pub(super) fn remove(&mut self, gateway: IpAddr, ifindex: u32) -> bool {
        self.restless.remove(&(gateway, ifindex));
        self.entries.remove(&(gateway, ifindex)).is_some()
    }

    /// Notes how a next hop can be reached now.
    pub(super) fn note(&mut self, gateway: IpAddr, ifindex: u32, cost: Option<u32>) {
        if let Some(entry) = self.entries.get_mut(&(gateway, ifindex)) {
            entry.now = Some(cost);
            if entry.told.map(|(told, _)| told) != entry.now {
                self.restless.insert((gateway, ifindex));
            }
        }
    }

    /// What is new and due, and when more is.
    pub(super) fn poll(&mut self, now: Instant) -> (Vec<Reach>, Option<Instant>) {
        let (mut news, mut wakeup) = (Vec::new(), None::<Instant>);
        let entries = &mut self.entries;
        self.restless.retain(|key| {
            let Some(entry) = entries.get_mut(key) else { return false };
            let Some(cost) = entry.now else { return false };
            // It may have come back to what is known.
            if entry.told.is_some_and(|(told, _)| told == cost) {
                return false;
            }
            if entry.told.is_some_and(|(_, at)| now.saturating_duration_since(at) >= CALM) {
                entry.changes = 0;
            }
            if let Some(due) = entry.due().filter(|due| *due > now) {
                wakeup = Some(wakeup.map_or(due, |earlier| earlier.min(due)));
                return true;
            }
            if entry.told.is_some() {
                entry.changes = entry.changes.saturating_add(1);
            }
            entry.told = Some((cost, now));
            news.push(Reach { gateway: key.0, ifindex: key.1, cost });
            false
        });
        (news, wakeup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_that_comes_again_and_again_waits() {
        let addr: IpAddr = "192.0.2.1".parse().unwrap();
        let mut watched = Watched::default();
        let start = Instant::now();
        watched.note(addr, 0, Some(1));
        assert_eq!(watched.poll(start), (vec![], None), "nobody asked");
        assert!(watched.add(addr, 0) && !watched.add(addr, 0));
        let mut now = start;
        let mut told = 0;
        // A circle: whatever is told turns it over at once.
        let mut cost = Some(1);
        while now < start + Duration::from_secs(600) {
            watched.note(addr, 0, cost);
            let (news, wakeup) = watched.poll(now);
            match news.first() {
                Some(reach) => {
                    assert_eq!(*reach, Reach { gateway: addr, ifindex: 0, cost });
                    told += 1;
                    cost = if cost.is_some() { None } else { Some(1) };
                }
                None => now = wakeup.expect("it is told some time"),
            }
        }
        // Each pair after the first ones costs 30 s in the end.
        assert!((40..70).contains(&told), "{told}");
        // Bad news does not wait, and what has come back is no news.
        watched.note(addr, 0, Some(1));
        assert_eq!(watched.poll(now + CALM).0.len(), usize::from(cost.is_some()));
        let mut fresh = Watched::default();
        fresh.add(addr, 0);
        fresh.note(addr, 0, Some(1));
        assert_eq!(fresh.poll(now).0.len(), 1);
        fresh.note(addr, 0, None);
        fresh.note(addr, 0, Some(1));
        assert_eq!(fresh.poll(now), (vec![], None));
        assert!(fresh.remove(addr, 0) && !fresh.remove(addr, 0));
        fresh.note(addr, 0, None);
        assert_eq!(fresh.poll(now), (vec![], None));
    }

    #[test]
    fn calm_is_rewarded() {
        let addr: IpAddr = "2001:db8::1".parse().unwrap();
        let mut watched = Watched::default();
        watched.add(addr, 0);
        let mut now = Instant::now();
        for i in 0..20 {
            now += LONGEST;
            watched.note(addr, 0, Some(i));
            watched.poll(now);
        }
        watched.note(addr, 0, Some(100));
        now += Duration::from_millis(1);
        assert_eq!(watched.poll(now).0, [], "too soon after so many");
        now += CALM;
        watched.note(addr, 0, Some(101));
        assert_eq!(watched.poll(now).0.len(), 1);
        watched.note(addr, 0, Some(102));
        assert_eq!(watched.poll(now).0.len(), 1, "and the next at once");
    }
}
