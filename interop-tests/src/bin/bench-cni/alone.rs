//! A host whose neighbours only listen. In the rack the switch and the other host take what is announced, and write it
//! into their kernels: the same processors and the same lock, which are machines of their own elsewhere.

use anyhow::Result;
use interop_tests::{Agent, Feed, Lab, Machine, Switch, example};

/// The host, with a session for each family.
pub(crate) struct Alone {
    agent: Agent,
    _sessions: [Feed; 2],
}

impl Alone {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let (host, switch) = (lab.machine("alone")?, lab.machine("listener")?);
        lab.link(
            switch.port("port1").address("192.0.2.0/31").address("2001:db8:0:1::1/64"),
            host.port("eth0").address("192.0.2.1/31").address("2001:db8:0:1::2/64"),
        )?;
        let config = example(&Switch::Slash32.host_file(1))?.replace("10.32.1.0/24", "10.32.64.0/18");
        let agent = Agent::start(&host, &config)?;
        let sessions = [
            switch.feed("192.0.2.0", "192.0.2.1", 65000, 0)?,
            switch.feed("2001:db8:0:1::1", "2001:db8:0:1::2", 65000, 0)?,
        ];
        agent.wait_established(2)?;
        Ok(Self { agent, _sessions: sessions })
    }

    pub(crate) fn machine(&self) -> &Machine {
        self.agent.machine()
    }
}
