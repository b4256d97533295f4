//! DynamoDB's errors, and the SDK's, in the runtime's kinds.

use std::error::Error;
use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::sink::WriteError;

/// How long a service that has trouble of its own is left alone.
const BREATHER: Duration = Duration::from_millis(500);

/// What an error says about the request it met.
#[derive(Debug)]
pub(super) enum Failure {
    /// What was sent is at fault, in DynamoDB's words.
    Own(String),
    /// The condition does not hold.
    Condition,
    /// More than the table or the account may have at once, or somebody else's write of the same item.
    Throttled(String),
    /// A table is not there: the tables are to be looked at again.
    Missing(String),
    /// None of these; what the runtime is to do.
    Other(WriteError),
}

impl Failure {
    /// As an error of the sink itself, where there is no record to be at fault.
    pub(super) fn into_write(self) -> WriteError {
        match self {
            Failure::Own(text) | Failure::Missing(text) => WriteError::busy(text),
            Failure::Condition => WriteError::busy("a condition that somebody else's write has made untrue"),
            Failure::Throttled(text) => throttled(text),
            Failure::Other(error) => error,
        }
    }
}

/// Nothing at all goes through.
pub(super) fn throttled(text: String) -> WriteError {
    let cause = format!("{text} (DynamoDB throttles: give the table more throughput, or bill it by request)");
    WriteError::Busy { wait: Some(Duration::from_secs(1)), cause: cause.into() }
}

/// What a code of DynamoDB stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Own,
    Condition,
    Throttled,
    Missing,
    /// The operator's, with what to do.
    Operator(&'static str),
    /// The service's own trouble.
    Service,
}

fn class(code: &str, message: &str, status: u16) -> Class {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match code {
        "ValidationException" if says(&["does not match the schema", "Type mismatch for key", "Missing the key"]) => {
            Class::Operator(
                "the table has other keys than the guide's: rename it, or make it as `forebay schema dynamo` says",
            )
        }
        "ValidationException" | "ItemCollectionSizeLimitExceededException" => Class::Own,
        "ConditionalCheckFailedException" => Class::Condition,
        "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "ThrottlingException"
        | "Throttling"
        | "TransactionConflictException"
        | "TransactionInProgressException" => Class::Throttled,
        "ResourceNotFoundException" => Class::Missing,
        "AccessDeniedException" | "AccessDenied" => Class::Operator(
            "allow the pool's identity dynamodb:BatchWriteItem, PutItem, UpdateItem, DeleteItem, GetItem, BatchGetItem, Query, Scan, \
             DescribeTable and, for schema = create, CreateTable",
        ),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "NotAuthorized"
        | "OptInRequired"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "RequestExpired" => Class::Operator(
            "check the pool's aws_access_key_id, aws_secret_access_key and region, and this machine's clock",
        ),
        "LimitExceededException" => Class::Operator("too many tables are made or altered at once: it is tried again"),
        "ResourceInUseException" | "TableInUseException" => {
            Class::Operator("the table is being made or altered: it is tried again")
        }
        _ if code.starts_with("KMS") || code.contains("Encryption") => {
            Class::Operator("the table's key of the key management service can't be used")
        }
        _ if status >= 500 => Class::Service,
        _ => Class::Operator(""),
    }
}

fn refused(code: &str, message: &str, status: u16, table: &str) -> Failure {
    let text = |remedy: &str| match remedy {
        "" => format!("{table}: {message} ({code})"),
        remedy => format!("{table}: {message} ({code}; {remedy})"),
    };
    match class(code, message, status) {
        Class::Own => Failure::Own(text("")),
        Class::Condition => Failure::Condition,
        Class::Throttled => Failure::Throttled(text("")),
        Class::Missing => Failure::Missing(text("the table is not there: `schema = create` makes it")),
        Class::Operator(remedy) => Failure::Other(WriteError::busy(text(remedy))),
        Class::Service => Failure::Other(WriteError::Busy { wait: Some(BREATHER), cause: text("").into() }),
    }
}

/// An error of a request to a table.
pub(super) fn failure<E>(error: &SdkError<E>, table: &str) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let met = service.err();
            let status = service.raw().status().as_u16();
            refused(met.code().unwrap_or("no code"), met.message().unwrap_or("no message"), status, table)
        }
        _ => {
            let said = DisplayErrorContext(error).to_string();
            let said = shortened(&said);
            // Before a request is sent it is signed, and so an identity looked for.
            if ["credentials", "identity"].iter().any(|word| said.contains(word)) {
                return Failure::Other(WriteError::busy(format!(
                    "no credentials: {said} (write aws_access_key_id and aws_secret_access_key into the pool, or give the environment, a \
                     profile or the machine some)"
                )));
            }
            let said = format!("{table}: {said}");
            Failure::Other(match error {
                SdkError::ConstructionFailure(_) => WriteError::busy(said),
                _ => WriteError::Disconnected(said.into()),
            })
        }
    }
}

/// The chain of causes without what the SDK shows of its own insides at the end.
fn shortened(said: &str) -> &str {
    let inside = [" (DispatchFailure(", " (ResponseError(", " (TimeoutError(", " (ConstructionFailure("];
    inside.iter().find_map(|begin| said.split_once(begin)).map_or(said, |(chain, _)| chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for (code, message, status, expected) in [
            ("ValidationException", "Item size has exceeded the maximum allowed size", 400, Class::Own),
            ("ConditionalCheckFailedException", "", 400, Class::Condition),
            ("ProvisionedThroughputExceededException", "", 400, Class::Throttled),
            ("ThrottlingException", "", 400, Class::Throttled),
            ("RequestLimitExceeded", "", 400, Class::Throttled),
            ("ResourceNotFoundException", "", 400, Class::Missing),
            ("InternalServerError", "", 500, Class::Service),
            ("Surprise", "", 503, Class::Service),
            ("Surprise", "", 400, Class::Operator("")),
        ] {
            assert_eq!(class(code, message, status), expected, "{code}");
        }
        assert!(matches!(
            class("ValidationException", "The provided key element does not match the schema", 400),
            Class::Operator(_)
        ));
    }

    #[test]
    fn what_is_shown_of_a_lost_link_is_its_causes() {
        assert_eq!(
            shortened("dispatch failure: io error: reset (DispatchFailure(DispatchFailure { .. }))"),
            "dispatch failure: io error: reset"
        );
        assert_eq!(shortened("anything (else)"), "anything (else)");
    }

    #[test]
    fn the_operators_errors_hold_the_sink_and_name_the_remedy() {
        for code in
            ["AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException", "KMSDisabledException"]
        {
            let error = refused(code, "x", 400, "mqtt_msg").into_write();
            assert!(matches!(error, WriteError::Busy { .. }), "{code}");
            let text = error.to_string();
            assert!(text.starts_with("mqtt_msg: x") && text.contains(';'), "{text}");
        }
        let waits = refused("ProvisionedThroughputExceededException", "x", 400, "t").into_write();
        assert!(matches!(waits, WriteError::Busy { wait: Some(_), .. }), "{waits}");
    }
}
