//! The servers start, keep what they were given over a kill and a restart, and are gone when their test is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use forebay_services::postgres::Postgres;
use forebay_services::redis::{PASSWORD, Redis};
use forebay_services::toxiproxy::Link;
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
