//! What reads text that people wrote.

use std::path::Path;

use forebay_engine::fuzzing::Trie;
use forebay_engine::topic;
use forebay_sinks::fuzzing::parse_statement;
use forebay_sinks::rule::{Database, Fault, Hook, Part, RuleSet, WarningCode, check, parse_conf, parse_toml};

pub(crate) fn text(data: &[u8]) -> &str {
    match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&data[..e.valid_up_to()]).unwrap_or_default(),
    }
}

/// A fault has a place in the text, and its report of several lines can be written.
fn assert_inside(fault: &Fault, text: &str) {
    let lines = text.split('\n').count() as u32;
    assert!(fault.at.line >= 1 && fault.at.line <= lines && fault.at.column >= 1, "{fault}");
    assert!(!fault.to_string().is_empty() && !fault.message.is_empty());
}

/// What a faultless text leads to.
fn use_rules(rules: &RuleSet) {
    for warning in check(rules) {
        assert!(WarningCode::ALL.contains(&warning.code) && !warning.to_string().is_empty());
    }
    let _ = rules.engine_rules();
}

pub(crate) fn conf_file(data: &[u8]) {
    let text = text(data);
    let parsed = parse_conf(Path::new("fuzz.conf"), text);
    parsed.faults.iter().for_each(|fault| assert_inside(fault, text));
    if parsed.faults.is_empty() {
        use_rules(&parsed.rules);
    }
}

pub(crate) fn toml_rules(data: &[u8]) {
    let text = text(data);
    let (rules, faults, _) = parse_toml(Path::new("fuzz.toml"), text);
    faults.iter().for_each(|fault| assert_inside(fault, text));
    if faults.is_empty() {
        use_rules(&rules);
    }
}

/// Lines: a name, then filters.
pub(crate) fn topic_filter(data: &[u8]) {
    let mut lines = text(data).split('\n');
    let name = lines.next().unwrap_or_default();
    if topic::check_name(name).is_err() {
        return;
    }
    let filters: Vec<&str> = lines.filter(|filter| topic::check_filter(filter).is_ok()).collect();
    let mut tree = Trie::default();
    for (n, filter) in filters.iter().enumerate() {
        tree.insert(filter, n);
    }
    let mut found = Vec::new();
    tree.matches(name, |n| {
        found.push(*n);
        true
    });
    found.sort_unstable();
    let expected: Vec<usize> = (0..filters.len()).filter(|n| topic::matches(filters[*n], name)).collect();
    assert_eq!(found, expected);
    for outer in &filters {
        for inner in &filters {
            if topic::covers(outer, inner) && topic::matches(inner, name) {
                assert!(topic::matches(outer, name), "{outer} covers {inner}");
            }
        }
    }
}

/// `database u8 | hook u8 | statement`.
pub(crate) fn template(data: &[u8]) {
    let (Some(database), Some(hook), Some(rest)) = (data.first(), data.get(1), data.get(2..)) else { return };
    let database = Database::ALL[usize::from(*database) % Database::ALL.len()];
    let hook = Hook::ALL[usize::from(*hook) % Hook::ALL.len()];
    let source = text(rest);
    match parse_statement(source, database, hook) {
        Err(faults) => {
            assert!(!faults.is_empty(), "refused and nothing said");
            for at in faults {
                // An empty field has one place, the end of the text may be it.
                assert!(at.start <= at.end && at.start <= source.len() && at.end <= source.len() + 1, "{at:?}");
                assert!(source.is_char_boundary(at.start), "{at:?}");
            }
        }
        Ok(statement) => {
            let whole: String = statement.parts.iter().map(shown).collect();
            assert_eq!(whole, source);
            let params = |part: &&Part| matches!(part, Part::Param(_));
            for part in statement.parts.iter().filter(params) {
                let Part::Param(param) = part else { continue };
                assert!(hook.params(database).contains(param), "{param:?} is nothing that {hook} has");
            }
            if database == Database::Redis {
                let fields = statement.fields();
                // A value never becomes more than the field it stands in, whatever it holds.
                assert_eq!(fields.len(), source.split(' ').count());
                let joined: Vec<String> = fields.iter().map(|field| field.iter().map(shown).collect()).collect();
                assert_eq!(joined.join(" "), source);
            }
        }
    }
}

fn shown(part: &Part) -> String {
    match part {
        Part::Text(text) => text.clone(),
        Part::Param(param) => format!("${{{}}}", param.name()),
    }
}

/// `shape u8 | template file | 0 byte | payload`.
pub(crate) fn point_template(data: &[u8]) {
    use forebay_engine::event::Message;
    use forebay_engine::{Lsn, MsgId};
    use forebay_sinks::template::{BYTES_MAX, Facts, POINTS_MAX, Shape, Unit, parse, parse_statements};
    let Some((shape, rest)) = data.split_first() else { return };
    let cut = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let file = text(&rest[..cut]);
    let payload = rest.get(cut + 1..).unwrap_or_default().to_vec();
    let refused = |faults: Vec<Fault>| {
        assert!(!faults.is_empty(), "refused and nothing said");
        faults.iter().for_each(|fault| assert_inside(fault, file));
    };
    let message = Message { topic: "a/b".into(), publisher: "c".into(), payload: payload.into(), ..Message::default() };
    let time_us = 1_700_000_000_000_000;
    let facts = Facts { message: &message, msgid: MsgId::new(time_us, 1, Lsn(7)), time_us, unit: Unit::Ms };
    if shape % 3 == 2 {
        let templates = match parse_statements(Path::new("fuzz.tmpl"), file) {
            Err(faults) => return refused(faults.0),
            Ok(templates) => templates,
        };
        for (filter, template) in templates.iter() {
            assert!(topic::check_filter(filter).is_ok() && !template.name.is_empty());
            if let Ok(rows) = template.rows(&facts) {
                assert!(rows.len() <= POINTS_MAX && rows.iter().all(|row| row.len() == template.params.len()));
                assert_eq!(template.rows(&facts), Ok(rows), "the same message gives the same rows");
            }
        }
        return;
    }
    let shape = if shape % 3 == 0 { Shape::Fields } else { Shape::Value };
    let templates = match parse(Path::new("fuzz.tmpl"), file, shape) {
        Err(faults) => return refused(faults.0),
        Ok(templates) => templates,
    };
    for (filter, template) in templates.iter() {
        assert!(topic::check_filter(filter).is_ok() && template.tags.is_sorted_by(|a, b| a.0 < b.0));
        match template.points(&facts) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(points) => {
                assert!(points.len() <= POINTS_MAX && points.iter().map(|p| p.len()).sum::<usize>() <= BYTES_MAX);
                assert!(points.iter().all(|p| !p.is_empty() && !p.measurement.is_empty()));
                assert!(points.iter().flat_map(|p| &p.tags).all(|(_, value)| !value.is_empty()));
                assert_eq!(template.points(&facts), Ok(points), "the same message gives the same points");
            }
        }
    }
}
