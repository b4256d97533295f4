//! DynamoDB, and what speaks its API.
//!
#![doc = concat!("```text\n", include_str!("tables.txt"), "```")]
//!
//! Every item has its key, and what is written is a function of its record: a batch that is sent again leaves the same items. Messages
//! go by `BatchWriteItem`, everything that depends on what is there by an `UpdateItem` or `PutItem` with a condition. A lane's position
//! follows its batch. The SDK repeats nothing by itself: what DynamoDB could not take yet is sent again here while some of it goes
//! through, and everything else is the runtime's.
//!
//! TLS is rustls with ring, as everywhere in this program: the SDK's own client would bring a second crypto library.

mod apply;
mod config;
mod connect;
mod encode;
mod error;
mod expiry;
mod fold;
mod inspect;
mod item;
mod lookup;
mod map;
mod op;
mod position;
mod read;
mod request;
mod schema;
mod write;

pub use config::{Billing, DynamoConfig, Secret};
pub use connect::{DynamoConn, DynamoSink};
pub use op::{DynamoOp, MessageRow, Payload};
pub(crate) use schema::schema_text;
