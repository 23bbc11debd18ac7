//! A routing socket in a container's namespace.

use super::message::StepError;
use crate::netlink::{
    Error, Socket,
    ns::{Netns, NsHelper, Pending},
};

/// A socket that is being opened while its owner does other things; it is there when it is needed.
#[derive(Debug)]
pub struct Inside(State);

#[derive(Debug)]
enum State {
    Opening(Result<Pending<Result<Socket, Error>>, Error>),
    Open(Socket),
    Failed,
}

impl Inside {
    pub(super) fn open(helper: &NsHelper, ns: &Netns) -> Self {
        Self(State::Opening(helper.begin(ns, Socket::route)))
    }

    /// The socket. A failure is told once.
    pub(super) fn socket(&mut self) -> Result<&mut Socket, StepError> {
        if matches!(self.0, State::Opening(_))
            && let State::Opening(pending) = std::mem::replace(&mut self.0, State::Failed)
        {
            let socket = pending.and_then(Pending::wait).and_then(|socket| socket);
            self.0 = State::Open(socket.map_err(|source| StepError { what: WHAT, source })?);
        }
        match &mut self.0 {
            State::Open(socket) => Ok(socket),
            _ => Err(StepError { what: WHAT, source: Error::Helper("it has failed before") }),
        }
    }
}

const WHAT: &str = "work in the container's namespace";
