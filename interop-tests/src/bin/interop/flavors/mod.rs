//! The routers: how each is configured, watched and operated.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod injector;
mod openbgpd;

use anyhow::Result;
use interop_tests::{ImageRun, Machine};

use crate::site::Switch;
use crate::spec::{RouterSpec, unsupported};

/// One router, as the cases see it. What a router cannot do is an [`Unsupported`](crate::spec::Unsupported) error with
/// the reason, in words for the table.
pub(crate) trait Flavor: Sync {
    /// The column's name, also for `ROUTER=`.
    fn name(&self) -> &'static str;
    /// The directory in `interop-tests/images/`; none for what is not somebody else's.
    fn image(&self) -> Option<&'static str>;
    /// The command name of the process that speaks BGP.
    fn daemon(&self) -> &'static str;

    /// Environment of the container.
    fn env(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Whether its routes reach the kernel, so that it forwards. Others sit beside the hosts on an Ethernet segment.
    fn forwards(&self) -> bool {
        true
    }

    /// Whether it passes on to one host what another announced.
    fn passes_on(&self) -> bool {
        true
    }

    /// Whether several equal paths to a prefix are all in its kernel routes.
    fn multipath(&self) -> bool {
        true
    }

    /// Its example in `config/examples/`, and the directory of the hosts' examples that go with it.
    fn example(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Its configuration file.
    fn config(&self, spec: &RouterSpec) -> Result<String>;

    /// Called once it answers: what is not in the configuration file.
    fn started(&self, _run: &ImageRun, _spec: &RouterSpec) -> Result<()> {
        Ok(())
    }

    /// Fails until the router answers its command line.
    fn ready(&self, run: &ImageRun) -> Result<()>;

    /// How many sessions are up.
    fn established(&self, run: &ImageRun) -> Result<usize>;

    /// Everything it tells of the paths to a prefix, best or not, with attributes. Empty when it knows none.
    fn paths(&self, run: &ImageRun, prefix: &str) -> Result<String>;

    /// How many paths [`paths`](Self::paths) shows.
    fn count_paths(&self, shown: &str) -> usize;

    /// Whether what it shows of a path names a large community.
    fn shows_large_community(&self, shown: &str, parts: [u32; 3]) -> bool {
        let [a, b, c] = parts;
        shown.contains(&format!("{a}:{b}:{c}")) || shown.contains(&format!("({a}, {b}, {c})"))
    }

    /// Applies a configuration that [`ImageRun::write_config`] has written.
    fn reload(&self, run: &ImageRun, spec: &RouterSpec) -> Result<()>;

    /// Ends a session with Cease, Administrative Shutdown, and a text for the neighbour (RFC 9003).
    fn shut_down(&self, _run: &ImageRun, _neighbor: &str, _text: &str) -> Result<()> {
        unsupported("sends no text when a session is shut down")
    }

    /// Brings a session back that was shut down or has reached a limit.
    fn revive(&self, run: &ImageRun, neighbor: &str) -> Result<()>;

    /// What it shows or logs when a neighbour shuts down with this text.
    fn was_told(&self, run: &ImageRun, text: &str) -> Result<bool> {
        Ok(run.log().contains(text))
    }

    /// Ends the wait that it puts on a neighbour whose session was reset often, where it has such a thing.
    fn forgive(&self, _run: &ImageRun, _neighbor: &str) -> Result<()> {
        Ok(())
    }

    /// Asks a neighbour for its routes again (ROUTE-REFRESH), IPv4.
    fn refresh(&self, _run: &ImageRun, _neighbor: &str) -> Result<()> {
        unsupported("has no command that asks a neighbour for its routes again")
    }

    /// Ends in the way that its operators use for a restart, and starts again.
    fn planned_restart(&self, run: &mut ImageRun) -> Result<()> {
        run.terminate()?;
        self.start_after_end(run)
    }

    /// Starts again after any end, as its service manager would.
    fn start_after_end(&self, run: &mut ImageRun) -> Result<()> {
        run.start_again(&[])
    }

    /// Why its own restart is not graceful, if so.
    fn no_graceful_restart(&self) -> Option<&'static str> {
        None
    }

    /// Takes the BFD session with host 1 administratively down, BGP staying up.
    fn bfd_admin_down(&self, _switch: &mut Switch) -> Result<()> {
        unsupported("has no command for it")
    }

    /// Makes the machine fit for it before it starts.
    fn prepare(&self, _machine: &Machine) -> Result<()> {
        Ok(())
    }
}

/// All routers, in the order of the table.
pub(crate) static ALL: [&dyn Flavor; 8] = [
    &bird::Bird { image: "bird2" },
    &bird::Bird { image: "bird3" },
    &frr::Frr { name: "frr", profile: "traditional" },
    &frr::Frr { name: "frr-datacenter", profile: "datacenter" },
    &gobgp::Gobgp,
    &openbgpd::OpenBgpd,
    &exabgp::ExaBgp,
    &injector::Injector,
];
