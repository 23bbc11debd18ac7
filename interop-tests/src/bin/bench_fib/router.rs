//! The routers that are compared, on a machine of the lab.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use interop_tests::{Agent, Machine, Router};
use slash32::model::Family;

/// A router by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Slash32,
    Bird2,
    Bird3,
    Frr,
}

/// A family by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FamilyName {
    Ipv4,
    Ipv6,
}

impl FamilyName {
    pub(super) const fn family(self) -> Family {
        match self {
            Self::Ipv4 => Family::Ipv4,
            Self::Ipv6 => Family::Ipv6,
        }
    }
}

/// Its configurations, of which one is used.
pub(super) struct Configs {
    pub(super) slash32: String,
    pub(super) bird: String,
    pub(super) frr: String,
}

/// A running router.
pub(super) enum Running {
    Agent(Agent),
    Router(Router, Machine),
    Container(Container),
}

impl Kind {
    /// Starts it.
    pub(super) fn start(self, machine: &Machine, configs: &Configs) -> Result<Running> {
        Ok(match self {
            Self::Slash32 => Running::Agent(Agent::start(machine, &configs.slash32)?),
            Self::Bird2 => Running::Router(Router::bird(machine, &configs.bird)?, machine.clone()),
            Self::Frr => Running::Router(Router::frr(machine, &configs.frr)?, machine.clone()),
            Self::Bird3 => Running::Container(Container::start("bird3", machine, &configs.bird)?),
        })
    }

    /// Why it cannot be measured here.
    pub(super) fn missing(self) -> Option<String> {
        if self != Self::Bird3 {
            return None;
        }
        let image = "localhost/slash32-interop/bird3:trixie";
        let found = Command::new("podman").args(["image", "exists", image]).status();
        (!found.is_ok_and(|status| status.success()))
            .then(|| "BIRD 3 is not measured: interop-tests/images/build.sh bird3 makes its image".to_owned())
    }
}

impl Running {
    /// Name and version.
    pub(super) fn version(&self) -> Result<String> {
        match self {
            Self::Agent(agent) => Ok(agent.cli("--version").run()?.trim().to_owned()),
            Self::Router(router, _) => router.version(),
            Self::Container(container) => container.version(),
        }
    }

    /// User and system time so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for stat in self.proc("stat")? {
            // The command's name may contain spaces; the fields after it do not (proc_pid_stat(5)).
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            let spent = fields.get(11..13).context("short stat line")?.iter();
            ticks += spent.map(|f| f.parse::<u64>().unwrap_or(0)).sum::<u64>();
        }
        // USER_HZ is 100 on every architecture that Linux has for servers.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// A line of /proc/PID/status in KiB, all processes together.
    pub(super) fn memory_kib(&self, key: &str) -> Result<u64> {
        let mut sum = 0;
        for status in self.proc("status")? {
            let line =
                status.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
            sum += line.split_ascii_whitespace().nth(1).unwrap_or("0").parse::<u64>()?;
        }
        Ok(sum)
    }

    /// What it has logged.
    pub(super) fn log(&self) -> String {
        match self {
            Self::Agent(agent) => agent.process().log(),
            Self::Router(router, _) => {
                router.processes().last().map(interop_tests::Process::log).unwrap_or_default()
            }
            Self::Container(container) => container.log(),
        }
    }

    fn proc(&self, file: &str) -> Result<Vec<String>> {
        match self {
            Self::Agent(agent) => {
                Ok(vec![agent.machine().read(&format!("/proc/{}/{file}", agent.process().pid()))?])
            }
            Self::Router(router, machine) => router
                .processes()
                .iter()
                .map(|p| machine.read(&format!("/proc/{}/{file}", p.pid())))
                .collect(),
            Self::Container(container) => {
                let path = format!("/proc/{}/{file}", container.pid);
                Ok(vec![fs::read_to_string(&path).with_context(|| path)?])
            }
        }
    }
}

/// A router in a podman container that shares a machine's network namespace.
pub(super) struct Container {
    name: String,
    pid: u32,
}

/// `interop-tests/images/run.sh`.
fn script() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/images/run.sh"))
}

fn run(args: &[&str]) -> Result<String> {
    let output = Command::new(script()).args(args).output().context("start images/run.sh")?;
    if !output.status.success() {
        bail!("images/run.sh {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Container {
    fn start(router: &str, machine: &Machine, config: &str) -> Result<Self> {
        let dir = machine.log_dir().join("config");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("bird.conf"), config)?;
        let name = format!("bench-fib-{}", machine.host_pid());
        let netns = format!("/proc/{}/ns/net", machine.host_pid());
        run(&["start", "-d", &name, router, &netns, &dir.to_string_lossy()])?;
        let mut container = Self { name, pid: 0 };
        container.pid = run(&["pid", &container.name])?.parse().context("the container's pid")?;
        let start = Instant::now();
        while run(&["exec", &container.name, "birdc", "show", "status"]).is_err() {
            ensure!(start.elapsed() < Duration::from_secs(20), "birdc does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(container)
    }

    fn version(&self) -> Result<String> {
        let text = run(&["exec", &self.name, "birdc", "show", "status"])?;
        let version = text.lines().find(|line| line.starts_with("BIRD")).context("a version")?;
        Ok(version.trim_end_matches(" ready.").to_owned())
    }

    fn log(&self) -> String {
        run(&["logs", &self.name]).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = run(&["stop", &self.name]);
    }
}
