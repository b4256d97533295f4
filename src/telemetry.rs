//! Messages on stderr and metrics.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{MessageFormat, MessageSettings};
use crate::exit::{Exit, Failure};

/// Starts writing messages.
///
/// # Errors
/// Where the filter can't be read.
pub fn start_messages(settings: &MessageSettings) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|source| Failure::new(Exit::Usage, format!("`messages.filter`: {source}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match settings.format {
        MessageFormat::Text => {
            use std::io::IsTerminal as _;
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
        MessageFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    result.map_err(|source| Failure::new(Exit::Failure, format!("starting messages: {source}")))
}

/// Upper bounds of latency histograms, seconds: from an idle disk's sync to an outage.
const SECONDS: &[f64] =
    &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// How often the samples of histograms are put into their buckets.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// Puts samples of histograms into their buckets, for ever. The recorder keeps each sample until somebody asks for `/metrics`: where nobody
/// does, they would fill the memory.
pub async fn keep_metrics(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(KEEP_EVERY);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// Installs the recorder that `/metrics` renders. It opens no port of its own, and needs [`keep_metrics`] beside it.
///
/// # Errors
/// Where a recorder is installed already.
pub fn start_metrics() -> Result<PrometheusHandle, Failure> {
    let install = || -> Result<PrometheusHandle, BuildError> {
        PrometheusBuilder::new()
            .set_buckets_for_metric(metrics_exporter_prometheus::Matcher::Suffix("_seconds".into()), SECONDS)?
            .install_recorder()
    };
    install().map_err(|source| Failure::new(Exit::Failure, format!("starting metrics: {source}")))
}
