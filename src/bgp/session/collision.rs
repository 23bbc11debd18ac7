//! Connection collision (RFC 4271 section 6.8, RFC 6286 section 2.3, RFC 4724 section 4.2).

use std::time::Duration;

use super::{
    Negotiated, SessionConfig,
    connection::{Connection, Direction, Stage},
};

/// A connection accepted so soon after a session was established may have been dialed before: no sign of a restart.
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// What to do when an OPEN has been accepted on a connection while another one exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Both go on for now.
    Both,
    /// The connection with the new OPEN goes, with Cease/7.
    CloseNew,
    /// The other goes, with Cease/7.
    CloseOther,
    /// The other goes with no word, as the peer has restarted and does not know it any more.
    Replace,
}

/// Judges `new`, which is about to go to OpenConfirm with `negotiated`, against `other`.
pub(super) fn judge(
    config: &SessionConfig,
    new: &Connection,
    negotiated: &Negotiated,
    other: &Connection,
) -> Verdict {
    match &other.stage {
        // Not examined: who is at the other end of it is not known yet.
        Stage::Dialing | Stage::DelayOpen | Stage::OpenSent => Verdict::Both,
        Stage::OpenConfirm(_) => {
            // The connection opened by the higher identifier stays; with equal ones the higher AS decides.
            let ours = (config.router_id, config.local_asn);
            let theirs = (negotiated.peer_router_id, negotiated.peer_asn);
            let keep = if ours > theirs { Direction::Outgoing } else { Direction::Incoming };
            match (new.direction == keep, other.direction == keep) {
                (true, false) => Verdict::CloseOther,
                (false, true) => Verdict::CloseNew,
                // Two of one direction: the peer has given up the older one.
                _ => Verdict::CloseOther,
            }
        }
        Stage::Established { negotiated: old, since } => {
            // A peer that still knew the session would not have connected after it was established. With graceful
            // restart it replaces the old session; without, "the newly created connection" is closed.
            if old.graceful_restart.is_some() && new.opened > *since + IN_FLIGHT {
                Verdict::Replace
            } else {
                Verdict::CloseNew
            }
        }
    }
}
