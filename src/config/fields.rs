//! The table of all settings.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Anonymous, Durability, MessageFormat, Secret, Settings};

/// A setting of the program, or of one of its listeners.
pub struct Field<S: 'static = Settings> {
    /// Its key in the file: `table.name`.
    pub key: &'static str,
    /// Its environment variable where it is not `FOREBAY_` and the key in capitals.
    env: Option<&'static str>,
    /// What kind of value it takes, and where that goes.
    pub slot: Slot<S>,
}

/// Kinds of values, each with its place in the settings.
pub enum Slot<S: 'static = Settings> {
    /// `host:port`, numeric.
    Address(fn(&mut S) -> &mut SocketAddr),
    /// `host:port`, numeric, or not set: what then counts.
    OptionalAddress { default: SocketAddr, place: fn(&mut S) -> &mut Option<SocketAddr> },
    /// A path; a relative one in a file starts at the file's folder.
    Path(fn(&mut S) -> &mut PathBuf),
    /// A path, or not set.
    OptionalPath(fn(&mut S) -> &mut Option<PathBuf>),
    /// Paths; in the environment separated by commas.
    Paths(fn(&mut S) -> &mut Vec<PathBuf>),
    /// Text that is not empty.
    Text(fn(&mut S) -> &mut String),
    /// Text that is not empty, or not set.
    OptionalText(fn(&mut S) -> &mut Option<String>),
    /// Text that is never printed.
    Secret(fn(&mut S) -> &mut Option<Secret>),
    /// The first line of a file, as a secret.
    SecretFile(fn(&mut S) -> &mut Option<Secret>),
    /// A whole number within bounds.
    Number { min: u64, max: u64, place: fn(&mut S) -> &mut u64 },
    /// A whole number within bounds, or not set.
    OptionalNumber { min: u64, max: u64, place: fn(&mut S) -> &mut Option<u64> },
    /// One of these words.
    Word { words: &'static [&'static str], set: fn(&mut S, &str), get: fn(&S) -> &'static str },
}

pub(super) const fn field<S>(key: &'static str, slot: Slot<S>) -> Field<S> {
    Field { key, env: None, slot }
}

const fn named(key: &'static str, env: &'static str, slot: Slot) -> Field {
    Field { key, env: Some(env), slot }
}

const fn number(key: &'static str, min: u64, max: u64, place: fn(&mut Settings) -> &mut u64) -> Field {
    field(key, Slot::Number { min, max, place })
}

const MIB: u64 = 1024 * 1024;
const U32: u64 = u32::MAX as u64;
/// The largest count of things that a server could have.
const MANY: u64 = 10_000_000;
/// TOML's largest number.
const I64: u64 = i64::MAX as u64;

/// Every setting there is.
pub const FIELDS: &[Field] = &[
    field("data", Slot::Path(|s| &mut s.data)),
    field("backends", Slot::Paths(|s| &mut s.backends)),
    number("shutdown_deadline_s", 1, 3600, |s| &mut s.shutdown_deadline_s),
    field("node.name", Slot::Text(|s| &mut s.node.name)),
    field("node.number", Slot::OptionalNumber { min: 0, max: 65_535, place: |s| &mut s.node.number }),
    named(
        "mqtt.listen",
        "FOREBAY_MQTT",
        Slot::OptionalAddress { default: super::MQTT_LISTEN, place: |s| &mut s.mqtt.listen },
    ),
    number("mqtt.packet_bytes_max", 1024, 16 * MIB, |s| &mut s.mqtt.packet_bytes_max),
    number("mqtt.connections_max", 1, MANY, |s| &mut s.mqtt.connections_max),
    number("mqtt.receive_maximum", 1, 65_535, |s| &mut s.mqtt.receive_maximum),
    number("mqtt.send_maximum", 1, 65_535, |s| &mut s.mqtt.send_maximum),
    number("mqtt.session_expiry_s_max", 0, U32, |s| &mut s.mqtt.session_expiry_s_max),
    number("mqtt.keep_alive_s_max", 0, 65_535, |s| &mut s.mqtt.keep_alive_s_max),
    number("mqtt.topic_aliases_sent", 0, 65_535, |s| &mut s.mqtt.topic_aliases_sent),
    number("mqtt.sys_interval_s", 0, 86_400, |s| &mut s.mqtt.sys_interval_s),
    field("mqtt.live_bus", Slot::Word { words: &["trie", "rumqttd"], set: set_live_bus, get: live_bus }),
    number("limits.connect_timeout_ms", 1000, 60_000, |s| &mut s.limits.connect_timeout_ms),
    number("limits.connections_per_address_max", 0, MANY, |s| &mut s.limits.connections_per_address_max),
    number("limits.connects_per_s_max", 0, MANY, |s| &mut s.limits.connects_per_s_max),
    number("limits.connects_per_address_per_s_max", 0, MANY, |s| &mut s.limits.connects_per_address_per_s_max),
    number("limits.client_id_bytes_max", 23, 65_535, |s| &mut s.limits.client_id_bytes_max),
    number("limits.topic_bytes_max", 1, 65_535, |s| &mut s.limits.topic_bytes_max),
    number("limits.topic_levels_max", 1, 256, |s| &mut s.limits.topic_levels_max),
    number("limits.subscriptions_per_client_max", 0, MANY, |s| &mut s.limits.subscriptions_per_client_max),
    number("limits.messages_per_s_max", 0, MANY, |s| &mut s.limits.messages_per_s_max),
    number("limits.bytes_per_s_max", 0, 16 * 1024 * MIB, |s| &mut s.limits.bytes_per_s_max),
    number("limits.live_queue_messages_max", 1, MANY, |s| &mut s.limits.live_queue_messages_max),
    number("limits.live_queue_bytes_max", 64 * 1024, 1024 * MIB, |s| &mut s.limits.live_queue_bytes_max),
    field("access.users", Slot::OptionalPath(|s| &mut s.access.users)),
    field("access.acl", Slot::OptionalPath(|s| &mut s.access.acl)),
    field("access.acl_default", Slot::Word { words: &["deny", "allow"], set: set_acl_default, get: acl_default }),
    field("access.anonymous", Slot::Word { words: &["auto", "true", "false"], set: set_anonymous, get: anonymous }),
    number("access.remembered_max", 0, 10_000_000, |s| &mut s.access.remembered_max),
    number("access.hashes_at_once", 0, 256, |s| &mut s.access.hashes_at_once),
    number("access.failure_delay_ms_max", 0, 8000, |s| &mut s.access.failure_delay_ms_max),
    named("admin.listen", "FOREBAY_ADMIN", Slot::Address(|s| &mut s.admin.listen)),
    field("admin.token", Slot::Secret(|s| &mut s.admin.token)),
    field("admin.token_file", Slot::SecretFile(|s| &mut s.admin.token)),
    number("log.segment_bytes", MIB, 1024 * MIB, |s| &mut s.log.segment_bytes),
    field(
        "log.durability",
        Slot::Word { words: &["synced", "every", "buffered"], set: set_durability, get: durability },
    ),
    number("log.sync_interval_ms", 1, 60_000, |s| &mut s.log.sync_interval_ms),
    number("log.queue_bytes_max", 4 * MIB, 16 * 1024 * MIB, |s| &mut s.log.queue_bytes_max),
    number("log.tail_cache_bytes", MIB, 64 * 1024 * MIB, |s| &mut s.log.tail_cache_bytes),
    field("log.on_damage", Slot::Word { words: &["refuse", "quarantine"], set: set_on_damage, get: on_damage }),
    number("log.retention_age_s", 0, I64, |s| &mut s.log.retention_age_s),
    number("log.retention_bytes", 0, I64, |s| &mut s.log.retention_bytes),
    number("queue.messages_max", 0, I64, |s| &mut s.queue.messages_max),
    number("queue.bytes_max", 0, I64, |s| &mut s.queue.bytes_max),
    number("session.backlog_messages_max", 0, I64, |s| &mut s.session.backlog_messages_max),
    number("session.backlog_bytes_max", 0, I64, |s| &mut s.session.backlog_bytes_max),
    number("session.idle_cursors_max", 0, I64, |s| &mut s.session.idle_cursors_max),
    field(
        "log.disk_budget_bytes",
        Slot::OptionalNumber { min: 4 * MIB, max: I64, place: |s| &mut s.log.disk_budget_bytes },
    ),
    field("log.when_full", Slot::Word { words: &["block", "drop_oldest"], set: set_when_full, get: when_full }),
    field("sinks.enabled", Slot::Word { words: &["true", "false"], set: set_sinks, get: sinks }),
    number("sinks.lookup_deadline_ms", 1, 60_000, |s| &mut s.sinks.lookup_deadline_ms),
    number("sinks.request_deadline_ms", 100, 3_600_000, |s| &mut s.sinks.request_deadline_ms),
    number("sinks.memory_bytes_max", MIB, 16 * 1024 * MIB, |s| &mut s.sinks.memory_bytes_max),
    number("sinks.batch_age_ms", 0, 60_000, |s| &mut s.sinks.batch_age_ms),
    number("ready.sink_lag_records_max", 0, I64, |s| &mut s.ready.sink_lag_records_max),
    named(
        "messages.format",
        "FOREBAY_LOG_FORMAT",
        Slot::Word { words: &["text", "json"], set: set_format, get: format_word },
    ),
    named("messages.filter", "FOREBAY_LOG", Slot::Text(|s| &mut s.messages.filter)),
];

fn set_acl_default(settings: &mut Settings, word: &str) {
    settings.access.acl_default_allow = word == "allow";
}

fn acl_default(settings: &Settings) -> &'static str {
    if settings.access.acl_default_allow { "allow" } else { "deny" }
}

fn set_anonymous(settings: &mut Settings, word: &str) {
    settings.access.anonymous = match word {
        "true" => Anonymous::Yes,
        "false" => Anonymous::No,
        _ => Anonymous::Auto,
    };
}

fn anonymous(settings: &Settings) -> &'static str {
    match settings.access.anonymous {
        Anonymous::Auto => "auto",
        Anonymous::Yes => "true",
        Anonymous::No => "false",
    }
}

fn set_durability(settings: &mut Settings, word: &str) {
    settings.log.durability = match word {
        "every" => Durability::Every,
        "buffered" => Durability::Buffered,
        _ => Durability::Synced,
    };
}

fn durability(settings: &Settings) -> &'static str {
    match settings.log.durability {
        Durability::Synced => "synced",
        Durability::Every => "every",
        Durability::Buffered => "buffered",
    }
}

fn set_live_bus(settings: &mut Settings, word: &str) {
    settings.mqtt.rumqttd_bus = word == "rumqttd";
}

fn live_bus(settings: &Settings) -> &'static str {
    if settings.mqtt.rumqttd_bus { "rumqttd" } else { "trie" }
}

fn set_sinks(settings: &mut Settings, word: &str) {
    settings.sinks.enabled = word == "true";
}

fn sinks(settings: &Settings) -> &'static str {
    if settings.sinks.enabled { "true" } else { "false" }
}

fn set_on_damage(settings: &mut Settings, word: &str) {
    settings.log.quarantine = word == "quarantine";
}

fn on_damage(settings: &Settings) -> &'static str {
    if settings.log.quarantine { "quarantine" } else { "refuse" }
}

fn set_when_full(settings: &mut Settings, word: &str) {
    settings.log.drop_oldest = word == "drop_oldest";
}

fn when_full(settings: &Settings) -> &'static str {
    if settings.log.drop_oldest { "drop_oldest" } else { "block" }
}

fn set_format(settings: &mut Settings, word: &str) {
    settings.messages.format = if word == "json" { MessageFormat::Json } else { MessageFormat::Text };
}

fn format_word(settings: &Settings) -> &'static str {
    match settings.messages.format {
        MessageFormat::Text => "text",
        MessageFormat::Json => "json",
    }
}

/// The field of this key.
pub fn by_key(key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.key == key)
}

impl<S: Clone> Field<S> {
    /// Its environment variable.
    pub fn env(&self) -> String {
        self.env.map_or_else(|| format!("FOREBAY_{}", self.key.replace('.', "_").to_uppercase()), str::to_owned)
    }

    /// Sets it from text. Relative paths start at `base`.
    ///
    /// # Errors
    /// Says what kind of value it takes.
    pub fn set_text(&self, settings: &mut S, text: &str, base: &Path) -> Result<(), String> {
        match &self.slot {
            Slot::Number { .. } | Slot::OptionalNumber { .. } => match text.trim().parse() {
                Ok(number) => self.set_number(settings, number),
                Err(_) => Err(format!("`{}` takes {}, not `{text}`", self.key, self.takes())),
            },
            Slot::Paths(_) => self.set_list(settings, &text.split(',').collect::<Vec<_>>(), base),
            _ if text.is_empty() => Err(format!("`{}` can't be empty", self.key)),
            Slot::Address(place) => {
                *place(settings) =
                    text.parse().map_err(|_| format!("`{}` takes {}, not `{text}`", self.key, self.takes()))?;
                Ok(())
            }
            Slot::OptionalAddress { place, .. } => {
                *place(settings) =
                    Some(text.parse().map_err(|_| format!("`{}` takes {}, not `{text}`", self.key, self.takes()))?);
                Ok(())
            }
            Slot::Path(place) => {
                *place(settings) = base.join(text);
                Ok(())
            }
            Slot::OptionalPath(place) => {
                *place(settings) = Some(base.join(text));
                Ok(())
            }
            Slot::Text(place) => {
                *place(settings) = text.to_owned();
                Ok(())
            }
            Slot::OptionalText(place) => {
                *place(settings) = Some(text.to_owned());
                Ok(())
            }
            Slot::Secret(place) => {
                *place(settings) = Some(Secret(text.to_owned()));
                Ok(())
            }
            Slot::SecretFile(place) => {
                *place(settings) = Some(read_secret(&base.join(text))?);
                Ok(())
            }
            Slot::Word { words, set, .. } if words.contains(&text) => {
                set(settings, text);
                Ok(())
            }
            Slot::Word { .. } => Err(format!("`{}` takes {}, not `{text}`", self.key, self.takes())),
        }
    }

    /// Sets it from a number.
    ///
    /// # Errors
    /// Where it takes none, or the number is out of bounds.
    pub fn set_number(&self, settings: &mut S, number: u64) -> Result<(), String> {
        match &self.slot {
            Slot::Number { min, max, place } if (*min..=*max).contains(&number) => {
                *place(settings) = number;
                Ok(())
            }
            Slot::OptionalNumber { min, max, place } if (*min..=*max).contains(&number) => {
                *place(settings) = Some(number);
                Ok(())
            }
            _ => Err(format!("`{}` takes {}, not {number}", self.key, self.takes())),
        }
    }

    /// Sets it from a list of texts.
    ///
    /// # Errors
    /// Where it takes none, or a text is empty.
    pub fn set_list(&self, settings: &mut S, texts: &[&str], base: &Path) -> Result<(), String> {
        let Slot::Paths(place) = &self.slot else {
            return Err(format!("`{}` takes {}, not a list", self.key, self.takes()));
        };
        if texts.iter().any(|text| text.is_empty()) {
            return Err(format!("`{}` holds an empty path", self.key));
        }
        *place(settings) = texts.iter().map(|text| base.join(text)).collect();
        Ok(())
    }

    /// What it takes, for people.
    pub fn takes(&self) -> String {
        match &self.slot {
            Slot::Address(_) | Slot::OptionalAddress { .. } => "an address such as 127.0.0.1:1883".into(),
            Slot::Path(_) | Slot::OptionalPath(_) => "a path".into(),
            Slot::Paths(_) => "a list of paths".into(),
            Slot::Text(_) | Slot::OptionalText(_) | Slot::Secret(_) => "a text".into(),
            Slot::SecretFile(_) => "the path of a file".into(),
            Slot::Number { min, max, .. } | Slot::OptionalNumber { min, max, .. } => {
                format!("a whole number from {min} to {max}")
            }
            Slot::Word { words, .. } => format!("one of {}", words.join(", ")),
        }
    }

    /// Its value as text, secrets masked.
    pub fn shown(&self, settings: &S) -> String {
        let mut copy = settings.clone();
        match &self.slot {
            Slot::Address(place) => place(&mut copy).to_string(),
            Slot::OptionalAddress { default, place } => place(&mut copy).unwrap_or(*default).to_string(),
            Slot::Path(place) => place(&mut copy).display().to_string(),
            Slot::OptionalPath(place) => {
                place(&mut copy).as_ref().map_or_else(|| "not set".into(), |path| path.display().to_string())
            }
            Slot::Paths(place) => format!("{:?}", place(&mut copy)),
            Slot::Text(place) => place(&mut copy).clone(),
            Slot::OptionalText(place) => place(&mut copy).clone().unwrap_or_else(|| "not set".into()),
            Slot::Secret(place) | Slot::SecretFile(place) => {
                place(&mut copy).as_ref().map_or_else(|| "not set".into(), |secret| format!("{secret:?}"))
            }
            Slot::Number { place, .. } => place(&mut copy).to_string(),
            Slot::OptionalNumber { place, .. } => place(&mut copy).map_or_else(|| "not set".into(), |n| n.to_string()),
            Slot::Word { get, .. } => get(settings).to_owned(),
        }
    }
}

fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|source| format!("{}: {source}", path.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret(line.to_owned())),
        _ => Err(format!("{}: the first line is empty", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_row_with_its_default_and_variable_in_the_documentation() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
        let mut missing = Vec::new();
        for field in FIELDS {
            let default = if field.key == "node.name" {
                "forebay@<hostname>".to_owned()
            } else {
                field.shown(&Settings::default())
            };
            let start = format!("| `{}` | `{}` | {} | {default} |", field.key, field.env(), field.takes());
            if !page.lines().any(|line| line.starts_with(&start)) {
                missing.push(start);
            }
        }
        assert!(missing.is_empty(), "docs/CONFIG.md lacks rows that start with:\n{}", missing.join("\n"));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let mut settings = Settings::default();
        by_key("admin.token").unwrap().set_text(&mut settings, "s3cret", Path::new("")).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
        assert_eq!(by_key("admin.token").unwrap().shown(&settings), "***");
    }
}
