//! SQLite: a file of this process. It has a turn among all databases; its rate is measured in `sinks/tests/sink_sqlite_rate.rs`.

use anyhow::Result;
use forebay_services::Private;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Executor, Row};
use tempfile::TempDir;

use super::side::{Side, Work};

/// A file in a folder that goes with this value.
#[derive(Debug)]
pub(super) struct Sqlite(TempDir);

impl Sqlite {
    pub(super) fn new() -> Result<Sqlite> {
        Ok(Sqlite(tempfile::tempdir()?))
    }

    async fn open(&self) -> Result<SqliteConnection> {
        let options = SqliteConnectOptions::new().filename(self.0.path().join("mqtt.db"));
        Ok(options.busy_timeout(std::time::Duration::from_secs(60)).connect().await?)
    }
}

impl Side for Sqlite {
    fn names(&self) -> (&'static str, &'static str) {
        ("SQLite", "none")
    }

    fn start(&self) -> Result<Option<Private>> {
        Ok(None)
    }

    fn words(&self) -> (&'static str, &'static str) {
        ("sqlite", "sqlite")
    }

    fn pool(&self, _port: u16) -> Vec<String> {
        vec![format!("file = {}", self.0.path().join("mqtt.db").display())]
    }

    fn clear(&self, _port: u16) -> Work<'_, ()> {
        Box::pin(async {
            let mut file = self.open().await?;
            file.execute("delete from mqtt_msg").await?;
            file.execute("delete from forebay_position").await?;
            Ok(())
        })
    }

    fn count(&self, _port: u16) -> Work<'_, u64> {
        Box::pin(async {
            let row = self.open().await?.fetch_one("select count(*) from mqtt_msg").await?;
            Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
        })
    }
}
