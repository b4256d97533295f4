//! MongoDB by its driver: `insert_many`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use forebay_services::mongo::{Mongo as Service, PASSWORD, USER};
use forebay_services::{Private, private};
use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;
use mongodb::{Client, Collection};
use tokio::task::JoinSet;

use super::rows::{Rows, SECONDS, SENDER};
use super::side::{Side, Work};

/// Documents of one call, as mongoimport has it.
const DOCUMENTS: usize = 1_000;

/// The stand-in for MongoDB.
#[derive(Debug)]
pub(super) struct Mongo {
    durable: bool,
    pieces: Arc<Vec<Vec<Document>>>,
    connections: usize,
}

impl Mongo {
    pub(super) fn new(durable: bool) -> Mongo {
        Mongo { durable, pieces: Arc::default(), connections: 1 }
    }
}

async fn messages(port: u16) -> Result<Collection<Document>> {
    let url = format!("mongodb://{USER}:{PASSWORD}@127.0.0.1:{port}/?directConnection=true");
    Ok(Client::with_uri_str(url).await?.database("mqtt").collection("mqtt_msg"))
}

/// As the sink asks for it.
fn journaled() -> WriteConcern {
    let mut concern = WriteConcern::majority();
    concern.journal = Some(true);
    concern
}

/// What the sink stores.
fn document(rows: Rows, n: u64) -> Document {
    doc! {
        "_id": n.cast_signed(),
        "topic": rows.topic(n),
        "msgid": Rows::msgid(n),
        "sender": SENDER,
        "qos": 1,
        "retain": 0,
        "payload": rows.payload(n),
        "arrived": SECONDS.cast_signed(),
    }
}

impl Side for Mongo {
    fn names(&self) -> (&'static str, &'static str) {
        let name = if self.durable { "MongoDB (stand-in, on disk)" } else { "MongoDB (stand-in, in memory)" };
        (name, "insert_many of 1,000")
    }

    fn most(&self) -> u64 {
        100_000
    }

    fn start(&self) -> Result<Option<Private>> {
        private(&Service { tls: false, durable: self.durable }).map(Some)
    }

    fn words(&self) -> (&'static str, &'static str) {
        ("mongo", "mongo")
    }

    fn pool(&self, port: u16) -> Vec<String> {
        vec![
            "type = single".to_owned(),
            format!("server = 127.0.0.1:{port}"),
            format!("login = {USER}"),
            format!("password = {PASSWORD}"),
            "auth_source = admin".to_owned(),
            "database = mqtt".to_owned(),
        ]
    }

    fn clear(&self, port: u16) -> Work<'_, ()> {
        Box::pin(async move {
            let messages = messages(port).await?;
            // The stand-in deletes document by document, for minutes: the collection is made again, with the indexes that it had.
            let (mut found, mut indexes) = (messages.list_indexes().await?, Vec::new());
            while found.advance().await? {
                indexes.push(found.deserialize_current()?);
            }
            messages.drop().await?;
            indexes.retain(|index| index.keys != doc! { "_id": 1 });
            if !indexes.is_empty() {
                messages.create_indexes(indexes).await?;
            }
            let positions = messages.client().database("mqtt").collection::<Document>("forebay_position");
            positions.delete_many(doc! {}).await?;
            Ok(())
        })
    }

    fn count(&self, port: u16) -> Work<'_, u64> {
        Box::pin(async move { Ok(messages(port).await?.count_documents(doc! {}).await?) })
    }

    fn prepare(&mut self, rows: Rows, connections: usize) -> Result<()> {
        let all: Vec<Document> = (0..rows.messages).map(|n| document(rows, n)).collect();
        self.pieces = Arc::new(all.chunks(DOCUMENTS).map(<[Document]>::to_vec).collect());
        self.connections = connections;
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(async move {
            let messages = messages(port).await?;
            // Logging in is no part of it.
            messages.find_one(doc! {}).await?;
            let next = Arc::new(AtomicUsize::new(0));
            let begun = Instant::now();
            let mut inserting = JoinSet::new();
            for _ in 0..self.connections {
                let (messages, pieces, next) = (messages.clone(), self.pieces.clone(), next.clone());
                inserting.spawn(async move {
                    while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                        messages.insert_many(piece).ordered(false).write_concern(journaled()).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = inserting.join_next().await {
                ended.context("an insertion panicked")??;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(async move {
            let messages = messages(port).await?;
            let begun = Instant::now();
            for n in 0..rows.messages {
                messages.insert_one(document(rows, n)).write_concern(journaled()).await?;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}
