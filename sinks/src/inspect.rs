//! Looking at the databases without changing them: `forebay check --connect`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::lookup::Lookup;
use crate::registry::{DatabaseOptions, StartError, Visit, pool_of, sink_name, visit};
use crate::rule::RuleSet;
use crate::sink::Finding;

/// What was found at one database.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The sink (`mysql/pool1`).
    pub sink: String,
    /// One line each; never empty.
    pub findings: Vec<Finding>,
}

/// Looks at the database of every pool that a rule names, one after the other, each for `deadline` at most.
///
/// # Errors
/// Where a rule's pool or driver is missing.
pub async fn inspect(
    rules: &RuleSet,
    options: &DatabaseOptions,
    deadline: Duration,
) -> Result<Vec<Inspected>, StartError> {
    let mut inspected: Vec<Inspected> = Vec::new();
    for rule in &rules.rules {
        let sink = sink_name(rule.database, &rule.pool);
        if inspected.iter().any(|known| known.sink == sink) {
            continue;
        }
        let look = visit(pool_of(rules, rule)?, options, &rule.at, Look)?;
        let mut findings = match tokio::time::timeout(deadline, look).await {
            Ok(findings) => findings,
            Err(_) => vec![Finding::fault(format!("no answer within {} s", deadline.as_secs()))],
        };
        if findings.is_empty() {
            findings.push(Finding::fine("in order"));
        }
        inspected.push(Inspected { sink, findings });
    }
    Ok(inspected)
}

struct Look;

impl Visit for Look {
    type Out = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

    fn with<S: Lookup>(self, sink: S) -> Self::Out {
        Box::pin(async move { sink.inspect().await })
    }
}
