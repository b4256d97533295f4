//! `[[listener]]`: a way in with settings of its own.

use std::net::SocketAddr;

use super::Settings;
use super::fault::{Fault, Place};
use super::fields::{Field, Slot, field};

/// The name of the tables.
pub const TABLE: &str = "listener";
/// The setting that each has.
pub const ADDRESS: &str = "listen";

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Where it stands in the file; none for the plain one, `mqtt.listen`.
    pub place: Option<Place>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Connections at a time through it; none = as many as `mqtt.connections_max` says.
    pub connections_max: Option<u64>,
    /// Whether clients that show no credentials are let in; none = as for the plain listener.
    pub anonymous: Option<bool>,
}

impl ListenerSettings {
    /// A plain one.
    pub fn plain(listen: SocketAddr) -> ListenerSettings {
        ListenerSettings { place: None, listen, connections_max: None, anonymous: None }
    }
}

/// Every setting of a listener.
pub const FIELDS: &[Field<ListenerSettings>] = &[
    field(ADDRESS, Slot::Address(|l: &mut ListenerSettings| &mut l.listen)),
    field("connections_max", Slot::OptionalNumber { min: 1, max: 10_000_000, place: |l| &mut l.connections_max }),
    field("anonymous", Slot::Word { words: &["true", "false"], set: set_anonymous, get: anonymous }),
];

fn set_anonymous(listener: &mut ListenerSettings, word: &str) {
    listener.anonymous = Some(word == "true");
}

fn anonymous(listener: &ListenerSettings) -> &'static str {
    match listener.anonymous {
        Some(true) => "true",
        Some(false) => "false",
        None => "not set",
    }
}

/// What single values can't show.
pub fn check(settings: &Settings, faults: &mut Vec<Fault>) {
    let mut taken = Vec::new();
    for listener in settings.ways_in() {
        let place = listener.place.clone().unwrap_or(Place::Whole);
        if listener.listen.port() != 0 && taken.contains(&listener.listen) {
            let message = format!(
                "two listeners have the address {}: give each its own (`mqtt.listen`, where it is set, is one of them)",
                listener.listen
            );
            faults.push(Fault { place, message, nearest: None });
        }
        taken.push(listener.listen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MQTT_LISTEN, Overrides, load};

    /// Settings from a file of this text.
    fn loaded(source: &str) -> Result<Settings, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("forebay.toml");
        std::fs::write(&path, source).unwrap();
        let overrides = Overrides { config: Some(path), ..Overrides::default() };
        let strip = |fault: &Fault| fault.to_string().replace(&format!("{}/", dir.path().display()), "");
        load(&overrides, std::iter::empty())
            .map(|loaded| loaded.settings)
            .map_err(|faults| faults.iter().map(strip).collect())
    }

    fn addresses(settings: &Settings) -> Vec<String> {
        settings.ways_in().iter().map(|listener| listener.listen.to_string()).collect()
    }

    #[test]
    fn the_plain_listener_is_there_where_it_is_set_or_alone() {
        assert_eq!(addresses(&loaded("").unwrap()), [MQTT_LISTEN.to_string()]);
        let table = "[[listener]]\nlisten = \"127.0.0.1:1884\"\n";
        assert_eq!(addresses(&loaded(table).unwrap()), ["127.0.0.1:1884"]);
        let both = format!("mqtt.listen = \"[::1]:1883\"\n{table}[[listener]]\nlisten = \"0.0.0.0:1885\"\n");
        assert_eq!(addresses(&loaded(&both).unwrap()), ["[::1]:1883", "127.0.0.1:1884", "0.0.0.0:1885"]);
    }

    #[test]
    fn each_listener_has_settings_of_its_own() {
        let source = "[[listener]]\nlisten = \"127.0.0.1:1\"\nconnections_max = 3\nanonymous = false\n\
                      [[listener]]\nlisten = \"127.0.0.1:2\"\n";
        let settings = loaded(source).unwrap();
        let [one, two] = settings.listeners.as_slice() else { panic!("two listeners") };
        assert_eq!((one.connections_max, one.anonymous), (Some(3), Some(false)));
        assert_eq!((two.connections_max, two.anonymous), (None, None));
    }

    #[test]
    fn a_wrong_listener_is_refused_with_its_place_and_a_remedy() {
        let faults = loaded("[[listener]]\nlissen = 1\nconnections_max = 0\n").unwrap_err();
        let starts = [
            "forebay.toml:2:1: a listener has no setting `lissen`; did you mean `listen`?",
            "forebay.toml:3:19: `connections_max` takes a whole number from 1 to 10000000, not 0",
            "forebay.toml:1:1: this listener has no address: add `listen = \"127.0.0.1:8883\"`, for example",
        ];
        assert_eq!(faults.len(), starts.len(), "{faults:?}");
        for start in starts {
            assert!(faults.iter().any(|fault| fault.starts_with(start)), "{start}: {faults:?}");
        }
        let faults = loaded("[listener]\nlisten = \"127.0.0.1:1\"\n").unwrap_err();
        assert!(faults[0].contains("write `[[listener]]`"), "{faults:?}");
    }

    #[test]
    fn an_address_belongs_to_one_listener() {
        let twice = "[[listener]]\nlisten = \"127.0.0.1:1\"\n[[listener]]\nlisten = \"127.0.0.1:1\"\n";
        let faults = loaded(twice).unwrap_err();
        assert!(faults[0].starts_with("forebay.toml:4:10: two listeners have the address 127.0.0.1:1"), "{faults:?}");
        assert!(loaded(&twice.replace(":1\"", ":0\"")).is_ok());
        assert!(loaded("mqtt.listen = \"127.0.0.1:1\"\n[[listener]]\nlisten = \"127.0.0.1:1\"\n").is_err());
    }

    #[test]
    fn every_setting_of_a_listener_has_a_row_in_the_documentation() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
        let plain = ListenerSettings::plain(MQTT_LISTEN);
        for field in FIELDS {
            let default = if field.key == ADDRESS { "needed".to_owned() } else { field.shown(&plain) };
            let start = format!("| `{}` | {} | {default} |", field.key, field.takes());
            assert!(
                page.lines().any(|line| line.starts_with(&start)),
                "docs/CONFIG.md lacks a row that starts with: {start}"
            );
        }
    }
}
