//! TLS to a real Cassandra that speaks nothing else; where the build has none, a pool that asks for it is refused.
#![cfg(all(feature = "conformance", feature = "cassandra"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cassandra_support;

use cassandra_support::{name, options};
use forebay_engine::QoS;
use forebay_sinks::Sinks;
use forebay_sinks::conformance::{MemoryLog, nowhere, rule};
use forebay_sinks::rule::{Action, Database, Function, Hook, Pool, RuleSet, Setting};

/// Rules that store everything in a keyspace of this node, with more settings of the pool.
fn rules(node: &str, keyspace: &str, more: &[(&str, &str)]) -> RuleSet {
    let login = [("nodes", node), ("username", "cassandra"), ("password", "cassandra"), ("keyspace", keyspace)];
    let setting = |value: &str| Setting { value: value.to_owned(), secret: false, at: nowhere() };
    let settings = login.iter().chain(more).map(|(name, value)| ((*name).to_owned(), setting(value))).collect();
    let pool = Pool { database: Database::Cassandra, name: "pool1".into(), settings, at: nowhere() };
    let action = Action::Function(Function::MessagePublish);
    RuleSet { pools: vec![pool], rules: vec![rule(Database::Cassandra, Hook::MessagePublish, 1, Some("#"), action)] }
}

/// A log with some messages.
fn log() -> MemoryLog {
    let log = MemoryLog::default();
    for number in 0..100u8 {
        log.publish("t", &[b'0' + number / 10, b'0' + number % 10], QoS::AtLeastOnce);
    }
    log
}

#[tokio::test]
async fn half_a_client_s_identity_is_refused() {
    let rules = rules("127.0.0.1:1", &name("tls"), &[("ssl", "true"), ("certfile", "/x.crt")]);
    let refused = Sinks::start(std::sync::Arc::new(log()), &rules, &options()).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("`certfile` and `keyfile` belong together"), "{refused}");
}

/// No byte of it goes to the server: nobody listens there, and nobody is asked.
#[cfg(not(feature = "cassandra-tls"))]
#[tokio::test]
async fn a_build_without_tls_refuses_a_pool_with_ssl() {
    use forebay_sinks::StartError;
    use forebay_sinks::cassandra::CassandraSink;
    use forebay_sinks::sink::Sink;
    use forebay_sinks::sql::TlsFiles;

    let asked = rules("127.0.0.1:1", &name("tls"), &[("ssl", "true"), ("cacertfile", "/ca.crt")]);
    let refused = Sinks::start(std::sync::Arc::new(log()), &asked, &options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::Setting { .. }), "{refused}");
    let said = refused.to_string();
    assert!(said.contains("pool1, `ssl = true`: this build has no TLS to Cassandra"), "{said}");
    assert!(said.contains("--features cassandra-tls"), "{said}");
    // Who makes the settings without rules does not get a connection in clear either.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut config = cassandra_support::config(&listener.local_addr().unwrap().to_string(), &name("tls"), 1);
    config.tls = Some(TlsFiles::default());
    let said = CassandraSink::new(config).connect().await.map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("--features cassandra-tls"), "{said}");
    assert_eq!(listener.accept().map(|_| ()).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[cfg(feature = "cassandra-tls")]
mod encrypted {
    use std::sync::Arc;
    use std::time::Duration;

    use forebay_services::cassandra::Cassandra;
    use forebay_services::certificates::certificates;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use scylla::client::session_builder::SessionBuilder;

    use super::cassandra_support::{View, done, place, start, stop};
    use super::*;

    /// The server's side as another program sees it.
    async fn view(node: &str, keyspace: &str) -> View {
        let files = certificates().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![CertificateDer::from_pem_file(&files.client).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&files.client_key).unwrap();
        let config = builder.unwrap().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        let builder = SessionBuilder::new().known_node(node).user("cassandra", "cassandra");
        let builder = builder.tls_context(Some(Arc::new(config))).fetch_schema_metadata(false);
        let session = builder.build().await.unwrap();
        session.use_keyspace(keyspace, true).await.unwrap();
        View { session, node: node.to_owned(), keyspace: keyspace.to_owned() }
    }

    /// What the sink says when it can't connect.
    async fn complaint(sinks: &Sinks) -> String {
        let end = tokio::time::Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(said) = sinks.status().remove(0).last_error {
                return said;
            }
            assert!(tokio::time::Instant::now() < end, "{:?}", sinks.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_sides_are_checked_and_messages_are_stored_over_restarts() {
        let mut server =
            forebay_services::private(&Cassandra { tls: true }).unwrap_or_else(|error| panic!("{error:#}"));
        let (node, keyspace) = (place(&server.address), name("tls"));
        let files = certificates().unwrap();
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let (authority, certificate, key) = (text(&files.authority), text(&files.client), text(&files.client_key));
        let trusted = [("ssl", "true"), ("cacertfile", &*authority)];
        let client = [("certfile", &*certificate), ("keyfile", &*key)];

        let log = log();
        let sinks = start(&log, &rules(&node, &keyspace, &[trusted, client].concat()));
        let last = log.publish("t", b"last", QoS::AtLeastOnce);
        done(&log, &sinks, last).await;
        server.process().kill();
        let last = log.publish("t", b"after it was killed", QoS::AtLeastOnce);
        server.process().restart().unwrap();
        done(&log, &sinks, last).await;
        stop(sinks).await;
        let stored = view(&node, &keyspace).await.stored().await;
        assert!(stored.len() == 102 && stored.values().all(|times| *times == 1), "{stored:?}");

        // An authority that did not sign it, no certificate of the client's, no TLS at all, and files that can't be read: nothing is stored. How
        // the server ends what it does not like is its own affair.
        for (settings, says) in [
            ([("ssl", "true")].into_iter().chain(client).collect::<Vec<_>>(), "UnknownIssuer"),
            (trusted.to_vec(), ""),
            (vec![("ssl", "false")], ""),
            (vec![("ssl", "true"), ("cacertfile", "/no/such.crt")], "cacertfile /no/such.crt"),
        ] {
            let log = super::log();
            let sinks = start(&log, &rules(&node, &name("tls"), &settings));
            let said = complaint(&sinks).await;
            println!("{settings:?}: {said}");
            assert!(said.contains(says), "{settings:?}: {said}");
            assert_eq!(sinks.status()[0].stored, 0, "{settings:?}");
            stop(sinks).await;
        }
    }
}
