//! A pool's client and its connections.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, Credential, ReadPreference, SelectionCriteria, ServerAddress, TlsOptions};
use mongodb::{Client, Database};

use super::command::integer;
use super::config::{Deployment, MongoConfig, Tls, Transactions};
use super::conn::MongoConn;
use super::error::map;
use super::schema;
use crate::sink::WriteError;

/// Collections that were looked at this recently are not looked at again by the next connection.
const LOOKED: Duration = Duration::from_secs(5);

/// Bytes of a document at most, where the server does not say.
const DOCUMENT_BYTES: usize = 16 << 20;

/// Statements of a command at most, where the server does not say.
const STATEMENTS: usize = 1_000;

/// No record was seen yet.
const NO_NODE: u32 = u32::MAX;

/// MongoDB as a sink. Clones share their connections.
#[derive(Clone, Debug)]
pub struct MongoSink {
    pub(super) config: MongoConfig,
    pub(super) shared: Arc<Shared>,
}

/// What the connections of a pool share.
#[derive(Debug)]
pub(super) struct Shared {
    live: tokio::sync::Mutex<Option<Live>>,
    /// Batches are transactions.
    pub(super) atomic: AtomicBool,
    /// There are documents of other programs that became records.
    pub(super) imports: AtomicBool,
    /// The number of this node, once a record was seen.
    node: AtomicU32,
}

/// The driver's client.
struct Live {
    client: Client,
    looked: Option<Instant>,
    /// The client's certificate with its key, as the driver wants them: one file, which is on no disk.
    _certificate: Option<File>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) set: Option<String>,
    pub(super) router: bool,
    pub(super) writable: bool,
    pub(super) wire: i64,
    pub(super) sessions: bool,
    pub(super) document_bytes: usize,
    pub(super) statements: usize,
}

impl Hello {
    fn of(answer: &Document) -> Hello {
        let truth = |name: &str| answer.get_bool(name).unwrap_or(false);
        let size = |name: &str| integer(answer.get(name)).and_then(|n| usize::try_from(n).ok());
        Hello {
            set: answer.get_str("setName").ok().map(str::to_owned),
            router: answer.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
            writable: truth("isWritablePrimary") || truth("ismaster"),
            wire: integer(answer.get("maxWireVersion")).unwrap_or(0),
            sessions: answer.contains_key("logicalSessionTimeoutMinutes"),
            document_bytes: size("maxBsonObjectSize").unwrap_or(DOCUMENT_BYTES),
            statements: size("maxWriteBatchSize").unwrap_or(STATEMENTS).max(1),
        }
    }

    /// Replica sets have transactions since 4.0, sharded clusters since 4.2.
    pub(super) fn has_transactions(&self) -> bool {
        self.sessions && ((self.router && self.wire >= 8) || (self.set.is_some() && self.wire >= 7))
    }
}

impl MongoSink {
    /// A sink with these settings. Opens nothing.
    #[must_use]
    pub fn new(config: MongoConfig) -> Self {
        let shared = Shared {
            live: tokio::sync::Mutex::default(),
            atomic: AtomicBool::new(false),
            imports: AtomicBool::new(false),
            node: AtomicU32::new(NO_NODE),
        };
        MongoSink { config, shared: Arc::new(shared) }
    }

    /// Notes the number of this node.
    pub(super) fn saw(&self, node: u16) {
        self.shared.node.store(u32::from(node), Ordering::Relaxed);
    }

    /// True where this node's own messages may have numbers as other programs give them.
    pub(super) fn numbers_are_small(&self) -> bool {
        self.shared.node.load(Ordering::Relaxed) == 0
    }

    pub(super) async fn open(&self) -> Result<MongoConn, WriteError> {
        let mut live = self.shared.live.lock().await;
        let opened = self.open_with(&mut live).await;
        if opened.is_err() {
            // The next attempt reads files and DNS again.
            *live = None;
        }
        opened
    }

    /// A connection for looking: nothing is made.
    pub(super) async fn look(&self) -> Result<(MongoConn, Hello), WriteError> {
        let mut live = self.shared.live.lock().await;
        self.reach(&mut live).await
    }

    async fn reach(&self, live: &mut Option<Live>) -> Result<(MongoConn, Hello), WriteError> {
        let client = match live {
            Some(live) => live.client.clone(),
            None => {
                let made = self.make().await?;
                live.insert(made).client.clone()
            }
        };
        let db = client.database(&self.config.database);
        let hello = hello(&db).await?;
        self.fits(&hello)?;
        let transactions = match self.config.transactions {
            Transactions::Auto => hello.has_transactions(),
            Transactions::On => true,
            Transactions::Off => false,
        };
        let conn = MongoConn {
            db,
            session: None,
            in_transaction: false,
            safe: self.config.safe,
            transactions,
            home: None,
            document_bytes: hello.document_bytes,
            statements: hello.statements,
        };
        Ok((conn, hello))
    }

    async fn open_with(&self, live: &mut Option<Live>) -> Result<MongoConn, WriteError> {
        let (mut conn, _) = self.reach(live).await?;
        self.shared.atomic.store(conn.transactions, Ordering::Relaxed);
        let looked = live.as_ref().and_then(|live| live.looked).is_some_and(|at| at.elapsed() < LOOKED);
        if !looked {
            schema::prepare(self, &mut conn).await?;
            if let Some(live) = live {
                live.looked = Some(Instant::now());
            }
        }
        if conn.transactions {
            conn.session = Some(conn.db.client().start_session().await.map_err(map)?);
        }
        Ok(conn)
    }

    /// Where the server is not what the pool's `type` says.
    fn fits(&self, hello: &Hello) -> Result<(), WriteError> {
        if self.config.deployment == Deployment::Sharded && !hello.router {
            return Err(WriteError::busy("the server is no router (mongos) of a sharded cluster: use another `type`"));
        }
        if !hello.writable && !hello.router {
            let why = "the server is a secondary, and takes no writes: use `type = rs`, or name the primary";
            return Err(WriteError::Disconnected(why.into()));
        }
        Ok(())
    }

    async fn make(&self) -> Result<Live, WriteError> {
        let config = &self.config;
        let mut options = if config.srv_record {
            let name = config.servers.first().map(String::as_str).unwrap_or_default();
            ClientOptions::parse(format!("mongodb+srv://{name}/")).await.map_err(map)?
        } else {
            let servers = config.servers.iter().map(|server| ServerAddress::from_str(server));
            ClientOptions::builder().hosts(servers.collect::<Result<Vec<_>, _>>().map_err(map)?).build()
        };
        options.app_name = Some("forebay".to_owned());
        options.connect_timeout = Some(config.connect_timeout);
        options.server_selection_timeout = Some(config.selection_timeout);
        options.heartbeat_freq = Some(config.heartbeat.max(Duration::from_millis(500)));
        options.local_threshold = Some(config.local_threshold);
        // One more for lookups, and one for upkeep.
        options.max_pool_size = Some(u32::try_from(config.connections.saturating_add(2)).unwrap_or(u32::MAX));
        // The runtime repeats, from the position that the database has.
        options.retry_writes = Some(false);
        options.retry_reads = Some(false);
        match &config.deployment {
            Deployment::Single => options.direct_connection = (!config.srv_record).then_some(true),
            Deployment::Unknown | Deployment::Sharded => {}
            Deployment::ReplicaSet(name) => options.repl_set_name = Some(name.clone()),
        }
        if let Some(user) = &config.username {
            let credential = Credential::builder().username(user.clone()).source(config.auth_source.clone());
            let password = config.password.as_ref().map(|secret| secret.0.clone());
            options.credential = Some(credential.password(password).build());
        }
        let mut certificate = None;
        match &config.tls {
            Some(tls) => {
                let path = client_file(tls, &mut certificate)?;
                let ca = tls.ca.clone();
                options.tls = Some(TlsOptions::builder().ca_file_path(ca).cert_key_file_path(path).build().into());
            }
            // A DNS name with SRV records asks for TLS by itself; the pool decides.
            None => options.tls = Some(mongodb::options::Tls::Disabled),
        }
        let client = Client::with_options(options).map_err(map)?;
        Ok(Live { client, looked: None, _certificate: certificate })
    }

    /// Where lookups may read.
    pub(super) fn reading(&self) -> SelectionCriteria {
        let preference = if self.config.read_secondaries {
            ReadPreference::SecondaryPreferred { options: None }
        } else {
            ReadPreference::Primary
        };
        SelectionCriteria::ReadPreference(preference)
    }
}

/// What a server says of itself. Old ones know the question by another name.
pub(super) async fn hello(db: &Database) -> Result<Hello, WriteError> {
    let answer = match db.run_command(doc! { "hello": 1 }).await {
        Err(error) if matches!(&*error.kind, mongodb::error::ErrorKind::Command(refused) if refused.code == 59) => {
            db.run_command(doc! { "isMaster": 1 }).await
        }
        answer => answer,
    };
    Ok(Hello::of(&answer.map_err(map)?))
}

/// The file with the client's certificate and key. The driver wants them in one: where they are two, it gets one in memory.
fn client_file(tls: &Tls, certificate: &mut Option<File>) -> Result<Option<PathBuf>, WriteError> {
    let Some((cert, key)) = &tls.client else { return Ok(None) };
    if cert == key {
        return Ok(Some(cert.clone()));
    }
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|error| WriteError::busy(format!("{}: {error} (the pool's certfile or keyfile)", path.display())))
    };
    let (cert, key) = (read(cert)?, read(key)?);
    let kept = rustix::fs::memfd_create("forebay-mongo", rustix::fs::MemfdFlags::CLOEXEC).map_err(std::io::Error::from);
    let written = kept.map(File::from).and_then(|mut file| {
        file.write_all(&cert)?;
        file.write_all(b"\n")?;
        file.write_all(&key)?;
        Ok(file)
    });
    let file = written.map_err(|error| WriteError::busy(format!("keeping the client's certificate: {error}")))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    *certificate = Some(file);
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_where_sets_and_routers_have_them() {
        let sessions = doc! { "logicalSessionTimeoutMinutes": 30, "maxWireVersion": 13, "isWritablePrimary": true };
        let with = |more: Document| {
            let mut answer = sessions.clone();
            answer.extend(more);
            Hello::of(&answer)
        };
        assert!(!with(doc! {}).has_transactions());
        assert!(with(doc! { "setName": "rs" }).has_transactions());
        assert!(with(doc! { "msg": "isdbgrid" }).has_transactions());
        assert!(!with(doc! { "msg": "isdbgrid", "maxWireVersion": 7 }).has_transactions());
        assert!(!Hello::of(&doc! { "setName": "rs", "maxWireVersion": 13 }).has_transactions());
    }

    #[test]
    fn a_certificate_and_its_key_become_one_file_on_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("c"), dir.path().join("k"));
        std::fs::write(&cert, "CERT").unwrap();
        std::fs::write(&key, "KEY").unwrap();
        let tls = Tls { ca: None, client: Some((cert.clone(), key)) };
        let mut kept = None;
        let path = client_file(&tls, &mut kept).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "CERT\nKEY");
        assert!(kept.is_some());
        let one = Tls { ca: None, client: Some((cert.clone(), cert.clone())) };
        assert_eq!(client_file(&one, &mut kept).unwrap(), Some(cert));
    }
}
