//! OpenTSDB 2.4.0, the real one, on a standalone HBase.
//!
//! Two virtual machines: they need different versions of the same libraries. A put is on the disk when it was asked for with
//! `sync`; without, OpenTSDB answers from memory.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::java::{Jars, Jvm, Launcher, PATIENCE, opened};
use crate::process::{Spec, answers};
use crate::{Process, Running, Service, free_port};

/// The pair. Its members: OpenTSDB, HBase; its address is OpenTSDB's, `http://127.0.0.1:PORT`.
#[derive(Clone, Copy, Debug)]
pub struct OpenTsdb;

const HBASE: Jars = Jars {
    name: "hbase",
    packages: &[
        ("org.apache.hbase", "hbase-server", "2.5.10-hadoop3"),
        // The version that hbase-server was built with is asked for in scope `provided` only.
        ("org.apache.hadoop", "hadoop-common", "3.2.4"),
    ],
};
const OPENTSDB: Jars = Jars { name: "opentsdb", packages: &[("net.opentsdb", "opentsdb", "2.4.0")] };
const LAUNCHER: Launcher = Launcher { class: "HBaseForOpenTsdb", source: include_str!("java/HBaseForOpenTsdb.java") };

impl Service for OpenTsdb {
    fn name(&self) -> &'static str {
        "opentsdb"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_OPENTSDB_URL"
    }

    fn install(&self) -> Result<()> {
        HBASE.install(Some(&LAUNCHER))?;
        OPENTSDB.install(None)
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let zookeeper = free_port()?;
        // OpenTSDB does not start while its store is away.
        let hbase = hbase(&dir.join("hbase"), zookeeper)?;
        let opentsdb = opentsdb(&dir.join("opentsdb"), zookeeper)?;
        let address = format!("http://127.0.0.1:{}", opentsdb.port());
        Ok(Running { address, members: vec![opentsdb, hbase] })
    }
}

fn hbase(dir: &Path, zookeeper: u16) -> Result<Process> {
    let (conf, temp) = (dir.join("conf"), dir.join("tmp"));
    crate::make(&conf)?;
    crate::make(&temp)?;
    let root = format!("file://{}", dir.join("data").display());
    let zookeeper_data = dir.join("zookeeper").display().to_string();
    let (own_temp, port) = (temp.display().to_string(), zookeeper.to_string());
    let (master, region) = (free_port()?.to_string(), free_port()?.to_string());
    let settings: &[(&str, &str)] = &[
        ("hbase.cluster.distributed", "false"),
        ("hbase.rootdir", &root),
        ("hbase.tmp.dir", &own_temp),
        // With the default, what was flushed to the write-ahead log may not have reached the operating system.
        ("fs.file.impl", "org.apache.hadoop.fs.RawLocalFileSystem"),
        ("hbase.unsafe.stream.capability.enforce", "false"),
        ("hbase.wal.provider", "filesystem"),
        ("hbase.procedure.store.region.wal.impl", "filesystem"),
        ("hbase.zookeeper.quorum", "127.0.0.1"),
        ("hbase.zookeeper.property.clientPort", &port),
        ("hbase.zookeeper.property.dataDir", &zookeeper_data),
        ("hbase.zookeeper.property.admin.enableServer", "false"),
        ("hbase.localcluster.assign.random.ports", "false"),
        ("hbase.master.hostname", "localhost"),
        ("hbase.master.ipc.address", "127.0.0.1"),
        ("hbase.master.port", &master),
        ("hbase.master.info.port", "-1"),
        ("hbase.master.wait.on.regionservers.mintostart", "1"),
        ("hbase.master.wait.on.regionservers.timeout", "500"),
        ("hbase.master.wait.on.regionservers.interval", "100"),
        ("hbase.regionserver.hostname", "localhost"),
        ("hbase.unsafe.regionserver.hostname", "localhost"),
        ("hbase.regionserver.ipc.address", "127.0.0.1"),
        ("hbase.regionserver.port", &region),
        ("hbase.regionserver.info.port", "-1"),
        ("hbase.regionserver.handler.count", "6"),
        ("hbase.regionserver.metahandler.count", "4"),
        ("hbase.regionserver.global.memstore.size", "0.25"),
        ("hbase.hregion.memstore.mslab.enabled", "false"),
        ("hfile.block.cache.size", "0.15"),
    ];
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<configuration>\n");
    for (name, value) in settings {
        xml += &format!("  <property><name>{name}</name><value>{value}</value></property>\n");
    }
    xml += "</configuration>\n";
    write(&conf.join("hbase-site.xml"), &xml)?;
    write(
        &conf.join("log4j.properties"),
        "log4j.rootLogger=WARN, console\nlog4j.appender.console=org.apache.log4j.ConsoleAppender\n\
         log4j.appender.console.layout=org.apache.log4j.PatternLayout\n\
         log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %-5p %c{2}: %m%n\n",
    )?;
    let mut options = opened(&[
        "java.io",
        "java.lang",
        "java.lang.ref",
        "java.lang.reflect",
        "java.math",
        "java.net",
        "java.nio",
        "java.nio.charset",
        "java.security",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "jdk.internal.misc",
        "jdk.internal.ref",
        "sun.net.dns",
        "sun.nio.ch",
        "sun.security.util",
    ]);
    options.push("--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED".into());
    options.push("--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED".into());
    options.push("-XX:MaxDirectMemorySize=128m".into());
    options.push(format!("-Dorg.apache.hbase.thirdparty.io.netty.native.workdir={}", temp.display()));
    let ready = dir.join("ready");
    let mark = ready.clone();
    let jars = HBASE.place()?;
    let command = move || {
        // That of an earlier run says nothing about this one. Absent at the first start.
        let _ = fs::remove_file(&mark);
        let first = [conf.clone()];
        let jvm = Jvm {
            heap_mib: 512,
            temp: &temp,
            options: &options,
            first: &first,
            launcher: Some(&LAUNCHER),
            class: LAUNCHER.class,
        };
        let mut command = jars.command(&jvm);
        command.arg(&mark);
        command
    };
    let spec = Spec {
        name: "hbase".into(),
        dir: dir.to_owned(),
        port: zookeeper,
        signal: Signal::TERM,
        command: Box::new(command),
        ready: Box::new(move || ready.exists()),
    };
    Process::start_within(spec, PATIENCE)
}

fn opentsdb(dir: &Path, zookeeper: u16) -> Result<Process> {
    let port = free_port()?;
    let (conf, temp) = (dir.join("conf"), dir.join("tmp"));
    // Its pages are not in the package; it asks for the folder all the same.
    for folder in [&conf, &temp, &dir.join("static"), &dir.join("cache")] {
        crate::make(folder)?;
    }
    let file = conf.join("opentsdb.conf");
    write(
        &file,
        &format!(
            "tsd.network.bind = 127.0.0.1\n\
             tsd.network.port = {port}\n\
             tsd.network.worker_threads = 2\n\
             tsd.http.staticroot = {folder}/static\n\
             tsd.http.cachedir = {folder}/cache\n\
             tsd.http.request.enable_chunked = true\n\
             tsd.http.request.max_chunk = 16777216\n\
             tsd.http.query.allow_delete = true\n\
             tsd.core.auto_create_metrics = true\n\
             tsd.core.meta.enable_realtime_ts = false\n\
             tsd.core.meta.enable_realtime_uid = false\n\
             tsd.core.meta.enable_tsuid_tracking = false\n\
             tsd.core.tree.enable_processing = false\n\
             tsd.storage.enable_compaction = false\n\
             tsd.storage.fix_duplicates = true\n\
             # Of the three settings of that name this one, of its HBase client, is the one that is obeyed; ms.\n\
             hbase.rpcs.buffered_flush_interval = 20\n\
             tsd.storage.hbase.zk_quorum = 127.0.0.1:{zookeeper}\n\
             tsd.storage.hbase.zk_basedir = /hbase\n",
            folder = dir.display()
        ),
    )?;
    write(
        &conf.join("logback.xml"),
        "<configuration><appender name=\"console\" class=\"ch.qos.logback.core.ConsoleAppender\">\
         <encoder><pattern>%d{ISO8601} %-5level %logger{0} - %msg%n</pattern></encoder></appender>\
         <root level=\"WARN\"><appender-ref ref=\"console\"/></root></configuration>\n",
    )?;
    let options = opened(&["java.lang", "java.nio", "sun.nio.ch"]);
    let jars = OPENTSDB.place()?;
    let command = move || {
        let first = [conf.clone()];
        let jvm = Jvm {
            heap_mib: 256,
            temp: &temp,
            options: &options,
            first: &first,
            launcher: None,
            class: "net.opentsdb.tools.TSDMain",
        };
        let mut command = jars.command(&jvm);
        command.arg(format!("--config={}", file.display()));
        command
    };
    let version = format!("http://127.0.0.1:{port}/api/version");
    let spec = Spec {
        name: "opentsdb".into(),
        dir: dir.to_owned(),
        port,
        signal: Signal::TERM,
        command: Box::new(command),
        ready: Box::new(move || answers(&version)),
    };
    Process::start_within(spec, PATIENCE)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
