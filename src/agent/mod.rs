//! The daemon: wiring, core state, reload, shutdown, metrics. Translates between the rooms below.

mod actor;
mod addresses;
mod alone;
mod announce;
mod cni_stats;
pub mod config;
mod control;
mod core;
mod daemon;
mod describe;
mod doctor;
mod files;
mod flows;
mod former;
mod gate;
mod host;
mod host_ends;
mod identities;
mod kept;
mod last_good;
mod limits;
mod logging;
mod metrics;
mod mrt_dump;
mod plugin_socket;
mod policies;
mod pulse;
mod rib_queries;
mod rules;
mod run_dir;
mod service;
mod settling;
mod shared;
mod state_dir;
mod sysctls;
mod trace;
mod vrf;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use crate::routes::FibConfig;

/// How the agent is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Instead of the configuration's run directory.
    pub run_dir: Option<PathBuf>,
    /// Log as JSON lines.
    pub log_json: bool,
}

/// Runs the agent until it is told to end.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let config = Arc::new(load(&options)?);
    let log = logging::start(&config.log, options.log_json)?;
    host::require_privileges()?;
    let mut alone = alone::ensure(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        alone.attend()?;
        daemon::run(options, config, log).await
    });
    // Blocking work of a dying task must not hold us up.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result.map(|()| ExitCode::SUCCESS)
}

/// What the FIB must know of the configuration.
fn fib_config(config: &config::Config, former: Vec<u8>) -> FibConfig {
    let routes = &config.routes;
    FibConfig {
        table: routes.table,
        metric: routes.metric,
        local_metric: routes.local_metric,
        gateway6: true,
        protocol: routes.protocol,
        former,
        max_routes: routes.max_routes,
        nexthop_objects: routes.nexthop_objects,
        audit: Duration::from_secs(routes.audit_seconds),
    }
}

/// The configuration with the command line's changes.
fn load(options: &Options) -> anyhow::Result<config::Config> {
    let mut config = config::load(&options.config, &host::surroundings())?;
    if let Some(run_dir) = &options.run_dir {
        config.run_dir.clone_from(run_dir);
    }
    Ok(config)
}
