//! Settings of a TimescaleDB pool.

use std::path::Path;
use std::sync::Arc;

use crate::rule::Pool;
use crate::sql::ServerConfig;
use crate::template::{StatementTemplate, Templates};

/// A TimescaleDB pool.
#[derive(Clone, Debug)]
pub struct TimescaleConfig {
    /// The server with its login. `schema` is about the table of positions alone.
    pub server: ServerConfig,
    /// How messages become statements.
    pub templates: Arc<Templates<StatementTemplate>>,
    /// The sink's name, for metrics.
    pub sink: String,
}

impl TimescaleConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them; reads the template file.
    ///
    /// # Errors
    /// Where several servers are named, and all faults of the template file.
    pub fn from_pool(pool: &Pool, data_dir: &Path, node_name: &str) -> Result<TimescaleConfig, String> {
        let server = ServerConfig::from_pool(pool, crate::pgsql::PORT, node_name)?;
        let file = data_dir.join(pool.value("template_file").unwrap_or_default());
        let templates = Templates::load_statements(&file).map_err(|faults| faults.to_string())?;
        let sink = crate::registry::sink_name(pool.database, &pool.name);
        Ok(TimescaleConfig { server, templates: Arc::new(templates), sink })
    }
}
