//! `forebay check`, and the loading that `forebay run` shares with it.

use std::fmt::Write as _;
use std::time::Duration;

use forebay_sinks::inspect::{Inspected, inspect};
use forebay_sinks::registry::verify;
use forebay_sinks::sink::{Finding, Severity};

use crate::cli::Options;
use crate::config::{self, Settings, fields, listener, load::Loaded};
use crate::exit::{self, Exit, Failure};
use crate::run::{self, RuleSource};

/// Settings and rules, free of faults.
pub struct Configuration {
    /// The settings.
    pub loaded: Loaded,
    /// The rules.
    pub rules: RuleSource,
    /// What is legal but suspect, in settings and rules.
    pub warnings: Vec<String>,
}

/// Settings alone, for commands that need no rules.
///
/// # Errors
/// All faults of the settings.
pub fn settings(options: &Options) -> Result<Loaded, Failure> {
    let vars = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    config::load(&options.overrides(), vars).map_err(|faults| {
        let mut text = String::new();
        for fault in &faults {
            let _ = writeln!(text, "{fault}");
        }
        Failure::new(Exit::Usage, format!("{text}{}", exit::nothing_started(faults.len())))
    })
}

/// Settings and rules.
///
/// # Errors
/// All faults of the settings, or all faults of the rules, or all of the users and ACL files.
pub fn configuration(options: &Options) -> Result<Configuration, Failure> {
    let loaded = settings(options)?;
    certificates(&loaded.settings)?;
    let (rules, rule_warnings) = run::load_rules(&loaded)?;
    run::access::open(&loaded.settings)?;
    let warnings = loaded.warnings.iter().cloned().chain(rule_warnings).collect();
    Ok(Configuration { loaded, rules, warnings })
}

/// The listeners' certificates and keys, read as a start does.
fn certificates(settings: &Settings) -> Result<(), Failure> {
    let mut text = String::new();
    let mut faults = 0;
    for listener in settings.ways_in() {
        if let Err(error) = listener.options().check() {
            let place = listener.place.as_ref().map_or_else(String::new, |place| format!("{place}: "));
            let _ = writeln!(text, "{place}the listener {}: {error}", listener.listen);
            faults += 1;
        }
    }
    if faults == 0 {
        Ok(())
    } else {
        Err(Failure::new(Exit::Usage, format!("{text}{}", exit::nothing_started(faults))))
    }
}

/// How long a database may take to be looked at.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Runs `forebay check`; with `connect` it looks at the databases too.
///
/// # Errors
/// All faults; what keeps a database from being written to.
pub fn run(options: &Options, connect: bool) -> Result<(), Failure> {
    let checked = configuration(options)?;
    verify(&checked.rules.set, &run::databases(&checked.loaded.settings))
        .map_err(|source| Failure::new(Exit::Usage, format!("{source}\n{}", exit::nothing_started(1))))?;
    let inspected = if connect { inspect_all(&checked)? } else { Vec::new() };
    let faults = inspected.iter().flat_map(|i| &i.findings).filter(|f| f.severity == Severity::Fault).count();
    if options.json {
        let shown = |field: &fields::Field| (field.key.to_owned(), field.shown(&checked.loaded.settings).into());
        let settings: serde_json::Map<String, serde_json::Value> = fields::FIELDS.iter().map(shown).collect();
        let databases: Vec<serde_json::Value> = inspected.iter().flat_map(as_json).collect();
        let value = serde_json::json!({
            "ok": faults == 0,
            "rules": checked.rules.count(),
            "settings": settings,
            "listeners": listeners(&checked.loaded.settings),
            "warnings": checked.warnings,
            "databases": databases,
        });
        println!("{value}");
    } else {
        for warning in &checked.warnings {
            println!("warning: {warning}");
        }
        for (sink, finding) in inspected.iter().flat_map(|i| i.findings.iter().map(move |f| (&i.sink, f))) {
            println!("{sink}: {}{}", word(finding.severity), finding.text);
        }
        if faults == 0 {
            println!("The configuration is in order: {} rules.", checked.rules.count());
        }
    }
    match faults {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failure, "1 fault in the databases")),
        n => Err(Failure::new(Exit::Failure, format!("{n} faults in the databases"))),
    }
}

fn listeners(settings: &Settings) -> Vec<serde_json::Value> {
    let ways_in = settings.ways_in();
    let shown = ways_in.iter().map(|l| listener::FIELDS.iter().map(|f| (f.key.to_owned(), f.shown(l).into())));
    shown.map(|fields| serde_json::Value::Object(fields.collect())).collect()
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Fine => "",
        Severity::Warning => "warning: ",
        Severity::Fault => "fault: ",
    }
}

fn as_json(inspected: &Inspected) -> Vec<serde_json::Value> {
    let severity = |finding: &Finding| match finding.severity {
        Severity::Fine => "fine",
        Severity::Warning => "warning",
        Severity::Fault => "fault",
    };
    let row = |finding: &Finding| serde_json::json!({ "sink": inspected.sink, "severity": severity(finding), "text": finding.text });
    inspected.findings.iter().map(row).collect()
}

fn inspect_all(checked: &Configuration) -> Result<Vec<Inspected>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("starting the runtime", &e))?;
    let databases = run::databases(&checked.loaded.settings);
    runtime
        .block_on(inspect(&checked.rules.set, &databases, CONNECT_DEADLINE))
        .map_err(|source| Failure::new(Exit::Usage, source.to_string()))
}
