//! Settings of an OpenTSDB pool.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::http::{HttpConfig, Login, TlsFiles, server};
use crate::rule::Pool;
use crate::template::{SameTime, Shape, Templates, Unit};

/// An OpenTSDB pool.
#[derive(Clone, Debug)]
pub struct OpentsdbConfig {
    /// Servers and login.
    pub http: HttpConfig,
    /// Connections (`pool_size`).
    pub connections: usize,
    /// Points in a put (`max_batch_size`).
    pub batch: usize,
    /// Answers wait for storage.
    pub sync: bool,
    /// Longest such wait, ms; 0 = the sink's own deadline of each request.
    pub sync_timeout_ms: u64,
    /// Unit of the points' times: ms or s.
    pub unit: Unit,
    /// What becomes of a second point of a series in one unit.
    pub same_time: SameTime,
    /// How messages become points.
    pub templates: Arc<Templates>,
    /// The sink's name, for metrics.
    pub sink: String,
}

const PORT: u16 = 4242;

impl OpentsdbConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them; reads the template file.
    ///
    /// # Errors
    /// All faults of the template file.
    pub fn from_pool(pool: &Pool, data_dir: &Path) -> Result<OpentsdbConfig, String> {
        let size = |name: &str| pool.integer(name).and_then(|n| usize::try_from(n).ok());
        let file = |name: &str| pool.value(name).map(PathBuf::from);
        let login = match pool.value("username") {
            Some(username) => Login::Password {
                username: username.to_owned(),
                password: pool.value("password").unwrap_or_default().to_owned(),
            },
            None => Login::None,
        };
        let http = HttpConfig {
            servers: pool.value("server").unwrap_or_default().split(',').map(|one| server(one, PORT)).collect(),
            tls: (pool.boolean("ssl") == Some(true)).then(|| TlsFiles {
                authority: file("cacertfile"),
                client: file("certfile").zip(file("keyfile")),
                only_1_3: false,
            }),
            login,
            gzip: pool.boolean("gzip") == Some(true),
        };
        let template = data_dir.join(pool.value("template_file").unwrap_or_default());
        let templates = Templates::load(&template, Shape::Value).map_err(|faults| faults.to_string())?;
        Ok(OpentsdbConfig {
            http,
            connections: size("pool_size").unwrap_or(8).max(1),
            batch: size("max_batch_size").unwrap_or(20).max(1),
            sync: pool.boolean("sync") != Some(false),
            sync_timeout_ms: pool.integer("sync_timeout").unwrap_or(0),
            unit: pool.value("precision").and_then(Unit::parse).unwrap_or(Unit::Ms),
            same_time: match pool.value("same_time") {
                Some("dead_letter") => SameTime::DeadLetter,
                _ => SameTime::Bump,
            },
            templates: Arc::new(templates),
            sink: crate::registry::sink_name(pool.database, &pool.name),
        })
    }
}
