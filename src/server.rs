//! `forebay run`: from the configuration to a running server, and to its end.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, status::ListenerStatus};
use crate::banner::Banner;
use crate::cli::Options;
use crate::cli::check::{self, Configuration};
use crate::config::{Durability, MQTT_LISTEN, Settings, node};
use crate::datadir::Server;
use crate::exit::{Exit, Failure};
use crate::run::Stack;
use crate::telemetry;

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// Where the configuration has faults or a part does not start.
pub fn run(options: &Options) -> Result<(), Failure> {
    let configuration = check::configuration(options)?;
    telemetry::start_messages(&configuration.loaded.settings.messages)?;
    for warning in &configuration.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("forebay")
        .build()
        .map_err(|source| Failure::io("starting threads", &source))?;
    runtime.block_on(serve(&configuration))
}

async fn serve(configuration: &Configuration) -> Result<(), Failure> {
    let settings = &configuration.loaded.settings;
    let listening = |source| Failure::io("listening for signals", &source);
    let mut signals = Signals::new().map_err(listening)?;
    let hangups = signal(SignalKind::hangup()).map_err(listening)?;
    let metrics = telemetry::start_metrics()?;
    let upkeep = tokio::spawn(telemetry::keep_metrics(metrics.clone()));
    // Both addresses are tried before the data folder is touched. The broker binds its own a moment later.
    for way_in in settings.ways_in() {
        let setting =
            way_in.place.map_or_else(|| option("--mqtt", way_in.listen), |place| format!("`listen` at {place}"));
        drop(listen("MQTT", &setting, way_in.listen).await?);
    }
    let listener = listen("admin", &option("--admin", settings.admin.listen), settings.admin.listen).await?;
    let admin_at = listener.local_addr().map_err(|source| Failure::io("the admin listener", &source))?;

    std::fs::create_dir_all(&settings.data).map_err(|source| Failure::io(settings.data.display(), &source))?;
    if crate::datadir::stays_locked(&settings.data) {
        return Err(crate::datadir::in_use(&settings.data));
    }
    let node_number = node::number(&settings.data, &settings.node.name, settings.node.number)
        .map_err(|source| Failure::io(settings.data.join("node").display(), &source))?;
    let stack = Arc::new(Stack::start(settings, &configuration.rules, node_number).await?);
    let listeners = stack.mqtt();
    let first = listeners.first().map_or(MQTT_LISTEN, |listener| listener.address);
    let server = Server { pid: std::process::id(), admin: admin_at, mqtt: first };
    if let Err(source) = server.write(&settings.data) {
        tracing::warn!("`forebay status` will not find this server: writing server.json: {source}");
    }
    announce(settings, &stack, &listeners, &server, node_number);

    let (stop_admin, admin_stopped) = tokio::sync::oneshot::channel::<()>();
    let token = settings.admin.token.clone();
    let control = Arc::new(Arc::clone(&stack));
    let admin = tokio::spawn(async move {
        // A dropped sender means the same as a message.
        let stop = async { drop(admin_stopped.await) };
        if let Err(source) = admin::serve(listener, control, metrics, token, stop).await {
            tracing::error!("admin HTTP ended: {source}");
        }
    });

    let reloads = tokio::spawn(reload_on_hangup(hangups, Arc::clone(&stack)));
    let first = signals.next().await;
    reloads.abort();
    tracing::info!("{first}: closing connections, writing what is in the log to the databases, syncing");
    let deadline = Duration::from_secs(settings.shutdown_deadline_s);
    let ended = tokio::select! {
        () = stack.shutdown(deadline) => Ok(()),
        second = signals.next() => Err(Failure::new(
            Exit::Failure,
            format!("{second}: ended at once; the next start recovers the log"),
        )),
    };
    Server::forget(&settings.data);
    drop(stop_admin);
    admin.abort();
    upkeep.abort();
    if ended.is_ok() {
        tracing::info!("stopped; the log is synced and sealed");
    }
    ended
}

/// SIGHUP: reads the files again that may change while the server runs.
async fn reload_on_hangup(mut hangups: Signal, stack: Arc<Stack>) {
    while hangups.recv().await.is_some() {
        tracing::info!("SIGHUP: reading the users and rules files again");
        let stack = Arc::clone(&stack);
        if let Err(source) = tokio::task::spawn_blocking(move || stack.reload()).await {
            tracing::error!("reading files again: {source}");
        }
    }
}

fn announce(settings: &Settings, stack: &Stack, listeners: &[ListenerStatus], server: &Server, node_number: u16) {
    let durability = match settings.log.durability {
        Durability::Synced => "synced",
        Durability::Every => "every",
        Durability::Buffered => "buffered",
    };
    let banner = Banner {
        mqtt: listeners,
        admin: server.admin,
        data: Path::new(&settings.data),
        durability,
        replicated: stack.replicated(),
        sinks_enabled: settings.sinks.enabled,
        recovery: stack.recovery(),
        node: (&settings.node.name, node_number),
    };
    match settings.messages.format {
        crate::config::MessageFormat::Text => eprintln!("{banner}"),
        crate::config::MessageFormat::Json => tracing::info!(
            mqtt = %server.mqtt,
            listeners = ?listeners.iter().map(ToString::to_string).collect::<Vec<_>>(),
            admin = %banner.admin,
            data = %banner.data.display(),
            durability,
            replicated = ?banner.replicated,
            recovery = banner.recovery,
            "started"
        ),
    }
}

/// An option with the address beside this one, as a remedy.
fn option(name: &str, address: SocketAddr) -> String {
    format!("`{name} {}`", SocketAddr::new(address.ip(), address.port().wrapping_add(1)))
}

/// Listens; `setting` is what gives another address.
async fn listen(what: &str, setting: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => {
            let text = format!("the {what} address {address} is in use: stop who listens there, or use {setting}");
            Failure::new(Exit::AddressInUse, text)
        }
        _ => Failure::io(format!("listening on the {what} address {address} (another: {setting})"), &source),
    })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
