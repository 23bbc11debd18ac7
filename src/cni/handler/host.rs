//! What the handler needs from the rest of the agent.

use crate::cni::{attachment::Attachment, types::CniError};

/// The agent's side of an attachment. Every method is called with the attachment as it was stored and must be
/// idempotent: after a crash it may be called again for something that was done before.
pub trait Host {
    /// Puts policy, port mappings and rate limits in force. Called before the interface exists, so that no packet
    /// ever flows without them: rules must name the interface, not its index.
    fn enforce(&mut self, attachment: &Attachment) -> Result<(), CniError>;

    /// As [`Host::enforce`], of an endpoint that lives: a port mapping that is not possible (any more) is left out. The
    /// answer says which and why, one line each.
    fn enforce_living(&mut self, attachment: &Attachment) -> Result<Vec<String>, CniError> {
        self.enforce(attachment).map(|()| Vec::new())
    }

    /// Undoes [`Host::enforce`].
    fn unenforce(&mut self, attachment: &Attachment) -> Result<(), CniError>;

    /// Begins [`Host::announce`], which will be called when the kernel's side is there; or [`Host::withdraw`] will, if
    /// that fails.
    fn begin_announcement(&mut self, attachment: &Attachment) {
        let _ = attachment;
    }

    /// Hands the addresses to BGP and returns when they are in every established peer's transmit queue. Also called
    /// when labels have changed.
    fn announce(&mut self, attachment: &Attachment) -> Result<(), CniError>;

    /// Undoes [`Host::announce`].
    fn withdraw(&mut self, attachment: &Attachment) -> Result<(), CniError>;

    /// Begins [`Host::withdraw`]; [`Host::end_withdrawal`] returns when it is done.
    fn begin_withdrawal(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        self.withdraw(attachment)
    }

    /// Waits for what [`Host::begin_withdrawal`] has begun.
    fn end_withdrawal(&mut self, attachment: &Attachment) {
        let _ = attachment;
    }

    /// CHECK: whether policy and announcement are as they should be.
    fn check(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        let _ = attachment;
        Ok(())
    }

    /// STATUS: whether an ADD would succeed now. Codes 50 and 51 are meant for this.
    fn ready(&mut self) -> Result<(), CniError> {
        Ok(())
    }
}
