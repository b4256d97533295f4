//! Reading `forebay.toml`.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place, nearest};
use super::fields::{self, FIELDS, Field};
use super::listener::{self, ListenerSettings};
use super::{MQTT_LISTEN, Settings};

/// Top-level tables that hold rules: the rules module reads them from the same text.
const RULE_TABLES: &[&str] = &["pool", "rule"];

/// Applies a file's settings. Every fault is added to `faults`; what is right is applied all the same.
pub fn apply(settings: &mut Settings, path: &Path, source: &str, faults: &mut Vec<Fault>) {
    let (table, errors) = DeTable::parse_recoverable(source);
    let base = path.parent().unwrap_or(Path::new(""));
    for error in &errors {
        let place = Place::in_text(path, source, error.span().unwrap_or(0..0));
        faults.push(Fault { place, message: error.message().to_owned(), nearest: None });
    }
    let mut file = File { settings, path, source, base, faults };
    file.table("", table.get_ref());
}

struct File<'a> {
    settings: &'a mut Settings,
    path: &'a Path,
    source: &'a str,
    base: &'a Path,
    faults: &'a mut Vec<Fault>,
}

impl File<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            if prefix.is_empty() && RULE_TABLES.contains(&key.as_str()) {
                continue;
            }
            if prefix.is_empty() && key == listener::TABLE {
                self.listeners(value);
                continue;
            }
            if let Some(field) = fields::by_key(&key) {
                if let Err(message) = set(field, self.settings, value, self.base) {
                    self.fault(value.span(), message, None);
                }
                continue;
            }
            let inner = format!("{key}.");
            match value.get_ref() {
                DeValue::Table(table) if FIELDS.iter().any(|field| field.key.starts_with(&inner)) => {
                    self.table(&key, table);
                }
                _ => {
                    let tables = RULE_TABLES.iter().copied().chain([listener::TABLE]);
                    let close = nearest(&key, valid_names(prefix).iter().map(String::as_str).chain(tables));
                    self.fault(name.span(), format!("there is no setting `{key}`"), close);
                }
            }
        }
    }

    /// `[[listener]]`: each table is a listener.
    fn listeners(&mut self, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(items) = value.get_ref() else {
            let message = "`listener` is a list of tables: write `[[listener]]` before the settings of each";
            return self.fault(value.span(), message.to_owned(), None);
        };
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => self.listener(item.span(), table),
                _ => self.fault(
                    item.span(),
                    "a listener is a table: write `[[listener]]` before its settings".into(),
                    None,
                ),
            }
        }
    }

    fn listener(&mut self, span: std::ops::Range<usize>, table: &DeTable<'_>) {
        let mut settings = ListenerSettings::plain(MQTT_LISTEN);
        settings.place = Some(Place::in_text(self.path, self.source, span.clone()));
        let mut listens = false;
        for (name, value) in table {
            let Some(field) = listener::FIELDS.iter().find(|field| field.key == name.get_ref().as_ref()) else {
                let close = nearest(name.get_ref(), listener::FIELDS.iter().map(|field| field.key));
                self.fault(name.span(), format!("a listener has no setting `{}`", name.get_ref()), close);
                continue;
            };
            if field.key == listener::ADDRESS {
                listens = true;
                settings.place = Some(Place::in_text(self.path, self.source, value.span()));
            }
            if let Err(message) = set(field, &mut settings, value, self.base) {
                self.fault(value.span(), message, None);
            }
        }
        if listens {
            self.settings.listeners.push(settings);
        } else {
            self.fault(
                span,
                "this listener has no address: add `listen = \"127.0.0.1:8883\"`, for example".into(),
                None,
            );
        }
    }

    fn fault(&mut self, span: std::ops::Range<usize>, message: String, nearest: Option<String>) {
        self.faults.push(Fault { place: Place::in_text(self.path, self.source, span), message, nearest });
    }
}

/// Sets a setting from a value of the file.
fn set<S: Clone>(field: &Field<S>, settings: &mut S, value: &Spanned<DeValue<'_>>, base: &Path) -> Result<(), String> {
    match value.get_ref() {
        DeValue::String(text) => field.set_text(settings, text, base),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            let parsed = u64::from_str_radix(digits.trim_start_matches('+'), number.radix());
            let number = parsed.map_err(|_| format!("`{}` takes {}", field.key, field.takes()))?;
            field.set_number(settings, number)
        }
        DeValue::Boolean(set) => field.set_text(settings, if *set { "true" } else { "false" }, base),
        DeValue::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            match texts {
                Some(texts) => field.set_list(settings, &texts, base),
                None => Err(format!("`{}` takes {}", field.key, field.takes())),
            }
        }
        other => Err(format!("`{}` takes {}, not a {}", field.key, field.takes(), other.type_str())),
    }
}

/// Names that could stand where an unknown one stands: settings of that table, whole keys and tables at the top.
fn valid_names(prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for field in FIELDS {
        names.push(field.key.to_owned());
        if prefix.is_empty() {
            names.extend(field.key.split_once('.').map(|(table, _)| table.to_owned()));
        }
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(source: &str) -> Vec<String> {
        let mut faults = Vec::new();
        apply(&mut Settings::default(), Path::new("forebay.toml"), source, &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_file_sets_what_it_names_and_leaves_rules_to_the_rules_module() {
        let source =
            "data = \"d\"\n[mqtt]\nlisten = \"0.0.0.0:1\"\n[log]\nsegment_bytes = 0x10_0000\n[pool.x]\nany = 1\n";
        let mut settings = Settings::default();
        let mut faults = Vec::new();
        apply(&mut settings, Path::new("/etc/forebay.toml"), source, &mut faults);
        assert_eq!(faults, Vec::new());
        assert_eq!(settings.data, Path::new("/etc/d"));
        assert_eq!(settings.mqtt.listen.unwrap().to_string(), "0.0.0.0:1");
        assert_eq!(settings.log.segment_bytes, 1 << 20);
    }

    #[test]
    fn all_faults_are_reported_at_once_with_place_caret_and_nearest_name() {
        let faults = faults_of("dta = \"x\"\n[mqtt]\n  lisen = 1\n  receive_maximum = 70000\n");
        assert_eq!(
            faults,
            [
                "forebay.toml:1:1: there is no setting `dta`; did you mean `data`?\n 1 | dta = \"x\"\n   | ^^^",
                "forebay.toml:3:3: there is no setting `mqtt.lisen`; did you mean `mqtt.listen`?\n 3 |   lisen = 1\n   |   ^^^^^",
                "forebay.toml:4:21: `mqtt.receive_maximum` takes a whole number from 1 to 65535, not 70000\n \
                 4 |   receive_maximum = 70000\n   |                     ^^^^^",
            ]
        );
    }

    #[test]
    fn text_that_is_not_toml_is_a_fault_with_a_place() {
        let faults = faults_of("data = \n[mqtt]\nlisten = \"nonsense\"\n");
        assert!(faults[0].starts_with("forebay.toml:1:"), "{faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("`mqtt.listen` takes an address")), "{faults:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(source in "\\PC{0,40}(\n\\PC{0,20}){0,4}") {
            let _ = faults_of(&source);
        }
    }
}
