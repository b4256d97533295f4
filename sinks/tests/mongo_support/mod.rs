//! MongoDB servers for tests: a database of the shared server for one test, and what stands in it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_sinks::mongo::{Deployment, MongoConfig, SchemaMode, Secret, Transactions};
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Database};

/// A server by its address: `mongodb://[USER:PASSWORD@]HOST:PORT`.
#[derive(Clone, Debug)]
pub struct Place {
    pub url: String,
    pub login: Option<(String, String)>,
    pub server: String,
}

impl Place {
    pub fn of(url: &str) -> Place {
        let rest = url.strip_prefix("mongodb://").unwrap();
        let (login, server) = match rest.rsplit_once('@') {
            Some((login, server)) => (login.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())), server),
            None => (None, rest),
        };
        let server = server.split(['/', '?']).next().unwrap().to_owned();
        Place { url: url.to_owned(), login, server }
    }

    pub fn shared() -> Place {
        Place::of(&forebay_services::address("mongo").unwrap())
    }

    /// Another way to the same server.
    pub fn through(&self, port: u16) -> Place {
        let server = format!("127.0.0.1:{port}");
        Place { url: self.url.replace(&self.server, &server), server, ..self.clone() }
    }

    /// A pool as a configuration would give it.
    pub fn config(&self, database: &str, connections: usize) -> MongoConfig {
        MongoConfig {
            servers: vec![self.server.clone()],
            deployment: Deployment::Single,
            srv_record: false,
            connections,
            database: database.to_owned(),
            username: self.login.as_ref().map(|(user, _)| user.clone()),
            password: self.login.as_ref().map(|(_, password)| Secret(password.clone())),
            auth_source: "admin".to_owned(),
            tls: None,
            safe: true,
            read_secondaries: false,
            transactions: Transactions::Auto,
            schema: SchemaMode::Create,
            local_threshold: Duration::from_millis(15),
            connect_timeout: Duration::from_secs(5),
            selection_timeout: Duration::from_millis(400),
            heartbeat: Duration::from_secs(10),
            node_name: "here".to_owned(),
        }
    }

    pub async fn client(&self) -> Client {
        Client::with_uri_str(format!("{}/?directConnection=true&serverSelectionTimeoutMS=10000", self.url))
            .await
            .unwrap()
    }
}

/// A database for one test, removed when it is dropped.
pub struct Scratch {
    pub place: Place,
    pub name: String,
    pub db: Database,
}

impl Scratch {
    pub async fn new() -> Scratch {
        Scratch::at(Place::shared()).await
    }

    pub async fn at(place: Place) -> Scratch {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("t_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let db = place.client().await.database(&name);
        db.drop().await.unwrap();
        Scratch { place, name, db }
    }

    pub fn config(&self, connections: usize) -> MongoConfig {
        self.place.config(&self.name, connections)
    }

    /// Documents that match, by their `_id`.
    pub async fn find(&self, collection: &str, filter: Document) -> Vec<Document> {
        find(&self.db, collection, filter).await
    }

    /// The same without `_id`.
    pub async fn fields(&self, collection: &str) -> Vec<Document> {
        let mut found = self.find(collection, doc! {}).await;
        for document in &mut found {
            document.remove("_id");
        }
        found
    }

    pub async fn insert(&self, collection: &str, document: Document) {
        self.db.collection::<Document>(collection).insert_one(document).await.unwrap();
    }

    /// How often each payload is stored.
    pub async fn payloads(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut stored = BTreeMap::new();
        for message in self.find("mqtt_msg", doc! { "msgid": { "$exists": true } }).await {
            *stored.entry(bytes(message.get("payload").unwrap())).or_default() += 1;
        }
        stored
    }

    /// Has the server fail commands, as mongod's tests do (`failCommand`).
    pub async fn fail_point(&self, mode: impl Into<Bson>, data: Document) {
        let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        self.db.client().database("admin").run_command(point).await.unwrap();
    }
}

pub async fn find(db: &Database, collection: &str, filter: Document) -> Vec<Document> {
    let collection = db.collection::<Document>(collection);
    let found = collection.find(filter).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (place, name) = (self.place.clone(), self.name.clone());
        // A runtime can't be blocked from within itself. What a server that is gone keeps goes with it.
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let database = place.client().await.database(&name);
                let dropped = async { database.drop().await };
                let _gone_with_its_server = tokio::time::timeout(Duration::from_secs(5), dropped).await;
            });
        });
        let _reported_there = gone.join();
    }
}

/// The bytes of a payload.
pub fn bytes(payload: &Bson) -> Vec<u8> {
    match payload {
        Bson::String(text) => text.clone().into_bytes(),
        Bson::Binary(binary) => binary.bytes.clone(),
        other => other.to_string().into_bytes(),
    }
}
