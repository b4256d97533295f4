//! Brings the parts of all files together: what is given twice, what belongs to which pool, what holds for all rules.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::check::{self, WarningCode};
use super::draft::Draft;
use super::fault::{Fault, Warning};
use super::keys::{KeySpec, ValueKind, is_secret_name, keys};
use super::names::suggestion;
use super::source::{Source, Span};
use super::{Action, Database, Location, Pool, RuleSet, Setting};

/// What came of a text: everything usable, and everything that isn't.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// Pools and rules without fault.
    pub rules: RuleSet,
    /// What can't be used, in the order of the text. With any of these nothing is to be started.
    pub faults: Vec<Fault>,
    /// What is legal but worth knowing.
    pub warnings: Vec<Warning>,
}

/// A pool's setting with the places of its parts.
pub(super) struct Assignment<'a> {
    pub(super) key: &'a str,
    pub(super) key_at: Span,
    pub(super) value: &'a str,
    pub(super) value_at: Span,
}

/// What holds for all rules of a database that don't say otherwise.
#[derive(Clone, Copy, Default)]
pub(super) struct RuleDefaults {
    pub(super) expired_time: Option<Duration>,
    pub(super) max_returned_count: Option<u64>,
    pub(super) time_range: Option<Duration>,
}

/// Collects the parts of any number of texts.
#[derive(Default)]
pub(super) struct Builder {
    sources: Vec<Source>,
    seen: HashMap<String, Span>,
    pools: BTreeMap<(Database, String), Pool>,
    pool_defaults: Vec<(Database, &'static str, Setting)>,
    rule_defaults: BTreeMap<Database, RuleDefaults>,
    drafts: Vec<Draft>,
    faults: Vec<(Span, Fault)>,
    warnings: Vec<Warning>,
}

impl Builder {
    /// Adds a text; spans name it by the number this returns.
    pub(super) fn source(&mut self, file: &Path, text: &str) -> usize {
        self.sources.push(Source::new(file, text));
        self.sources.len() - 1
    }

    pub(super) fn fault(&mut self, span: Span, message: String, help: Option<String>) {
        let at = self.location(span);
        let width = self.text(span).chars().count();
        let excerpt = self.sources.get(span.source).and_then(|source| source.excerpt(&at, width));
        self.faults.push((span, Fault { at, message, help, excerpt }));
    }

    pub(super) fn fault_count(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn location(&self, span: Span) -> Location {
        match self.sources.get(span.source) {
            Some(source) => source.locate(span.start),
            None => Location { file: Arc::default(), line: 1, column: 1 },
        }
    }

    fn text(&self, span: Span) -> &str {
        self.sources.get(span.source).and_then(|source| source.text.get(span.start..span.end)).unwrap_or_default()
    }

    /// Bytes `start..end` of a quoted text. With escapes in it the places can't be told apart, and the whole text is meant.
    pub(super) fn inside(&self, quoted: Span, text: &str, start: usize, end: usize) -> Span {
        let verbatim = Span { start: quoted.start + 1, end: quoted.end.saturating_sub(1), ..quoted };
        if self.text(verbatim) == text && verbatim.start + start < verbatim.end {
            Span { start: verbatim.start + start, end: verbatim.start + end.max(start + 1), ..quoted }
        } else {
            quoted
        }
    }

    /// False, with a fault that names both places, when `id` has been given before.
    pub(super) fn first(&mut self, id: String, shown: &str, at: Span) -> bool {
        match self.seen.get(&id).copied() {
            Some(earlier) => {
                let earlier = self.location(earlier);
                self.fault(at, format!("`{shown}` is set twice"), Some(format!("first set at {earlier}")));
                false
            }
            None => {
                self.seen.insert(id, at);
                true
            }
        }
    }

    /// Makes a pool known that may have no settings of its own.
    pub(super) fn pool(&mut self, database: Database, name: &str, at: Span) -> &mut Pool {
        let at = self.location(at);
        self.pools.entry((database, name.to_owned())).or_insert_with(|| Pool {
            database,
            name: name.to_owned(),
            settings: BTreeMap::new(),
            at,
        })
    }

    /// A setting of one pool.
    pub(super) fn setting(&mut self, database: Database, pool: &str, pool_at: Span, assignment: &Assignment<'_>) {
        self.pool(database, pool, pool_at);
        let id = |name: &str| format!("pool {database} {pool} {name}");
        let Some((name, setting)) = self.read_setting(database, assignment, id) else { return };
        self.pool(database, pool, pool_at).settings.insert(name.to_owned(), setting);
    }

    /// A setting of all pools of a database that don't have it themselves.
    pub(super) fn pool_default(&mut self, database: Database, assignment: &Assignment<'_>) {
        let id = |name: &str| format!("all {database} {name}");
        if let Some((name, setting)) = self.read_setting(database, assignment, id) {
            self.pool_defaults.push((database, name, setting));
        }
    }

    fn read_setting(
        &mut self,
        database: Database,
        assignment: &Assignment<'_>,
        id: impl Fn(&str) -> String,
    ) -> Option<(&'static str, Setting)> {
        let Assignment { key, key_at, value, value_at } = *assignment;
        let Some(spec) = KeySpec::find(database, key) else {
            let names: Vec<&str> =
                keys(database).iter().flat_map(|s| s.aliases.iter().chain([&s.name])).copied().collect();
            self.fault(key_at, format!("unknown setting `{key}` of a {database} pool"), Some(suggestion(key, &names)));
            return None;
        };
        if !self.first(id(spec.name), key, key_at) || value.is_empty() {
            return None;
        }
        if let Err(expected) = spec.kind.check(value) {
            self.fault(value_at, format!("{key}: {expected}"), None);
            return None;
        }
        if let Some(instead) = spec.instead {
            let message = format!("{database} has no `{key}` here ({}); used instead: {instead}", spec.doc);
            // Once is enough, however many pools have it.
            if !self.warnings.iter().any(|warning| warning.message == message) {
                self.warn(WarningCode::KeyReplaced, key_at, message);
            }
        }
        let secret = spec.kind == ValueKind::Secret || is_secret_name(key);
        Some((spec.name, Setting { value: value.to_owned(), secret, at: self.location(value_at) }))
    }

    pub(super) fn rule_defaults(&mut self, database: Database) -> &mut RuleDefaults {
        self.rule_defaults.entry(database).or_default()
    }

    pub(super) fn rule(&mut self, draft: Draft) {
        self.drafts.push(draft);
    }

    pub(super) fn warn(&mut self, code: WarningCode, span: Span, message: String) {
        let at = self.location(span);
        self.warnings.push(Warning { code, at, message, excerpt: None });
    }

    /// Resolves what goes across files, checks the whole, and hands over.
    pub(super) fn finish(mut self) -> Parsed {
        self.apply_pool_defaults();
        self.require_settings();
        let rules = self.take_rules();
        let rules = RuleSet { pools: std::mem::take(&mut self.pools).into_values().collect(), rules };
        let mut warnings = std::mem::take(&mut self.warnings);
        if self.faults.is_empty() {
            warnings.extend(check::check(&rules));
        }
        for warning in &mut warnings {
            warning.excerpt = self.excerpt_of(&warning.at);
        }
        self.faults.sort_by_key(|(span, _)| (span.source, span.start));
        Parsed { rules, faults: self.faults.into_iter().map(|(_, fault)| fault).collect(), warnings }
    }

    fn excerpt_of(&self, at: &Location) -> Option<super::Excerpt> {
        self.sources.iter().find(|source| Arc::ptr_eq(&source.file, &at.file))?.excerpt(at, 1)
    }

    fn apply_pool_defaults(&mut self) {
        for (database, name, setting) in std::mem::take(&mut self.pool_defaults) {
            for pool in self.pools.values_mut().filter(|pool| pool.database == database) {
                pool.settings.entry(name.to_owned()).or_insert_with(|| setting.clone());
            }
        }
        for pool in self.pools.values_mut().filter(|pool| pool.database == Database::Influxdb) {
            choose_protocol(pool);
        }
    }

    /// Settings that another setting makes necessary.
    fn require_settings(&mut self) {
        let mut missing = Vec::new();
        for pool in self.pools.values() {
            let (needed, why) = match (pool.database, pool.value("type")) {
                (Database::Redis, Some("sentinel")) => ("sentinel", "the master's name, with type = sentinel"),
                (Database::Mongo, Some("rs")) => ("rs_set_name", "the name of the replica set, with type = rs"),
                _ => continue,
            };
            if !pool.settings.contains_key(needed) {
                let message = format!("{} pool `{}` has no `{needed}`: {why}", pool.database, pool.name);
                missing.push((pool.at.clone(), message));
            }
        }
        for (at, message) in missing {
            let excerpt = self.excerpt_of(&at);
            let source = self.sources.iter().position(|source| Arc::ptr_eq(&source.file, &at.file)).unwrap_or_default();
            let start = usize::try_from(at.line).unwrap_or_default();
            self.faults.push((Span { source, start, end: start }, Fault { at, message, help: None, excerpt }));
        }
    }

    fn take_rules(&mut self) -> Vec<super::Rule> {
        let mut rules = Vec::new();
        for Draft { mut rule, pool_at } in std::mem::take(&mut self.drafts) {
            let database = rule.database;
            if !self.pools.contains_key(&(database, rule.pool.clone())) {
                let names: Vec<&str> =
                    self.pools.keys().filter(|(db, _)| *db == database).map(|(_, name)| name.as_str()).collect();
                let help = if names.is_empty() {
                    format!("no pool of {database} is set up: add `backend.{}.{}.…`", database.pool_name(), rule.pool)
                } else {
                    suggestion(&rule.pool, &names)
                };
                self.fault(pool_at, format!("unknown {database} pool `{}`", rule.pool), Some(help));
                continue;
            }
            if let (Some(defaults), Action::Function(function)) = (self.rule_defaults.get(&database), &rule.action) {
                if function.is_store() {
                    rule.expired_time = rule.expired_time.or(defaults.expired_time);
                }
                if function.is_fetch() {
                    rule.offline.max_returned_count = rule.offline.max_returned_count.or(defaults.max_returned_count);
                    rule.offline.time_range = rule.offline.time_range.or(defaults.time_range);
                }
            }
            rules.push(rule);
        }
        rules.sort_by(|a, b| (a.database, &a.pool, a.hook, a.number).cmp(&(b.database, &b.pool, b.hook, b.number)));
        rules
    }
}

/// The three generations of InfluxDB keys say in different ways how points are sent. Where HTTP and UDP are both set up and
/// nothing chooses, HTTP is used: only its answers say that points are stored.
fn choose_protocol(pool: &mut Pool) {
    if pool.settings.contains_key("write_protocol") {
        return;
    }
    let has = |prefix: &str| pool.settings.keys().any(|name| name.starts_with(prefix));
    let protocol = if !has("http.") && (has("udp.") || has("server")) { "udp" } else { "http" };
    let setting = Setting { value: protocol.to_owned(), secret: false, at: pool.at.clone() };
    pool.settings.insert("write_protocol".to_owned(), setting);
}
