//! `slash32 ipam check`: leases, files, namespaces, links and routes compared, and repaired if asked.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{Handler, Host, Now};
use crate::{
    cni::{attachment::Attachment, types::CniError},
    model::EndpointId,
};

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// Which endpoint it concerns.
    pub endpoint: EndpointId,
    /// In words.
    pub text: String,
    /// Whether it has been repaired.
    pub fixed: bool,
}

/// Kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// An endpoint whose interface is gone still holds addresses. Repair: release them.
    Leaked,
    /// An interface or route of a living endpoint is not as ADD made it. Repair: what is on the host's side.
    Changed,
    /// An interface of ours that belongs to no endpoint. Repair: remove it.
    StrayLink,
    /// A route of ours through a host end to an address that its endpoint does not have. Repair: remove it.
    StrayRoute,
    /// A lease without an endpoint. Repair: release it.
    StrayLease,
    /// A living endpoint without its file, which a restart would have to guess. Repair: write it.
    MissingFile,
    /// A file without an endpoint. Repair: remove it.
    StrayFile,
}

impl Handler {
    /// Compares everything that should agree. With `fix`, repairs what can be repaired without harm.
    pub fn audit(&mut self, host: &mut impl Host, fix: bool, now: Now) -> Result<Vec<Problem>, CniError> {
        let mut problems = Vec::new();
        let mut files: HashSet<EndpointId> = self.store.ids()?.into_iter().collect();
        let ends = self.attacher.list_ours_and(self.attachments.values())?;
        let mut note = |kind, endpoint: &EndpointId, text: String, fixed: bool| {
            problems.push(Problem { kind, endpoint: endpoint.clone(), text, fixed });
        };
        for attachment in self.attachments.values().cloned().collect::<Vec<_>>() {
            let endpoint = &attachment.endpoint;
            let has_file = files.remove(&endpoint.id);
            let lives = ends.iter().any(|e| e.id == endpoint.id && !e.retired);
            if !lives {
                let fixed = fix && self.remove(host, &attachment, now).is_ok();
                note(
                    ProblemKind::Leaked,
                    &endpoint.id,
                    format!("{}: its interface is gone", endpoint.key),
                    fixed,
                );
                continue;
            }
            if !has_file {
                let fixed = fix && self.store.put(&attachment).is_ok();
                let text = format!("{}: its file is missing", endpoint.key);
                note(ProblemKind::MissingFile, &endpoint.id, text, fixed);
            }
            for addr in endpoint.addresses() {
                if self.ipam.owner(addr) != Some(&endpoint.id) {
                    let fixed = fix && self.ipam.adopt(&endpoint.id, addr).is_ok();
                    note(ProblemKind::Changed, &endpoint.id, format!("{addr} is not reserved for it"), fixed);
                }
            }
            let findings = self.attacher.check(&attachment)?;
            if findings.is_empty() {
                continue;
            }
            if fix && let Err(error) = self.put_right(&attachment) {
                tracing::warn!(endpoint = %endpoint.key, %error, "cannot repair");
            }
            let left = if fix { self.attacher.check(&attachment)? } else { findings.clone() };
            for finding in findings {
                let fixed = !left.contains(&finding);
                note(ProblemKind::Changed, &endpoint.id, format!("{}: {finding}", endpoint.key), fixed);
            }
        }
        for end in ends.iter().filter(|e| !e.retired && !self.attachments.contains_key(&e.id)) {
            let fixed = fix && self.attacher.detach(&end.id).is_ok();
            note(ProblemKind::StrayLink, &end.id, "the interface belongs to no endpoint".to_owned(), fixed);
        }
        let held = |index: u32, addr: IpAddr| {
            let of =
                |a: &&Attachment| a.ifindex == index && a.endpoint.addresses().any(|other| other == addr);
            self.attachments.values().any(|a| of(&a) && !a.given_up.contains(&addr))
        };
        let of_ends: HashMap<u32, &EndpointId> =
            ends.iter().filter(|end| !end.retired).map(|end| (end.link.index, &end.id)).collect();
        let mut routes = self.attacher.device_routes()?;
        routes.retain(|(index, key)| of_ends.contains_key(index) && !held(*index, key.prefix.addr()));
        for route in routes {
            let Some(id) = of_ends.get(&route.0).filter(|id| self.attachments.contains_key(**id)) else {
                continue;
            };
            let fixed = fix && self.attacher.drop_device_routes(&[route]).is_ok();
            let text =
                format!("the host has a route to {}, which the endpoint does not have", route.1.prefix);
            note(ProblemKind::StrayRoute, id, text, fixed);
        }
        let strays: HashSet<EndpointId> = self
            .ipam
            .leases()
            .map(|(_, owner)| owner.clone())
            .filter(|owner| !self.attachments.contains_key(owner))
            .collect();
        for owner in strays {
            if fix {
                self.ipam.release(&owner, now.mono);
            }
            note(ProblemKind::StrayLease, &owner, "a lease without an endpoint".to_owned(), fix);
        }
        for id in files {
            let fixed = fix && self.store.forget(&id).is_ok();
            note(ProblemKind::StrayFile, &id, "a file without an endpoint".to_owned(), fixed);
        }
        Ok(problems)
    }
}
