//! Data folders as a server's own set-up made them: made once, copied for each start.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;

/// Copies the template of that name to `data`, which must not exist yet; the first caller has it made by `create`.
pub(crate) fn copy(name: &str, data: &Path, create: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let templates = crate::base()?.join("templates");
    crate::make(&templates)?;
    let path = templates.join(name);
    let lock = fs::File::create(templates.join(format!("{name}.lock"))).context("creating a lock file")?;
    // Held until the copy is done: another process may be making it.
    lock.lock().context("locking the template")?;
    if !path.exists() {
        let unfinished = templates.join(format!("{name}.unfinished"));
        crate::empty(&unfinished)?;
        create(&unfinished)?;
        fs::rename(&unfinished, &path).context("renaming the template")?;
    }
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&path).arg(data)).map(|_| ())
}
