//! Logging to standard error: one line an event, or JSON for collectors.

use tracing_subscriber::{EnvFilter, reload};

/// Changes the filter of the running process.
pub(super) type FilterHandle = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// Starts logging with a filter such as `info` or `slash32::bgp=debug`; `RUST_LOG` wins over it.
pub(super) fn start(filter: &str, json: bool) -> anyhow::Result<FilterHandle> {
    use tracing_subscriber::{fmt, layer::SubscriberExt, util::SubscriberInitExt};
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    let (layer, handle) = reload::Layer::new(parse(&wanted)?);
    let registry = tracing_subscriber::registry().with(layer);
    if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()?;
    } else {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        registry
            .with(fmt::layer().with_ansi(ansi).with_target(false).with_writer(std::io::stderr))
            .try_init()?;
    }
    Ok(handle)
}

/// Applies a changed filter.
pub(super) fn change(handle: &FilterHandle, filter: &str) -> anyhow::Result<()> {
    handle.reload(parse(filter)?)?;
    Ok(())
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter).map_err(|e| anyhow::anyhow!("the log filter `{filter}` is not valid: {e}"))
}
