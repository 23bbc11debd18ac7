//! `slash32 ipam release`: one address that nobody uses is free at once. Nothing else changes.

use std::net::IpAddr;

use super::{Handler, Host, Now};
use crate::{
    cni::{ipam::Whose, types::CniError},
    model::EndpointId,
};

/// What was to be released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The address of an endpoint whose interface is gone, with all that this endpoint had; it rests now.
    Leaked(EndpointId),
    /// An address that rested; it can be given at once.
    Resting,
}

/// Why an address is not released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReleased {
    /// A living container has it.
    #[error("{0} is in use by endpoint {1}")]
    InUse(IpAddr, EndpointId),
    /// A container of another host has it.
    #[error("{0} is announced by another host")]
    Elsewhere(IpAddr),
    /// No container gets it.
    #[error("{0} is {1}: no container gets it")]
    Reserved(IpAddr, Whose),
    /// It is in a block of this host, and free.
    #[error("{0} is free already")]
    Free(IpAddr),
    /// This host has nothing to do with it.
    #[error("{0} is not leased on this host, and in none of its blocks")]
    Unknown(IpAddr),
    /// The kernel or a file stood in the way.
    #[error(transparent)]
    Failed(#[from] CniError),
}

impl NotReleased {
    /// What to do about it, or empty.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::InUse(..) => "remove the container; the runtime's DEL releases its addresses",
            Self::Elsewhere(_) => {
                "remove the container there; `slash32 bgp explain` says which neighbour tells of it"
            }
            Self::Unknown(_) => "`slash32 ipam show` lists the blocks",
            Self::Reserved(..) | Self::Free(_) | Self::Failed(_) => "",
        }
    }
}

impl Handler {
    /// Releases an address whose container is gone, or ends its rest.
    pub fn release_address(
        &mut self,
        host: &mut impl Host,
        addr: IpAddr,
        now: Now,
    ) -> Result<Released, NotReleased> {
        if let Some(owner) = self.ipam.owner(addr).cloned() {
            match self.attachments.get(&owner).cloned() {
                Some(attachment) => {
                    if self.attacher.is_alive(&attachment).map_err(CniError::from)? {
                        return Err(NotReleased::InUse(addr, owner));
                    }
                    self.remove(host, &attachment, now)?;
                }
                None => drop(self.ipam.release(&owner, now.mono)),
            }
            return Ok(Released::Leaked(owner));
        }
        if self.ipam.elsewhere().any(|other| other == addr) {
            return Err(NotReleased::Elsewhere(addr));
        }
        if let Some(whose) = self.ipam.whose(addr) {
            return Err(NotReleased::Reserved(addr, whose));
        }
        if self.ipam.resting(now.mono).iter().any(|(resting, _)| *resting == addr) {
            // The file first, or a restart would let it rest again.
            self.store.end_rest(addr).map_err(CniError::from)?;
            let long_ago = now.mono.checked_sub(self.config.ipam.quarantine).unwrap_or(now.mono);
            self.ipam.rest(addr, long_ago);
            return Ok(Released::Resting);
        }
        Err(if self.ipam.is_local(addr) { NotReleased::Free(addr) } else { NotReleased::Unknown(addr) })
    }
}
