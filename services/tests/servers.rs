//! The servers start, keep what they were given over a kill and a restart, and are gone when their test is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use forebay_services::cassandra::Cassandra;
use forebay_services::dynamodb::DynamoDb;
use forebay_services::influxdb::{self, InfluxDb};
use forebay_services::mongo::{Mongo, Nx};
use forebay_services::opentsdb::OpenTsdb;
use forebay_services::postgres::Postgres;
use forebay_services::redis::{PASSWORD, Redis};
use forebay_services::toxiproxy::Link;
use forebay_services::victoria::Victoria;
use forebay_services::{address, private};

fn redis(port: u16, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning"]).args(words);
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn a_durable_redis_keeps_what_it_answered_over_a_kill() {
    let mut server = private(&Redis { tls: false, durable: true }).unwrap();
    let port = server.process().port();
    assert_eq!(redis(port, &["set", "k", "v"]), "OK");
    server.process().kill();
    assert_ne!(redis(port, &["get", "k"]), "v");
    server.process().restart().unwrap();
    assert_eq!(redis(port, &["get", "k"]), "v");
    drop(server);
    assert_ne!(redis(port, &["get", "k"]), "v");
}

#[test]
fn postgres_lets_each_user_in_as_it_should() {
    let server = private(&Postgres).unwrap();
    let port = server.members[0].port();
    let files = forebay_services::certificates::certificates().unwrap();
    let login = |rest: &str| {
        let line = format!("host=127.0.0.1 port={port} dbname=postgres {rest}");
        let mut command = Command::new("psql");
        command
            .args([line.as_str(), "-Atc", "select current_user"])
            .env_remove("PGPASSWORD")
            .env("PGPASSFILE", "/dev/null");
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let authority = format!("sslmode=verify-full sslrootcert={}", files.authority.display());
    let client = format!("sslcert={} sslkey={}", files.client.display(), files.client_key.display());
    assert_eq!(login("user=forebay password=pw sslmode=disable"), "forebay");
    assert_eq!(login("user=forebay password=no"), "");
    assert_eq!(login("user=tlsonly password=pw sslmode=disable"), "");
    assert_eq!(login(&format!("user=tlsonly password=pw {authority}")), "tlsonly");
    assert_eq!(login(&format!("user=forebay_cert {authority} {client}")), "forebay_cert");
    assert_eq!(login(&format!("user=forebay_cert {authority}")), "");
}

/// Status (0 where there is no answer) and body.
fn http(words: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--noproxy", "*", "--max-time", "30", "--write-out", "\n%{http_code}"]).args(words);
    let answer = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn until(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn influxdb_asks_for_a_login_and_keeps_what_it_answered() {
    let mut server = private(&InfluxDb { tls: false }).unwrap();
    let (url, udp) = server.address.split_once("/?udp=").unwrap();
    let (url, udp) = (url.to_owned(), udp.to_owned());
    let bare = url.replace("admin:pw@", "");
    let user = format!("{}:{}", influxdb::USER, influxdb::PASSWORD);
    let write = format!("{bare}/write?db={}", influxdb::DATABASE);
    assert_eq!(http(&[&write, "--data-binary", "m v=1 1"]).0, 401);
    assert_eq!(http(&[&write, "--user", "forebay:no", "--data-binary", "m v=1 1"]).0, 401);
    assert_eq!(http(&[&write, "--user", &user, "--data-binary", "m v=1 1"]).0, 204);
    server.process().kill();
    assert_eq!(http(&[&write, "--user", &user, "--data-binary", "m v=1 1"]).0, 0);
    server.process().restart().unwrap();
    let query = |database: &str| {
        let query = format!("{url}/query?db={database}");
        http(&["--get", &query, "--data-urlencode", "q=select count(v) from m"]).1
    };
    assert!(query(influxdb::DATABASE).contains("[\"1970-01-01T00:00:00Z\",1]"), "{}", query(influxdb::DATABASE));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"m v=1 1000", format!("127.0.0.1:{udp}")).unwrap();
    until("a point sent by UDP", || query(influxdb::UDP_DATABASE).contains(",1]"));
}

#[test]
fn influxdb_over_tls_shows_the_tests_certificate() {
    let server = private(&InfluxDb { tls: true }).unwrap();
    let authority = forebay_services::certificates::certificates().unwrap().authority;
    let ping = format!("{}/ping", server.address.split_once("/?").unwrap().0);
    assert_eq!(http(&[&ping, "--cacert", &authority.display().to_string()]).0, 204);
    assert_eq!(http(&[&ping]).0, 0);
}

#[test]
fn victoria_takes_lines_of_the_second_api_and_puts() {
    let server = private(&Victoria).unwrap();
    let (url, opentsdb) = server.address.split_once("/?opentsdb=").unwrap();
    assert_eq!(http(&[&format!("{url}/api/v2/write?org=o&bucket=b"), "--data-binary", "m,t=a v=1 1"]).0, 204);
    let put = format!("http://127.0.0.1:{opentsdb}/api/put");
    let point = r#"{"metric":"put","timestamp":1,"value":2,"tags":{"t":"a"}}"#;
    assert_eq!(http(&[&put, "--data-binary", point]).0, 204);
    http(&[&format!("{url}/internal/force_flush")]);
    let all = http(&["--get", &format!("{url}/api/v1/export"), "--data-urlencode", "match[]={__name__!=\"\"}"]).1;
    assert!(all.contains("\"m_v\"") && all.contains("\"put\""), "{all}");
}

#[test]
fn opentsdb_keeps_a_put_that_was_synced_though_its_store_is_killed() {
    let mut server = private(&OpenTsdb).unwrap();
    let url = server.address.clone();
    let put = |value: u32| {
        let point = format!(r#"{{"metric":"m","timestamp":1600000000,"value":{value},"tags":{{"t":"a"}}}}"#);
        http(&[&format!("{url}/api/put?details&sync"), "--data-binary", &point])
    };
    let (status, answer) = put(7);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("\"success\":1"), "{answer}");
    server.members[1].kill();
    server.members[1].restart().unwrap();
    until("the point", || {
        let (_, found) = http(&[&format!("{url}/api/query?start=1599999999&end=1600000001&m=sum:m")]);
        found.contains("\"1600000000\":7")
    });
}

/// The first answer of a server that speaks MongoDB's protocol: `hello`, without a driver.
fn hello(port: u16) -> Vec<u8> {
    let mut body = 0_u32.to_le_bytes().to_vec();
    body.push(0);
    let mut document = b"\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0".to_vec();
    document.splice(0..0, u32::try_from(document.len() + 4).unwrap().to_le_bytes());
    body.extend(document);
    let mut message = u32::try_from(body.len() + 16).unwrap().to_le_bytes().to_vec();
    for number in [1_u32, 0, 2013] {
        message.extend(number.to_le_bytes());
    }
    message.extend(body);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(&message).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut rest = vec![0; u32::from_le_bytes(length) as usize - 4];
    stream.read_exact(&mut rest).unwrap();
    rest
}

#[test]
fn both_servers_of_mongodb_s_protocol_say_what_they_are() {
    let contains = |answer: &[u8], word: &str| answer.windows(word.len()).any(|part| part == word.as_bytes());
    let mut server = private(&Mongo { tls: false, durable: true }).unwrap();
    let port = server.process().port();
    assert!(contains(&hello(port), "isWritablePrimary"));
    server.process().kill();
    server.process().restart().unwrap();
    assert!(contains(&hello(port), "maxWireVersion"));
    let nx = private(&Nx).unwrap();
    assert!(contains(&hello(nx.members[0].port()), "logicalSessionTimeoutMinutes"));
}

#[test]
fn cassandra_lets_its_superuser_in_again_after_a_kill() {
    // Its start waits until it logs in.
    let mut server = private(&Cassandra { tls: false }).unwrap();
    let port = server.process().port();
    server.process().kill();
    server.process().restart().unwrap();
    assert_eq!(server.address, format!("cassandra://cassandra:cassandra@127.0.0.1:{port}"));
}

#[test]
fn dynamodb_keeps_its_tables_over_a_kill_and_each_key_has_its_own() {
    let mut server = private(&DynamoDb { durable: true }).unwrap();
    let url = server.address.clone();
    // Neither the signature nor the secret is checked.
    let ask = |key: &str, operation: &str, body: &str| {
        let login = format!(
            "authorization: AWS4-HMAC-SHA256 Credential={key}/20240101/us-west-2/dynamodb/aws4_request, SignedHeaders=host, Signature=0"
        );
        let target = format!("x-amz-target: DynamoDB_20120810.{operation}");
        let kind = "content-type: application/x-amz-json-1.0";
        http(&[&url, "-H", &login, "-H", &target, "-H", kind, "--data-binary", body])
    };
    let table = r#"{"TableName":"kept","BillingMode":"PAY_PER_REQUEST","KeySchema":[{"AttributeName":"k","KeyType":"HASH"}],
        "AttributeDefinitions":[{"AttributeName":"k","AttributeType":"S"}]}"#;
    let (status, answer) = ask("one", "CreateTable", table);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(ask("one", "PutItem", r#"{"TableName":"kept","Item":{"k":{"S":"a"}}}"#).0, 200);
    server.process().kill();
    server.process().restart().unwrap();
    let (_, found) = ask("one", "Scan", r#"{"TableName":"kept"}"#);
    assert!(found.contains("\"Count\":1"), "{found}");
    let (_, tables) = ask("two", "ListTables", "{}");
    assert!(!tables.contains("kept"), "{tables}");
    let (status, refused) = ask("no-such-key", "ListTables", "{}");
    assert!(status == 400 && refused.contains("UnrecognizedClientException"), "{status} {refused}");
}

#[test]
fn a_link_is_cut_and_healed() {
    let url = address("redis").unwrap();
    let upstream = url.rsplit('@').next().unwrap();
    let link = Link::to(upstream).unwrap();
    assert_eq!(redis(link.port(), &["ping"]), "PONG");
    link.cut().unwrap();
    assert_ne!(redis(link.port(), &["ping"]), "PONG");
    link.heal().unwrap();
    link.reset_after(0).unwrap();
    assert_ne!(redis(link.port(), &["ping"]), "PONG");
    link.heal().unwrap();
    assert_eq!(redis(link.port(), &["ping"]), "PONG");
}
