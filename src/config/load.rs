//! From all sources to settings.

use std::path::{Path, PathBuf};

use super::Settings;
use super::fault::{Fault, Place, nearest};
use super::fields::{self, FIELDS};
use super::{file, listener};

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Options by setting: (option, key, value).
    pub options: Vec<(&'static str, &'static str, String)>,
    /// `--backends`.
    pub backends: Vec<PathBuf>,
}

/// Settings with where they came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The file and its text, for the rules in it.
    pub file: Option<(PathBuf, String)>,
    /// What is legal but suspect.
    pub warnings: Vec<String>,
}

/// Reads the file, the environment (`vars`) and the command line.
///
/// The file is `--config`, else `FOREBAY_CONFIG`, else `forebay.toml` in the current folder where there is one.
///
/// # Errors
/// All faults at once.
pub fn load(overrides: &Overrides, vars: impl Iterator<Item = (String, String)>) -> Result<Loaded, Vec<Fault>> {
    let mut vars: Vec<(String, String)> = vars.filter(|(name, _)| name.starts_with("FOREBAY_")).collect();
    vars.sort();
    let mut settings = Settings::default();
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let file = read_file(overrides, &vars, &mut faults);
    if let Some((path, source)) = &file {
        file::apply(&mut settings, path, source, &mut faults);
    }
    environment(&mut settings, &vars, &mut faults, &mut warnings);
    for (option, key, value) in &overrides.options {
        let result = fields::by_key(key)
            .ok_or_else(|| format!("there is no setting `{key}`"))
            .and_then(|field| field.set_text(&mut settings, value, Path::new("")));
        if let Err(message) = result {
            faults.push(Fault { place: Place::Option(option), message, nearest: None });
        }
    }
    if !overrides.backends.is_empty() {
        settings.backends.clone_from(&overrides.backends);
    }
    together(&settings, &mut faults);
    listener::check(&settings, &mut faults);
    suspect(&settings, &mut warnings);
    if faults.is_empty() { Ok(Loaded { settings, file, warnings }) } else { Err(faults) }
}

fn read_file(overrides: &Overrides, vars: &[(String, String)], faults: &mut Vec<Fault>) -> Option<(PathBuf, String)> {
    let named = overrides.config.clone().or_else(|| {
        vars.iter().find(|(name, value)| name == "FOREBAY_CONFIG" && !value.is_empty()).map(|(_, v)| PathBuf::from(v))
    });
    let path = match named {
        Some(path) => path,
        None if Path::new("forebay.toml").exists() => PathBuf::from("forebay.toml"),
        None => return None,
    };
    match std::fs::read_to_string(&path) {
        Ok(source) => Some((path, source)),
        Err(source) => {
            let message = format!("can't read {}: {source}", path.display());
            faults.push(Fault { place: Place::Option("--config"), message, nearest: None });
            None
        }
    }
}

fn environment(
    settings: &mut Settings,
    vars: &[(String, String)],
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<String>,
) {
    let names: Vec<String> = FIELDS.iter().map(fields::Field::env).collect();
    for (name, value) in vars {
        if name == "FOREBAY_CONFIG" || name.starts_with("FOREBAY_TEST_") {
            continue;
        }
        if let Some(field) = FIELDS.iter().find(|field| field.env() == *name) {
            if let Err(message) = field.set_text(settings, value, Path::new("")) {
                faults.push(Fault { place: Place::Environment(name.clone()), message, nearest: None });
            }
            continue;
        }
        // Not a fault: container platforms set variables of this form (FOREBAY_PORT, FOREBAY_SERVICE_HOST) on their own.
        let hint = nearest(name, names.iter().map(String::as_str));
        let hint = hint.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        warnings.push(format!("environment variable {name} names no setting and is ignored{hint}"));
    }
}

/// What single values can't show.
fn together(settings: &Settings, faults: &mut Vec<Fault>) {
    let mut fault = |message: String| faults.push(Fault { place: Place::Whole, message, nearest: None });
    if !settings.admin.listen.ip().is_loopback() && settings.admin.token.is_none() {
        fault(format!(
            "`admin.listen` is {}, which other machines may reach: set `admin.token` or `admin.token_file`, or use 127.0.0.1",
            settings.admin.listen
        ));
    }
    if settings.mqtt.packet_bytes_max.saturating_mul(2) > settings.log.segment_bytes {
        fault(format!(
            "`mqtt.packet_bytes_max` ({}) must be at most half of `log.segment_bytes` ({}): a packet has to fit into a segment",
            settings.mqtt.packet_bytes_max, settings.log.segment_bytes
        ));
    }
    if let Some(budget) = settings.log.disk_budget_bytes
        && budget < settings.log.segment_bytes.saturating_mul(4)
    {
        fault(format!(
            "`log.disk_budget_bytes` ({budget}) must be at least four times `log.segment_bytes` ({}): one is written, one is prepared, \
             one is the reserve, one is there to be read",
            settings.log.segment_bytes
        ));
    }
}

/// What is legal but leaves a door open, or none.
fn suspect(settings: &Settings, warnings: &mut Vec<String>) {
    for listener in settings.ways_in() {
        let listen = listener.listen;
        let anonymous = listener.anonymous.unwrap_or(settings.access.lets_anonymous_in());
        // A certificate says who comes before MQTT does.
        let certified = listener.client_certificate == "required";
        if anonymous && !certified && !listen.ip().is_loopback() {
            warnings.push(format!(
                "the listener {listen} may be reached by other machines, and anybody who reaches it may connect: set \
                 `access.users`, or `anonymous = false` where certificates say who comes; `access.acl` bounds what he may do"
            ));
        }
        if !anonymous && settings.access.users.is_none() {
            warnings.push(format!(
                "the listener {listen} lets no anonymous clients in, and there is no `access.users`: only clients with a \
                 certificate get in"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_the_environment_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        std::fs::write(&path, "[node]\nname = \"file\"\n[sinks]\nbatch_age_ms = 1\n[mqtt]\nreceive_maximum = 7\n")
            .unwrap();
        let overrides = Overrides {
            config: Some(path),
            options: vec![("--node-name", "node.name", "option".into())],
            backends: Vec::new(),
        };
        let vars = [var("FOREBAY_NODE_NAME", "environment"), var("FOREBAY_SINKS_BATCH_AGE_MS", "2")];
        let settings = load(&overrides, vars.into_iter()).unwrap().settings;
        assert_eq!(settings.node.name, "option");
        assert_eq!(settings.sinks.batch_age_ms, 2);
        assert_eq!(settings.mqtt.receive_maximum, 7);
    }

    #[test]
    fn an_unknown_variable_is_a_warning_and_a_wrong_value_a_fault() {
        let vars = [var("FOREBAY_MQT", "x"), var("FOREBAY_TEST_X", "1"), var("FOREBAY_ADMIN", "here")];
        let faults = load(&Overrides::default(), vars.into_iter()).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().starts_with("environment variable FOREBAY_ADMIN: `admin.listen` takes"));
        let loaded = load(&Overrides::default(), [var("FOREBAY_MQT", "x")].into_iter()).unwrap();
        assert!(loaded.warnings[0].ends_with("did you mean FOREBAY_MQTT?"), "{:?}", loaded.warnings);
    }

    #[test]
    fn an_open_listener_that_others_reach_is_warned_of_until_somebody_asks_who_comes() {
        let warnings = |vars: &[(&str, &str)]| {
            let vars = vars.iter().map(|(name, value)| var(name, value));
            load(&Overrides::default(), vars).unwrap().warnings
        };
        let open = ("FOREBAY_MQTT", "0.0.0.0:1883");
        assert!(warnings(&[open])[0].contains("anybody who reaches it may connect"));
        assert_eq!(warnings(&[]), [""; 0]);
        assert_eq!(warnings(&[open, ("FOREBAY_ACCESS_USERS", "users")]), [""; 0]);
        let both = [open, ("FOREBAY_ACCESS_USERS", "users"), ("FOREBAY_ACCESS_ANONYMOUS", "true")];
        assert!(warnings(&both)[0].contains("anybody who reaches it may connect"));
        assert!(warnings(&[("FOREBAY_ACCESS_ANONYMOUS", "false")])[0].contains("only clients with a certificate"));
    }

    #[test]
    fn a_listener_is_not_open_where_certificates_are_required() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        for (certificate, warned) in [("required", 0), ("optional", 1)] {
            let listener = format!(
                "[[listener]]\nlisten = \"0.0.0.0:8883\"\nkind = \"tls\"\ncertificate_file = \"c\"\nkey_file = \"k\"\n\
                 client_ca_file = \"a\"\nclient_certificate = \"{certificate}\"\n"
            );
            std::fs::write(&path, listener).unwrap();
            let overrides = Overrides { config: Some(path.clone()), ..Overrides::default() };
            let warnings = load(&overrides, std::iter::empty()).unwrap().warnings;
            assert_eq!(warnings.len(), warned, "{certificate}: {warnings:?}");
        }
    }

    #[test]
    fn an_admin_address_that_others_reach_needs_a_token() {
        let vars = [var("FOREBAY_ADMIN", "0.0.0.0:18830")];
        assert!(load(&Overrides::default(), vars.clone().into_iter()).is_err());
        let with_token = vars.into_iter().chain([var("FOREBAY_ADMIN_TOKEN", "t")]);
        assert!(load(&Overrides::default(), with_token).is_ok());
    }
}
