//! Settings of a DynamoDB pool.

use std::fmt;

use crate::rule::Pool;
use crate::sql::{BinaryPayload, SchemaMode};

/// A DynamoDB pool.
#[derive(Clone, Debug)]
pub struct DynamoConfig {
    /// Endpoint (`server`); the region's own where absent.
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Access key and its secret; where absent what the environment, the profile or the machine says.
    pub credentials: Option<(Secret, Secret)>,
    /// Batches under way at most (`pool_size`); each has several requests under way.
    pub connections: usize,
    /// How payloads that are no text are stored: as type B, or as text.
    pub binary_payload: BinaryPayload,
    /// What is done about missing tables.
    pub schema: SchemaMode,
    /// How tables that are made are paid for.
    pub billing: Billing,
    /// Names in an item of `mqtt_topic_msg_map` before another is begun (`map_ids`).
    pub map_ids: usize,
    /// The node's name in `mqtt_client`.
    pub node_name: String,
}

/// How a table is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billing {
    /// By request.
    OnDemand,
    /// By throughput, in units a second.
    Provisioned {
        /// Read units.
        read: i64,
        /// Write units.
        write: i64,
    },
}

/// A secret: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl DynamoConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them.
    ///
    /// # Errors
    /// Where an access key stands without its secret, or the reverse.
    pub fn from_pool(pool: &Pool, node_name: &str) -> Result<DynamoConfig, String> {
        let text = |name: &str| pool.value(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let number =
            |name: &str, default: i64| pool.integer(name).and_then(|n| i64::try_from(n).ok()).unwrap_or(default);
        let count =
            |name: &str, default: usize| pool.integer(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
        let credentials = match (text("aws_access_key_id"), text("aws_secret_access_key")) {
            (Some(id), Some(secret)) => Some((Secret(id), Secret(secret))),
            (None, None) => None,
            (id, _) => {
                let (there, lacking) = match id {
                    Some(_) => ("aws_access_key_id", "aws_secret_access_key"),
                    None => ("aws_secret_access_key", "aws_access_key_id"),
                };
                return Err(format!(
                    "pool {} has {there} and no {lacking}: write both, or neither for those of the environment",
                    pool.name
                ));
            }
        };
        Ok(DynamoConfig {
            endpoint: text("server"),
            region: text("region").unwrap_or_else(|| "us-west-2".to_owned()),
            credentials,
            connections: count("pool_size", 8).max(1),
            binary_payload: match pool.value("binary_payload") {
                Some("base64") => BinaryPayload::Base64,
                Some("hex") => BinaryPayload::Hex,
                _ => BinaryPayload::Refuse,
            },
            schema: match pool.value("schema") {
                Some("verify") => SchemaMode::Verify,
                Some("off") => SchemaMode::Off,
                _ => SchemaMode::Create,
            },
            billing: match pool.value("billing") {
                Some("provisioned") => {
                    Billing::Provisioned { read: number("read_capacity", 5), write: number("write_capacity", 5) }
                }
                _ => Billing::OnDemand,
            },
            map_ids: count("map_ids", 1_000).max(1),
            node_name: node_name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::parse_conf;

    fn read(lines: &str) -> Result<DynamoConfig, String> {
        let text = format!("backend.dynamo.pool1.pool_size = 2\n{lines}");
        let parsed = parse_conf(std::path::Path::new("t.conf"), &text);
        assert_eq!(parsed.faults, []);
        DynamoConfig::from_pool(&parsed.rules.pools[0], "here")
    }

    #[test]
    fn secrets_are_not_shown_and_come_in_pairs() {
        let both =
            "backend.dynamo.pool1.aws_access_key_id = AKID\nbackend.dynamo.pool1.aws_secret_access_key = hunter2\n";
        let config = read(both).unwrap();
        assert_eq!(config.credentials, Some((Secret("AKID".into()), Secret("hunter2".into()))));
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("AKID"), "{shown}");
        assert_eq!(read("").unwrap().credentials, None);
        let half = read("backend.dynamo.pool1.aws_access_key_id = AKID\n").unwrap_err();
        assert!(half.contains("aws_secret_access_key") && !half.contains("AKID"), "{half}");
    }

    #[test]
    fn tables_are_paid_for_by_request_unless_throughput_is_asked_for() {
        assert_eq!(read("").unwrap().billing, Billing::OnDemand);
        let guide = read("backend.dynamo.pool1.billing = provisioned\n").unwrap();
        assert_eq!(guide.billing, Billing::Provisioned { read: 5, write: 5 });
    }
}
