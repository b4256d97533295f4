//! `forebay check`, and the loading that `forebay run` shares with it.

use std::fmt::Write as _;

use crate::cli::Options;
use crate::config::{self, fields, load::Loaded};
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
/// All faults of the settings, or all faults of the rules.
pub fn configuration(options: &Options) -> Result<Configuration, Failure> {
    let loaded = settings(options)?;
    let (rules, rule_warnings) = run::load_rules(&loaded)?;
    let warnings = loaded.warnings.iter().cloned().chain(rule_warnings).collect();
    Ok(Configuration { loaded, rules, warnings })
}

/// Runs `forebay check`.
///
/// # Errors
/// All faults.
pub fn run(options: &Options) -> Result<(), Failure> {
    let checked = configuration(options)?;
    if options.json {
        let shown = |field: &fields::Field| (field.key.to_owned(), field.shown(&checked.loaded.settings).into());
        let settings: serde_json::Map<String, serde_json::Value> = fields::FIELDS.iter().map(shown).collect();
        let value = serde_json::json!({
            "ok": true,
            "rules": checked.rules.count(),
            "settings": settings,
            "warnings": checked.warnings,
        });
        println!("{value}");
        return Ok(());
    }
    for warning in &checked.warnings {
        println!("warning: {warning}");
    }
    println!("The configuration is in order: {} rules.", checked.rules.count());
    Ok(())
}
