//! The template file of a pool that stores points, and the measurement it names: another one after each clearing.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tempfile::NamedTempFile;

/// A file that is there as long as this value. `NAME` in its text stands for the measurement.
#[derive(Debug)]
pub(super) struct Template {
    file: NamedTempFile,
    text: &'static str,
    number: AtomicU64,
}

impl Template {
    pub(super) fn new(text: &'static str) -> Result<Template> {
        let template = Template { file: NamedTempFile::new()?, text, number: AtomicU64::new(0) };
        template.next()?;
        Ok(template)
    }

    /// From now on points go to another measurement.
    pub(super) fn next(&self) -> Result<()> {
        self.number.fetch_add(1, Ordering::Relaxed);
        std::fs::write(self.file.path(), self.text.replace("NAME", &self.name()))?;
        Ok(())
    }

    /// The measurement.
    pub(super) fn name(&self) -> String {
        format!("state{}", self.number.load(Ordering::Relaxed))
    }

    /// The setting that names the file.
    pub(super) fn setting(&self) -> String {
        format!("template_file = {}", self.file.path().display())
    }
}
