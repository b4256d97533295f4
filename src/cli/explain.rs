//! `forebay explain` and `forebay schema`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use forebay_engine::{Message, QoS, topic};
use forebay_sinks::explain::{Explained, explain};
use forebay_sinks::registry;
use forebay_sinks::rule::Database;

use crate::cli::Options;
use crate::cli::check::configuration;
use crate::exit::{Exit, Failure};
use crate::run;

/// The message that is explained.
#[derive(Clone, Debug, Args)]
pub struct Example {
    /// Its topic
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// A file with its payload
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// Its QoS
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// With the retain flag
    #[arg(long)]
    retain: bool,
    /// Who publishes it, and subscribes to it
    #[arg(long, value_name = "ID", default_value = "client1")]
    client: String,
}

/// Runs `forebay explain`.
///
/// # Errors
/// All faults of the configuration; a topic that is none; a payload that can't be read.
pub fn run(options: &Options, example: &Example) -> Result<(), Failure> {
    let checked = configuration(options)?;
    topic::check_name(&example.topic)
        .map_err(|fault| Failure::new(Exit::Usage, format!("--topic {}: {fault}", example.topic)))?;
    let payload = match &example.payload {
        Some(path) => std::fs::read(path).map_err(|e| Failure::io(format!("reading {}", path.display()), &e))?,
        None => b"an example".to_vec(),
    };
    let message = Message {
        topic: example.topic.as_str().into(),
        payload: payload.into(),
        qos: QoS::from_u8(example.qos).unwrap_or(QoS::AtLeastOnce),
        retain: example.retain,
        publisher: example.client.as_str().into(),
        ..Message::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let databases = run::databases(&checked.loaded.settings);
    let explained = explain(&checked.rules.set, &message, now_us, &databases)
        .map_err(|source| Failure::new(Exit::Usage, source.to_string()))?;
    if options.json {
        println!("{}", serde_json::Value::Array(explained.iter().map(as_json).collect()));
    } else {
        print(&explained);
    }
    Ok(())
}

fn as_json(rule: &Explained) -> serde_json::Value {
    let operations: Vec<serde_json::Value> = rule
        .operations
        .iter()
        .map(|op| serde_json::json!({ "operation": op.text, "at_worst": op.at_worst.text() }))
        .collect();
    serde_json::json!({
        "hook": rule.hook.name(),
        "sink": rule.sink,
        "rule": rule.number,
        "at": rule.at.to_string(),
        "action": rule.action,
        "operations": operations,
        "remark": rule.remark,
    })
}

fn print(explained: &[Explained]) {
    let mut hook = None;
    for rule in explained {
        if hook != Some(rule.hook) {
            println!("{}", rule.hook);
            hook = Some(rule.hook);
        }
        let remark = rule.remark.as_ref().map(|remark| format!(": {remark}")).unwrap_or_default();
        println!("  {} rule {} {} ({}){remark}", rule.sink, rule.number, rule.action, rule.at);
        for op in &rule.operations {
            println!("      {}", op.text);
            println!("      at worst: {}", op.at_worst.text());
        }
    }
    if explained.is_empty() {
        println!("No rule concerns this message.");
    }
}

/// Runs `forebay schema`.
///
/// # Errors
/// A database that there is none of, or no driver for.
pub fn schema(name: &str) -> Result<(), Failure> {
    let known: Vec<Database> = Database::ALL.iter().copied().filter(|db| registry::schema(*db).is_some()).collect();
    let database = known.iter().find(|db| db.name() == name);
    match database.and_then(|db| registry::schema(*db)) {
        Some(text) => print!("{text}"),
        None => {
            let names: Vec<&str> = known.iter().map(|db| db.name()).collect();
            let text = format!("there is no schema of `{name}`; there are: {}", names.join(", "));
            return Err(Failure::new(Exit::Usage, text));
        }
    }
    Ok(())
}
