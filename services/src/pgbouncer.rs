//! PgBouncer: a pooler in front of a PostgreSQL server, which gives each transaction to another session.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::postgres::{PASSWORD, USER, as_system_user};
use crate::process::{Spec, accepts};
use crate::{Process, Running, Service, free_port, packages};

/// The pooler, in transaction mode.
#[derive(Clone, Copy, Debug)]
pub struct PgBouncer {
    /// The server's port on 127.0.0.1.
    pub server: u16,
}

impl Service for PgBouncer {
    fn name(&self) -> &'static str {
        "pgbouncer"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_PGBOUNCER_URL"
    }

    fn install(&self) -> Result<()> {
        packages::provide(&[("pgbouncer", "pgbouncer")])
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        let (settings, users) = (dir.join("pgbouncer.ini"), dir.join("users.txt"));
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 100\n\
             ignore_startup_parameters = extra_float_digits\n",
            self.server,
            users.display()
        );
        for (path, text) in [(&settings, text), (&users, format!("\"{USER}\" \"{PASSWORD}\"\n"))] {
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
            // It runs as another user where root starts it. The password is the tests' own.
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(path, open).with_context(|| format!("opening {} up", path.display()))?;
        }
        let program = packages::find("pgbouncer").context("pgbouncer is not installed")?;
        let process = Process::start(Spec {
            name: "pgbouncer".into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(move || {
                let mut command = as_system_user(&program);
                command.arg("-q").arg(&settings);
                command
            }),
            ready: Box::new(move || accepts(port)),
        })?;
        Ok(Running {
            address: format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"),
            members: vec![process],
        })
    }
}
