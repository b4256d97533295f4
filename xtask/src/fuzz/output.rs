//! What libFuzzer prints, read.

/// Where a fuzzer stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Inputs run.
    pub executions: u64,
    /// Inputs run in a second.
    pub per_second: u64,
    /// Edges of the program that were reached.
    pub coverage: u64,
    /// Inputs kept.
    pub inputs: u64,
    /// Their size, as libFuzzer writes it.
    pub bytes: String,
    /// What a finding said.
    pub panic: Option<String>,
    /// The next line is the panic's message.
    panicked: bool,
}

impl Progress {
    /// Takes a line: `#123 NEW cov: 45 ft: 67 corp: 8/90b ... exec/s: 12 ...`, `stat::...: N`, or a panic's first two.
    pub fn line(&mut self, line: &str) {
        if std::mem::take(&mut self.panicked) && self.panic.is_none() {
            self.panic = Some(line.chars().take(200).collect());
        }
        if line.starts_with("thread '") && line.contains("panicked at") {
            self.panicked = true;
        } else if line.contains("ERROR: libFuzzer: ") && self.panic.is_none() {
            self.panic = line.split("libFuzzer: ").nth(1).map(str::to_owned);
        } else if let Some(rest) = line.strip_prefix('#') {
            let mut words = rest.split_whitespace();
            if let Some(count) = words.next().and_then(|n| n.parse().ok()) {
                self.executions = count;
            }
            let words: Vec<&str> = words.collect();
            for pair in words.windows(2) {
                let [name, value] = pair else { continue };
                match *name {
                    "cov:" => self.coverage = value.parse().unwrap_or(self.coverage),
                    "exec/s:" => self.per_second = value.parse().unwrap_or(self.per_second),
                    "corp:" => {
                        if let Some((inputs, bytes)) = value.split_once('/') {
                            self.inputs = inputs.parse().unwrap_or(self.inputs);
                            bytes.clone_into(&mut self.bytes);
                        }
                    }
                    _ => {}
                }
            }
        } else if let Some((name, value)) = line.strip_prefix("stat::").and_then(|rest| rest.split_once(':')) {
            match (name, value.trim().parse()) {
                ("number_of_executed_units", Ok(n)) => self.executions = n,
                ("average_exec_per_sec", Ok(n)) => self.per_second = n,
                _ => {}
            }
        }
    }

    /// For a line on the terminal.
    pub fn in_words(&self) -> String {
        format!("{} inputs run, {} edges reached, {} inputs kept", self.executions, self.coverage, self.inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_statistics_and_a_panic_are_read() {
        let mut progress = Progress::default();
        for line in [
            "INFO: seed corpus: files: 3 min: 1b max: 20b total: 30b rss: 30Mb",
            "#1024\tNEW    cov: 2157 ft: 7857 corp: 1029/1342Kb lim: 2750 exec/s: 2278 rss: 33Mb L: 1433/2750 MS: 3 A-B-",
            "thread '<unnamed>' (77) panicked at checks/src/text.rs:3:5:",
            "record 7 is in no segment",
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
            "==77== ERROR: libFuzzer: deadly signal",
            "stat::number_of_executed_units: 5000",
            "stat::average_exec_per_sec:     250",
        ] {
            progress.line(line);
        }
        let expected = Progress {
            executions: 5000,
            per_second: 250,
            coverage: 2157,
            inputs: 1029,
            bytes: "1342Kb".into(),
            panic: Some("record 7 is in no segment".into()),
            panicked: false,
        };
        assert_eq!(progress, expected);
        let mut slow = Progress::default();
        slow.line("==9== ERROR: libFuzzer: timeout after 20 seconds");
        assert_eq!(slow.panic.as_deref(), Some("timeout after 20 seconds"));
    }
}
