//! Cassandra 4.1.8: one node, with logins.
//!
//! What it acknowledges is on its disk (`commitlog_sync: batch`), so that a test may kill it and count what is there afterwards.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::certificates::certificates;
use crate::java::{Jars, Jvm, PATIENCE, opened};
use crate::process::{Spec, accepts};
use crate::{Process, Running, Service, free_port};

/// One node. Its address is `cassandra://USER:PASSWORD@127.0.0.1:PORT`.
#[derive(Clone, Copy, Debug)]
pub struct Cassandra {
    /// It speaks TLS only, and asks clients for a certificate.
    pub tls: bool,
}

/// The superuser that every new server has, and its password.
pub const USER: &str = "cassandra";

/// The largest mutation that it takes, bytes.
pub const MAX_MUTATION: usize = 1 << 20;

const CASSANDRA: Jars = Jars { name: "cassandra", packages: &[("org.apache.cassandra", "cassandra-all", "4.1.8")] };

/// Packages that it reaches into, beyond what Java 17 opens by itself.
const OPENED: [&str; 23] = [
    "java.io",
    "java.lang",
    "java.lang.module",
    "java.lang.ref",
    "java.lang.reflect",
    "java.math",
    "java.net",
    "java.nio",
    "java.nio.charset",
    "java.nio.file.spi",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
    "jdk.internal.loader",
    "jdk.internal.math",
    "jdk.internal.module",
    "jdk.internal.ref",
    "jdk.internal.reflect",
    "jdk.internal.util.jar",
    "jdk.internal.misc",
    "jdk.internal.util",
    "sun.nio.ch",
];

const EXPORTED: [&str; 11] = [
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.util",
    "java.base/java.lang.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.rmi/sun.rmi.transport",
    "java.rmi/sun.rmi.transport.tcp",
    "java.sql/java.sql",
];

impl Service for Cassandra {
    fn name(&self) -> &'static str {
        if self.tls { "cassandra-tls" } else { "cassandra" }
    }

    fn variable(&self) -> &'static str {
        if self.tls { "FOREBAY_TEST_CASSANDRA_TLS_URL" } else { "FOREBAY_TEST_CASSANDRA_URL" }
    }

    fn install(&self) -> Result<()> {
        CASSANDRA.install(None)
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let process = self.process(dir)?;
        let address = format!("cassandra://{USER}:{USER}@127.0.0.1:{}", process.port());
        Ok(Running { address, members: vec![process] })
    }
}

impl Cassandra {
    fn process(self, dir: &Path) -> Result<Process> {
        let (conf, temp) = (dir.join("conf"), dir.join("tmp"));
        crate::make(&conf.join("triggers"))?;
        crate::make(&temp)?;
        // Ports are part of the data's identity: a restart has the same.
        let (port, storage) = (free_port()?, free_port()?);
        let yaml = conf.join("cassandra.yaml");
        write(&yaml, &self.settings(dir, port, storage)?)?;
        write(
            &conf.join("logback.xml"),
            "<configuration><appender name=\"out\" class=\"ch.qos.logback.core.ConsoleAppender\">\
             <encoder><pattern>%date{ISO8601} %-5level [%thread] %F:%L - %msg%n</pattern></encoder></appender>\
             <root level=\"INFO\"><appender-ref ref=\"out\"/></root></configuration>\n",
        )?;
        let jars = CASSANDRA.place()?;
        let options = options(&jars.jar("jamm-")?, dir, &conf, &temp);
        let command = move || {
            let jvm = Jvm {
                heap_mib: 512,
                temp: &temp,
                options: &options,
                first: std::slice::from_ref(&conf),
                launcher: None,
                class: "org.apache.cassandra.service.CassandraDaemon",
            };
            jars.command(&jvm)
        };
        let spec = Spec {
            name: self.name().into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(command),
            // The superuser is made some moments after the port is open. Behind TLS that is the caller's to wait for.
            ready: Box::new(move || if self.tls { accepts(port) } else { logs_in(port).is_some() }),
        };
        Process::start_within(spec, PATIENCE)
    }

    fn settings(self, dir: &Path, port: u16, storage: u16) -> Result<String> {
        let dir_name = dir.display();
        let mut text = format!(
            "cluster_name: forebay-test\n\
             num_tokens: 1\n\
             allocate_tokens_for_local_replication_factor: 1\n\
             partitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
             endpoint_snitch: SimpleSnitch\n\
             seed_provider:\n  \
               - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n    \
                 parameters:\n      \
                   - seeds: \"127.0.0.1:{storage}\"\n\
             listen_address: 127.0.0.1\n\
             storage_port: {storage}\n\
             start_native_transport: true\n\
             rpc_address: 127.0.0.1\n\
             native_transport_port: {port}\n\
             authenticator: PasswordAuthenticator\n\
             authorizer: CassandraAuthorizer\n\
             role_manager: CassandraRoleManager\n\
             roles_validity: 200ms\n\
             permissions_validity: 200ms\n\
             credentials_validity: 10s\n\
             commitlog_sync: batch\n\
             commitlog_segment_size: 8MiB\n\
             commitlog_total_space: 128MiB\n\
             max_mutation_size: {}KiB\n\
             commitlog_directory: {dir_name}/commitlog\n\
             data_file_directories: [ {dir_name}/data ]\n\
             saved_caches_directory: {dir_name}/saved_caches\n\
             hints_directory: {dir_name}/hints\n\
             cdc_raw_directory: {dir_name}/cdc_raw\n\
             disk_failure_policy: die\n\
             commit_failure_policy: die\n\
             hinted_handoff_enabled: false\n\
             concurrent_reads: 4\n\
             concurrent_writes: 16\n\
             concurrent_counter_writes: 4\n\
             concurrent_compactors: 1\n\
             memtable_flush_writers: 1\n\
             memtable_heap_space: 64MiB\n\
             memtable_offheap_space: 64MiB\n\
             file_cache_size: 32MiB\n\
             networking_cache_size: 32MiB\n\
             key_cache_size: 0MiB\n\
             counter_cache_size: 0MiB\n\
             auto_snapshot: false\n\
             incremental_backups: false\n\
             snapshot_before_compaction: false\n\
             materialized_views_enabled: false\n\
             user_defined_functions_enabled: false\n\
             read_request_timeout: 20000ms\n\
             write_request_timeout: 20000ms\n\
             request_timeout: 20000ms\n",
            MAX_MUTATION >> 10
        );
        if self.tls {
            let files = certificates()?;
            let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
            let server = dir.join("conf").join("server.pem");
            write(&server, &(read(&files.server_key)? + &read(&files.server)?))?;
            text += &format!(
                "client_encryption_options:\n  \
                   enabled: true\n  \
                   optional: false\n  \
                   require_client_auth: true\n  \
                   ssl_context_factory:\n    \
                     class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n  \
                   keystore: {}\n  \
                   truststore: {}\n",
                server.display(),
                files.authority.display()
            );
        }
        Ok(text)
    }
}

fn options(agent: &Path, dir: &Path, conf: &Path, temp: &Path) -> Vec<String> {
    let mut options = opened(&OPENED);
    options.push("--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED".to_owned());
    options.extend(EXPORTED.map(|package| format!("--add-exports={package}=ALL-UNNAMED")));
    options.extend(
        [
            "-Xss512k",
            "-XX:MaxDirectMemorySize=256m",
            "-Djdk.attach.allowAttachSelf=true",
            "-Djava.security.manager=allow",
            "-Dcassandra-foreground=yes",
            // One node waits for nobody.
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=1",
            "-Dcassandra.superuser_setup_delay_ms=0",
        ]
        .map(str::to_owned),
    );
    let (dir, conf, temp) = (dir.display(), conf.display(), temp.display());
    options.extend([
        format!("-javaagent:{}", agent.display()),
        format!("-Djna.tmpdir={temp}"),
        format!("-Dio.netty.native.workdir={temp}"),
        format!("-Dcassandra.config=file://{conf}/cassandra.yaml"),
        format!("-Dcassandra.storagedir={dir}"),
        format!("-Dcassandra.logdir={dir}/logs"),
        format!("-Dcassandra.triggers_dir={conf}/triggers"),
        format!("-Dlogback.configurationFile={conf}/logback.xml"),
    ]);
    options
}

/// Logs in with version 4 of its protocol, the least that shows that it is ready.
fn logs_in(port: u16) -> Option<()> {
    const STARTUP: u8 = 0x01;
    const AUTHENTICATE: u8 = 0x03;
    const AUTH_RESPONSE: u8 = 0x0F;
    const AUTH_SUCCESS: u8 = 0x10;
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let mut ask = |operation: u8, body: &[u8]| -> Option<u8> {
        let mut frame = vec![4, 0, 0, 0, operation];
        frame.extend(u32::try_from(body.len()).ok()?.to_be_bytes());
        frame.extend(body);
        stream.write_all(&frame).ok()?;
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let [_, _, _, _, answer, length @ ..] = head;
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(length)).ok()?];
        stream.read_exact(&mut rest).ok()?;
        Some(answer)
    };
    let version = b"\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0";
    if ask(STARTUP, version)? != AUTHENTICATE {
        return None;
    }
    let login = format!("\0{USER}\0{USER}");
    let mut token = i32::try_from(login.len()).ok()?.to_be_bytes().to_vec();
    token.extend(login.bytes());
    (ask(AUTH_RESPONSE, &token)? == AUTH_SUCCESS).then_some(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
