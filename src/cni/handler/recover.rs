//! The agent's start: what lives is adopted, what does not is cleaned.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use serde::Serialize;

use super::{Handler, Host, Now, StartError, add::mac_of};
use crate::{
    cni::{
        attach::{AttachError, Attacher, HostEnd, alias},
        attachment::Attachment,
        types::Dns,
    },
    model::{Endpoint, EndpointId},
    netlink::ns::NetnsId,
};

/// The pauses between the attempts to read the kernel's state at the start, before it is given up; in milliseconds.
const PAUSES: [u64; 4] = [10, 50, 200, 1000];

/// What was found and done at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// Endpoints that live.
    pub adopted: usize,
    /// Endpoints whose container has gone, or whose DEL came while the agent was down.
    pub cleaned: usize,
    /// Living endpoints whose file was lost or damaged: known again from the kernel, as far as it tells.
    pub rebuilt: Vec<EndpointId>,
    /// Files that could not be read, and everything else that a person should know.
    pub problems: Vec<String>,
}

/// What the kernel and the files say, as one list.
#[derive(Debug, Default)]
struct Found {
    living: Vec<Attachment>,
    gone: Vec<Attachment>,
    strangers: Vec<EndpointId>,
}

impl Handler {
    /// Brings files, kernel and agent into agreement. Endpoints that live are handed to the host again (`enforce`,
    /// `announce`); nothing of them changes in the kernel unless it is missing there.
    pub fn recover(&mut self, host: &mut impl Host, now: Now) -> Result<Recovery, StartError> {
        let mut report = Recovery::default();
        let loaded = self.store.load(now.wall)?;
        for (id, why) in &loaded.damaged {
            report.problems.push(format!("the file of {id} was damaged and has been set aside: {why}"));
        }
        for (attachment, age) in loaded.released {
            self.last_sequence = self.last_sequence.max(attachment.sequence);
            if let Some(since) = now.mono.checked_sub(age) {
                attachment.endpoint.addresses().for_each(|addr| self.ipam.rest(addr, since));
            }
        }
        for addr in self.store.elsewhere() {
            self.remember_elsewhere(addr, now);
        }
        let found = self.compare(loaded.attachments, &mut report).map_err(StartError::Unreadable)?;
        self.settle(host, found, &mut report, now);
        if let Err(error) = self.attacher.reap() {
            report.problems.push(format!("cannot delete retired interfaces: {error}"));
        }
        for id in self.store.copies().unwrap_or_default() {
            self.uncopied.insert(id);
        }
        report.adopted = self.attachments.len();
        self.last_look = Some(now.mono);
        Ok(report)
    }

    fn compare(&mut self, mut files: Vec<Attachment>, report: &mut Recovery) -> Result<Found, AttachError> {
        let ends = self.patiently(|attacher| attacher.list_ours_and(&files))?;
        let mut ends: HashMap<EndpointId, HostEnd> =
            ends.into_iter().map(|end| (end.id.clone(), end)).collect();
        let tombstones = self.store.tombstones().unwrap_or_else(|error| {
            report.problems.push(error.to_string());
            Vec::new()
        });
        // A file that is lost or damaged has a copy, which is right if it means the same interface.
        let with_file: HashSet<EndpointId> = files.iter().map(|file| file.endpoint.id.clone()).collect();
        for end in ends.values().filter(|end| !end.retired && !with_file.contains(&end.id)) {
            if let Some(copy) = self.store.copy(&end.id, end.link.index) {
                report
                    .problems
                    .push(format!("{}: the file was lost; known from its copy", copy.endpoint.key));
                if let Err(error) = self.store.put(&copy) {
                    report.problems.push(error.to_string());
                }
                files.push(copy);
            }
        }
        // The newest first: should two hold one address, the newer keeps it.
        files.sort_by_key(|a| std::cmp::Reverse(a.sequence));
        let mut found = Found::default();
        for attachment in files {
            self.last_sequence = self.last_sequence.max(attachment.sequence);
            let lives = match ends.remove(&attachment.endpoint.id) {
                // A retired link is as good as a tombstone: DEL has begun.
                Some(end) => !end.retired && end.link.index == attachment.ifindex,
                None => false,
            };
            if lives && !tombstones.iter().any(|t| t.means(&attachment)) {
                found.living.push(attachment);
            } else {
                found.gone.push(attachment);
            }
        }
        if ends.values().any(|end| !end.retired) {
            let routes = self.patiently(Attacher::host_routes)?;
            for end in ends.into_values().filter(|end| !end.retired) {
                match rebuild(&end, &routes) {
                    Some(attachment) => {
                        report.rebuilt.push(end.id);
                        found.living.push(attachment);
                    }
                    None => found.strangers.push(end.id),
                }
            }
        }
        Ok(found)
    }

    /// Asks the kernel more than once: a list is refused while much changes, or when memory is short.
    fn patiently<T>(
        &mut self,
        ask: impl Fn(&mut Attacher) -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        for pause in PAUSES {
            match ask(&mut self.attacher) {
                Ok(answer) => return Ok(answer),
                Err(error) => tracing::warn!(%error, "cannot read the kernel's state: once more"),
            }
            std::thread::sleep(Duration::from_millis(pause));
        }
        ask(&mut self.attacher)
    }

    fn settle(&mut self, host: &mut impl Host, found: Found, report: &mut Recovery, now: Now) {
        let mut gone = found.gone;
        for attachment in found.living {
            let id = attachment.endpoint.id.clone();
            let taken = attachment.endpoint.addresses().find_map(|addr| self.ipam.adopt(&id, addr).err());
            if let Some(error) = taken {
                report.problems.push(format!("{} is removed: {error}", attachment.endpoint.key));
                self.ipam.give_back(&id, now.mono);
                gone.push(attachment);
                continue;
            }
            if report.rebuilt.contains(&id)
                && let Err(error) = self.store.put(&attachment)
            {
                report.problems.push(error.to_string());
            }
            if let Err(error) = self.put_right(&attachment) {
                report.problems.push(format!("{}: {error}", attachment.endpoint.key));
            }
            if attachment.takes_over(now.wall) {
                self.taking_over.push(id.clone());
            }
            self.keep(attachment);
            self.unfinished.insert(id, String::new());
        }
        for attachment in gone {
            let id = &attachment.endpoint.id;
            // A rebuilt or newer attachment of the same name lives on.
            if self.attachments.contains_key(id) {
                continue;
            }
            report.cleaned += 1;
            let had_lease: Vec<IpAddr> =
                attachment.endpoint.addresses().filter(|a| self.ipam.owner(*a).is_none()).collect();
            if let Err(error) = self.remove(host, &attachment, now) {
                report.problems.push(format!("cannot clean {}: {error}", attachment.endpoint.key));
            }
            if attachment.delegate.is_none() {
                for addr in had_lease {
                    self.ipam.rest(addr, now.mono);
                }
            }
        }
        for id in found.strangers {
            report.cleaned += 1;
            if let Err(error) = self.attacher.detach(&id) {
                report.problems.push(format!("cannot remove the interface {id}: {error}"));
            }
        }
        if let Err(error) = self.attacher.drop_other_metrics() {
            report.problems.push(format!("cannot remove routes of another local_metric: {error}"));
        }
        self.honour_tombstones(host, now);
        for problem in self.finish_adoptions(host) {
            report.problems.push(problem);
        }
    }

    /// Hands adopted endpoints to the agent's side; those that fail are tried again at the next tick.
    pub(super) fn finish_adoptions(&mut self, host: &mut impl Host) -> Vec<String> {
        let mut problems = Vec::new();
        for (id, known) in std::mem::take(&mut self.unfinished) {
            let Some(attachment) = self.attachments.get(&id).cloned() else { continue };
            let taken_up = self.enforce_living(host, &attachment).and_then(|()| host.announce(&attachment));
            if let Err(error) = taken_up {
                let why = error.to_string();
                if why != known {
                    tracing::warn!(endpoint = %attachment.endpoint.key, why, "cannot take the endpoint up again");
                }
                problems.push(format!("{}: {why}", attachment.endpoint.key));
                self.unfinished.insert(id, why);
            }
        }
        problems
    }
}

/// What the kernel alone tells of an endpoint; none when that is too little to keep it.
fn rebuild(end: &HostEnd, routes: &[(u32, IpAddr)]) -> Option<Attachment> {
    // An alias that was too long for the kernel gives only the beginning of the name; the identifier is right all the same.
    let told = alias::read(end.link.alias.as_deref()?, &end.id)?;
    let labels_told = told.labels.is_some();
    let mut endpoint = Endpoint {
        key: told.key,
        id: end.id.clone(),
        netns: String::new(),
        ipv4: None,
        ipv6: None,
        labels: told.labels.unwrap_or_default(),
    };
    for (_, addr) in routes.iter().filter(|(index, _)| *index == end.link.index) {
        match addr {
            IpAddr::V4(addr) => endpoint.ipv4 = Some(*addr),
            IpAddr::V6(addr) => endpoint.ipv6 = Some(*addr),
        }
    }
    if endpoint.ipv4.is_none() && endpoint.ipv6.is_none() {
        return None;
    }
    Some(Attachment {
        mac: mac_of(&end.id),
        endpoint,
        netns_id: NetnsId { dev: 0, inode: 0 },
        ifindex: end.link.index,
        mtu: end.link.mtu,
        gateway: 1,
        routes: None,
        dns: Dns::default(),
        sysctls: std::collections::BTreeMap::new(),
        allow_spoofing: Vec::new(),
        forwarding: false,
        port_mappings: Vec::new(),
        spare_mappings: Vec::new(),
        bandwidth: None,
        aliases: Vec::new(),
        moved: Vec::new(),
        given_up: Vec::new(),
        number: None,
        moved_again: false,
        anycast: told.anycast,
        delegate: None,
        delegate_config: None,
        rebuilt: true,
        labels_told,
        sequence: 0,
    })
}
