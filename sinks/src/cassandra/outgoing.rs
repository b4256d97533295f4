//! What is sent for one partition: in as few requests as they fit in, and alone what the server refuses in company.

use scylla::value::CqlValue;

use super::connect::{Link, Step};
use super::error::Failure;
use crate::sink::{Verdict, WriteError};
use crate::sql::Value;

/// Statements in one request at most.
const STATEMENTS: usize = 128;

/// Bytes of values in one request, after which no further statement is added: far below the largest mutation that servers take.
const BYTES: usize = 128 << 10;

/// What is sent for one partition, and which operations it is for.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    steps: Vec<(Step, Vec<usize>)>,
    /// What became of operations that can't be stored.
    pub(super) refused: Vec<(usize, Verdict)>,
}

impl Outgoing {
    /// Adds a statement; one that its own values make impossible is refused for the operations it is for.
    pub(super) async fn add(
        &mut self,
        link: &Link,
        cql: &str,
        values: &[Value],
        of: &[usize],
    ) -> Result<(), WriteError> {
        match link.step(cql, values).await {
            Ok(step) => self.steps.push((step, of.to_vec())),
            Err(failure) => self.refuse(failure, of)?,
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, failure: Failure, of: &[usize]) -> Result<(), WriteError> {
        let Failure::Own(why) = failure else { return Err(failure.into_write()) };
        self.refused.extend(of.iter().map(|index| (*index, Verdict::Bury(why.clone().into()))));
        Ok(())
    }

    /// Sends what was added, in order. Where a request of several is refused, each is sent by itself: the others are stored.
    pub(super) async fn send(&mut self, link: &Link) -> Result<(), WriteError> {
        let mut rest = std::mem::take(&mut self.steps);
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(STATEMENTS).take_while(|(step, _)| {
                let before = bytes;
                bytes += weight(step);
                before < BYTES
            });
            let left = rest.split_off(fits.count().max(1));
            let steps: Vec<Step> = rest.iter().map(|(step, _)| step.clone()).collect();
            match link.run_all(&steps).await {
                Ok(()) => {}
                Err(Failure::Own(_)) if steps.len() > 1 => {
                    for (step, of) in &rest {
                        if let Err(failure) = link.run(step).await {
                            self.refuse(failure, of)?;
                        }
                    }
                }
                Err(failure) => {
                    let of: Vec<usize> = rest.iter().flat_map(|(_, of)| of.iter().copied()).collect();
                    self.refuse(failure, &of)?;
                }
            }
            rest = left;
        }
        Ok(())
    }
}

fn weight(step: &Step) -> usize {
    let value = |value: &Option<CqlValue>| match value {
        Some(CqlValue::Text(text)) => text.len(),
        Some(CqlValue::Blob(bytes)) => bytes.len(),
        _ => 8,
    };
    step.values.iter().map(value).sum()
}
