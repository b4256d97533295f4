//! InfluxDB and OpenTSDB in front of which the whole program is tested. Each message is a point.

use std::time::Duration;

use forebay_services::influxdb::{self, InfluxDb};
use forebay_services::opentsdb::OpenTsdb;
use forebay_services::{Private, private};
use serde_json::Value;

use crate::support::databases::Subject;
use crate::support::load::numbered;
use crate::support::wait_within;

/// How long a server that has just started may refuse queries.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);

/// The answer to a query.
fn ask(url: &str, parameters: &[(&str, &str)]) -> Value {
    wait_within(ANSWERS_WITHIN, &format!("an answer of {url}"), || {
        let request = parameters.iter().fold(ureq::get(url), |request, (name, value)| request.query(name, value));
        request.call().ok()?.body_mut().with_config().limit(1 << 30).read_json().ok()
    })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A server that syncs a write before it answers.
pub struct OnInfluxDb;

impl Subject for OnInfluxDb {
    fn name(&self) -> &'static str {
        "influxdb"
    }

    fn start(&self) -> Private {
        private(&InfluxDb { tls: false }).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        format!(
            "backend.influxdb.pool1.http.server = 127.0.0.1:{}\nbackend.influxdb.pool1.http.database = {}\n\
             backend.influxdb.pool1.http.username = {}\nbackend.influxdb.pool1.http.password = {}\n\
             backend.influxdb.pool1.pool_size = 4\n",
            servers.members[0].port(),
            influxdb::DATABASE,
            influxdb::USER,
            influxdb::PASSWORD
        )
    }

    fn file(&self) -> Option<(&'static str, String)> {
        let template = r#"{"outage/#": {"measurement": "outage", "tags": {"publisher": "$clientid"},
            "fields": {"msgid": "$id", "payload": "$payload"}}}"#;
        Some(("templates/emqx_backend_influxdb.tmpl", template.to_owned()))
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        let url = format!("http://127.0.0.1:{}/query", servers.members[0].port());
        let login = [("u", influxdb::ADMIN), ("p", influxdb::PASSWORD), ("db", influxdb::DATABASE)];
        let query = ("q", "select msgid, payload from outage");
        let answer = ask(&url, &[&login[..], &[query]].concat());
        let rows = answer["results"][0]["series"][0]["values"].as_array().unwrap_or_else(|| panic!("{answer}"));
        rows.iter().map(|row| (text(&row[1]), text(&row[2]))).collect()
    }

    fn outage_ms(&self) -> u64 {
        3_000
    }

    fn knows_clients(&self) -> bool {
        false
    }
}

/// OpenTSDB and the HBase that it stores in; puts are answered when HBase has them.
pub struct OnOpenTsdb;

impl Subject for OnOpenTsdb {
    fn name(&self) -> &'static str {
        "opentsdb"
    }

    fn start(&self) -> Private {
        private(&OpenTsdb).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        format!(
            "backend.opentsdb.pool1.server = 127.0.0.1:{}\nbackend.opentsdb.pool1.pool_size = 4\n\
             backend.opentsdb.pool1.max_batch_size = 200\nbackend.opentsdb.pool1.sync_timeout = 3000\n",
            servers.members[0].port()
        )
    }

    /// A series of few values: OpenTSDB gives each name and each tag's value a number, which costs it a transaction.
    fn file(&self) -> Option<(&'static str, String)> {
        let template = r#"{"outage/#": {"measurement": "outage", "tags": {"publisher": "$clientid", "qos": "$qos"},
            "value": "$payload"}}"#;
        Some(("templates/emqx_backend_opentsdb.tmpl", template.to_owned()))
    }

    fn payload(&self) -> fn(u64, u64) -> String {
        numbered
    }

    /// A point has no room for a name: its value tells whose it is.
    fn told(&self, _msgid: String, payload: String) -> (String, String) {
        (payload.clone(), payload)
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        let url = format!("http://127.0.0.1:{}/api/query", servers.members[0].port());
        let answer = ask(&url, &[("start", "2d-ago"), ("ms", "true"), ("m", "none:outage")]);
        let series = answer.as_array().unwrap_or_else(|| panic!("{answer}"));
        let points = series.iter().flat_map(|one| one["dps"].as_object().unwrap().values().map(text));
        points.map(|value| (value.clone(), value)).collect()
    }

    /// Either of the two.
    fn victim(&self, servers: &Private, dice: u64) -> usize {
        dice as usize % servers.members.len()
    }

    fn outage_ms(&self) -> u64 {
        7_000
    }

    fn deadline_ms(&self) -> u64 {
        5_000
    }

    /// OpenTSDB does not start while its store is away.
    fn raise(&self, servers: &mut Private) {
        for member in servers.members.iter_mut().rev() {
            member.restart().unwrap();
        }
    }

    fn starts_slowly(&self) -> bool {
        true
    }

    fn rounds(&self) -> u64 {
        5
    }

    fn rate(&self) -> u64 {
        1_000
    }

    fn knows_clients(&self) -> bool {
        false
    }
}
