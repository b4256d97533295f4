//! MongoDB and Cassandra in front of which the whole program is tested.

use forebay_services::cassandra::{self, Cassandra};
use forebay_services::mongo::{self, Mongo};
use forebay_services::{Private, private};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use scylla::client::session_builder::SessionBuilder;

use crate::support::databases::Subject;
use crate::support::{PATIENCE, wait};

/// The stand-in, with every write on the disk when it is answered.
pub struct OnMongo;

impl Subject for OnMongo {
    fn name(&self) -> &'static str {
        "mongo"
    }

    fn start(&self) -> Private {
        private(&Mongo { tls: false, durable: true }).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        format!(
            "backend.mongo.pool1.type = single\nbackend.mongo.pool1.server = 127.0.0.1:{}\n\
             backend.mongo.pool1.login = {}\nbackend.mongo.pool1.password = {}\nbackend.mongo.pool1.auth_source = admin\n\
             backend.mongo.pool1.database = mqtt\nbackend.mongo.pool1.pool_size = 4\n",
            servers.members[0].port(),
            mongo::USER,
            mongo::PASSWORD
        )
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        wait(async {
            let url = format!("{}/?directConnection=true&serverSelectionTimeoutMS=60000", servers.address);
            let client = mongodb::Client::with_uri_str(url).await.unwrap();
            let found = client.database("mqtt").collection::<Document>("mqtt_msg").find(doc! {}).await.unwrap();
            let of = |document: &Document, field: &str| document.get_str(field).unwrap().to_owned();
            found.map_ok(|document| (of(&document, "msgid"), of(&document, "payload"))).try_collect().await.unwrap()
        })
    }

    fn outage_ms(&self) -> u64 {
        7_000
    }

    fn deadline_ms(&self) -> u64 {
        5_000
    }

    fn rounds(&self) -> u64 {
        5
    }

    fn rate(&self) -> u64 {
        1_000
    }
}

/// One node that syncs its commit log before it answers.
pub struct OnCassandra;

impl Subject for OnCassandra {
    fn name(&self) -> &'static str {
        "cassa"
    }

    fn start(&self) -> Private {
        private(&Cassandra { tls: false }).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        let user = cassandra::USER;
        format!(
            "backend.ecql.pool1.nodes = 127.0.0.1:{}\nbackend.ecql.pool1.size = 4\nbackend.ecql.pool1.username = {user}\n\
             backend.ecql.pool1.password = {user}\nbackend.ecql.pool1.keyspace = mqtt\n",
            servers.members[0].port()
        )
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        wait(async {
            let node = format!("127.0.0.1:{}", servers.members[0].port());
            let builder = SessionBuilder::new().known_node(node).user(cassandra::USER, cassandra::USER);
            let session = builder.connection_timeout(PATIENCE).fetch_schema_metadata(false).build().await.unwrap();
            let rows = session.query_iter("select msgid, payload from mqtt.msg", ()).await.unwrap();
            rows.rows_stream::<(String, String)>().unwrap().try_collect().await.unwrap()
        })
    }

    fn outage_ms(&self) -> u64 {
        7_000
    }

    fn deadline_ms(&self) -> u64 {
        5_000
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
}
