//! PostgreSQL: passwords by SCRAM, a user who must use TLS, and one who logs in by a client certificate.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::certificates::{CLIENT, certificates};
use crate::process::{Spec, run, succeeds};
use crate::{Process, Running, Service, free_port, packages, template};

/// A superuser.
pub const USER: &str = "forebay";
/// The users' password.
pub const PASSWORD: &str = "pw";
/// A user who is let in with TLS only.
pub const TLS_USER: &str = "tlsonly";
/// A user who is let in with the client's certificate only.
pub const CERTIFICATE_USER: &str = "forebay_cert";

/// Who the server runs as when root starts it: it refuses to be root.
const SYSTEM_USER: &str = "postgres";

/// The server, in whichever version the system has.
#[derive(Clone, Copy, Debug)]
pub struct Postgres;

impl Service for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_PGSQL_URL"
    }

    fn install(&self) -> Result<()> {
        if programs().is_none() {
            packages::provide(&[("postgres", "postgresql")])?;
        }
        programs().map(|_| ()).context("PostgreSQL was installed and is not under /usr/lib/postgresql")
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        let data = dir.join("data");
        template::copy("postgres", &data, create)?;
        configure(&data, port)?;
        let binaries = programs().context("PostgreSQL is not installed")?;
        let isready = binaries.join("pg_isready");
        let process = Process::start(Spec {
            name: "postgres".into(),
            dir: dir.to_owned(),
            port,
            // Ends at once; after SIGTERM it would wait for its clients.
            signal: Signal::INT,
            command: Box::new(move || {
                let mut command = as_system_user(&binaries.join("postgres"));
                command.arg("-D").arg(&data);
                command
            }),
            ready: Box::new(move || {
                succeeds(Command::new(&isready).args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]))
            }),
        })?;
        let address = format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres");
        Ok(Running { address, members: vec![process] })
    }
}

/// The newest version's programs.
fn programs() -> Option<PathBuf> {
    let version = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|e| e.ok().map(|e| e.path()));
    let bin = versions.filter(|p| p.join("bin/postgres").is_file()).max_by_key(version)?.join("bin");
    Some(bin)
}

/// A command as the user who runs the server.
pub(crate) fn as_system_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let user = format!("--reuid={SYSTEM_USER}");
    let group = format!("--regid={SYSTEM_USER}");
    let mut command = Command::new("setpriv");
    // Without a login session, so that the process is the server itself.
    command.args([&user, &group, "--init-groups"]).arg(program).env("HOME", "/tmp").current_dir("/");
    command
}

/// Makes a file or folder the server's.
fn own(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("opening {} up", path.display()))?;
    if rustix::process::geteuid().is_root() {
        let id =
            |flag: &str| run(Command::new("id").args([flag, SYSTEM_USER]))?.parse::<u32>().context("asking for an id");
        let (user, group) = (id("-u")?, id("-g")?);
        chown(path, Some(user), Some(group)).with_context(|| format!("giving {} away", path.display()))?;
    }
    Ok(())
}

fn create(dir: &Path) -> Result<()> {
    let binaries = programs().context("PostgreSQL is not installed")?;
    own(dir, 0o700)?;
    run(as_system_user(&binaries.join("initdb"))
        .arg("-D")
        .arg(dir)
        .args(["-U", SYSTEM_USER, "--auth-host=scram-sha-256", "--auth-local=peer", "-E", "UTF8", "--locale=C.UTF-8"])
        .arg("--no-sync"))?;
    // A server without a network makes the users.
    let mut single = as_system_user(&binaries.join("postgres"));
    single.arg("--single").arg("-D").arg(dir).arg("postgres");
    let statements = format!(
        "create role {USER} login superuser password '{PASSWORD}';\n\
         create role {TLS_USER} login createdb password '{PASSWORD}';\n\
         create role {CERTIFICATE_USER} login createdb;\n"
    );
    let file = dir.with_extension("sql");
    fs::write(&file, statements).context("writing the users' statements")?;
    single.stdin(fs::File::open(&file).context("opening the users' statements")?);
    let output = single.output().context("starting postgres")?;
    anyhow::ensure!(output.status.success(), "making users: {}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(&file).context("removing the users' statements")
}

/// Settings of one start: its port, its certificates, who may come in how.
fn configure(data: &Path, port: u16) -> Result<()> {
    let files = certificates()?;
    for (from, name, mode) in [
        (&files.server_key, "server.key", 0o600),
        (&files.server, "server.crt", 0o644),
        (&files.authority, "ca.crt", 0o644),
    ] {
        let to = data.join(name);
        fs::copy(from, &to).with_context(|| format!("copying to {}", to.display()))?;
        own(&to, mode)?;
    }
    let settings = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nshared_buffers = 64MB\n\
         max_connections = 200\nssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n"
    );
    // In this order: the first line that fits decides.
    let access = format!(
        "hostssl   all {TLS_USER} 127.0.0.1/32 scram-sha-256\nhostnossl all {TLS_USER} 127.0.0.1/32 reject\n\
         hostssl   all {CERTIFICATE_USER} 127.0.0.1/32 cert map=c\nhostnossl all {CERTIFICATE_USER} 127.0.0.1/32 reject\n\
         host      all all 127.0.0.1/32 scram-sha-256\n"
    );
    for (name, text) in [
        ("postgresql.conf", settings),
        ("pg_hba.conf", access),
        ("pg_ident.conf", format!("c {CLIENT} {CERTIFICATE_USER}\n")),
    ] {
        let path = data.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        own(&path, 0o600)?;
    }
    Ok(())
}
