//! Settings of an InfluxDB pool.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::http::{HttpConfig, Login, TlsFiles, server};
use crate::rule::Pool;
use crate::template::{SameTime, Shape, Templates, Unit};

/// An InfluxDB pool.
#[derive(Clone, Debug)]
pub struct InfluxConfig {
    /// Where points go, and how.
    pub target: Target,
    /// Points in a write (`batch_size`).
    pub batch: usize,
    /// Connections (`pool_size`).
    pub connections: usize,
    /// What fields are written as.
    pub field_type: FieldType,
    /// Unit of the points' times.
    pub unit: Unit,
    /// Unit of times in payloads, and of `$timestamp` as a value, where the template has none.
    pub payload_unit: Unit,
    /// What becomes of a second point of a series in one unit.
    pub same_time: SameTime,
    /// How messages become points.
    pub templates: Arc<Templates>,
    /// The sink's name, for metrics.
    pub sink: String,
}

/// Where points go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// UDP, to the first of these servers whose name is known.
    Udp(Vec<String>),
    /// `/write` of InfluxDB 1.
    V1 {
        /// Servers and login.
        http: HttpConfig,
        /// Database.
        database: String,
    },
    /// `/api/v2/write`.
    V2 {
        /// Servers and token.
        http: HttpConfig,
        /// Organisation; `None` where the server has none.
        org: Option<String>,
        /// Bucket.
        bucket: String,
    },
}

/// What fields are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldType {
    /// Numbers, booleans and texts, as they come.
    #[default]
    Native,
    /// Texts, all of them.
    CompatString,
}

/// Port of InfluxDB's HTTP.
const HTTP_PORT: u16 = 8086;
/// Port of its UDP listener.
const UDP_PORT: u16 = 8089;

impl InfluxConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them; reads the template file.
    ///
    /// # Errors
    /// Where settings don't fit together, and all faults of the template file.
    pub fn from_pool(pool: &Pool, data_dir: &Path) -> Result<InfluxConfig, String> {
        let text = |name: &str| pool.value(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let size = |name: &str| pool.integer(name).and_then(|n| usize::try_from(n).ok());
        let udp = pool.value("write_protocol") == Some("udp");
        let unit = text(if udp { "udp.precision" } else { "http.precision" }).and_then(|u| Unit::parse(&u));
        let unit = unit.unwrap_or(Unit::Ns);
        let bucket = text("http.bucket");
        if bucket.is_some() && !udp && matches!(unit, Unit::M | Unit::H) {
            return Err("http.precision: the second API knows ns, us, ms and s".to_owned());
        }
        let target = match bucket {
            _ if udp => Target::Udp(servers(pool, &["udp.server", "server"], "udp", UDP_PORT)),
            Some(bucket) => {
                let login = text("http.token").map_or_else(|| password(pool), Login::Token);
                Target::V2 { http: http(pool, login), org: text("http.org"), bucket }
            }
            None => match text("http.token") {
                Some(_) => return Err("http.token belongs to the second API: set http.bucket, too".to_owned()),
                None => {
                    let database = text("http.database").unwrap_or_else(|| "mydb".to_owned());
                    Target::V1 { http: http(pool, password(pool)), database }
                }
            },
        };
        let file = data_dir.join(text("template_file").unwrap_or_default());
        let templates = Templates::load(&file, Shape::Fields).map_err(|faults| faults.to_string())?;
        Ok(InfluxConfig {
            target,
            batch: size("batch_size").unwrap_or(1_000),
            connections: size(if udp { "udp.pool_size" } else { "http.pool_size" })
                .or_else(|| size("pool_size"))
                .unwrap_or(8)
                .max(1),
            field_type: match pool.value("field_type") {
                Some("compat_string") => FieldType::CompatString,
                _ => FieldType::Native,
            },
            unit,
            // EMQ X sent numbers of payloads as they were, in the unit that the server was told. Where nothing was said, that
            // was milliseconds.
            payload_unit: match udp || pool.settings.contains_key("http.precision") {
                true => unit,
                false => Unit::Ms,
            },
            same_time: same_time(pool),
            templates: Arc::new(templates),
            sink: crate::registry::sink_name(pool.database, &pool.name),
        })
    }
}

/// The pool's `same_time`.
fn same_time(pool: &Pool) -> SameTime {
    match pool.value("same_time") {
        Some("dead_letter") => SameTime::DeadLetter,
        _ => SameTime::Bump,
    }
}

/// The first of these settings that is written, else host and port.
fn servers(pool: &Pool, names: &[&str], protocol: &str, port: u16) -> Vec<String> {
    if let Some(list) = names.iter().find_map(|name| pool.value(name)) {
        return list.split(',').map(|one| server(one, port)).collect();
    }
    let host = pool.value(&format!("{protocol}.host")).unwrap_or("127.0.0.1");
    let port = pool.integer(&format!("{protocol}.port")).and_then(|n| u16::try_from(n).ok()).unwrap_or(port);
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    vec![format!("{host}:{port}")]
}

fn password(pool: &Pool) -> Login {
    match pool.value("http.username") {
        Some(username) => Login::Password {
            username: username.to_owned(),
            password: pool.value("http.password").unwrap_or_default().to_owned(),
        },
        None => Login::None,
    }
}

fn http(pool: &Pool, login: Login) -> HttpConfig {
    let file = |name: &str| pool.value(name).map(PathBuf::from);
    HttpConfig {
        servers: servers(pool, &["http.server"], "http", HTTP_PORT),
        tls: (pool.boolean("http.https_enabled") == Some(true)).then(|| TlsFiles {
            authority: file("http.ssl.cacertfile"),
            client: file("http.ssl.certfile").zip(file("http.ssl.keyfile")),
            only_1_3: pool.value("http.ssl.version") == Some("tlsv1.3"),
        }),
        login,
        gzip: pool.boolean("http.gzip") == Some(true),
    }
}
