//! Templates: what they say, what they refuse, and what holds whatever the payload is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;

use forebay_engine::event::Message;
use forebay_engine::{Lsn, MsgId, QoS};
use forebay_sinks::template::{
    Facts, Parameter, Point, SameTime, Shape, Slots, TemplateError, Templates, Time, Unit, Value, parse,
    parse_statements,
};
use proptest::prelude::*;

const TIME_US: u64 = 1_560_745_505_429_670;

fn read(text: &str) -> Templates {
    parse(Path::new("t.tmpl"), text, Shape::Fields).unwrap()
}

fn faults(text: &str, shape: Shape) -> String {
    parse(Path::new("t.tmpl"), text, shape).unwrap_err().to_string()
}

fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_owned().into(),
        qos: QoS::AtMostOnce,
        publisher: "mqttjs_1".into(),
        username: "u".into(),
        peer: "10.0.0.9".into(),
        ..Message::default()
    }
}

fn points(templates: &Templates, message: &Message) -> Result<Vec<Point>, TemplateError> {
    let facts = Facts { message, msgid: MsgId::new(TIME_US, 1, Lsn(7)), time_us: TIME_US, unit: Unit::Ms };
    let mut points = Vec::new();
    for template in templates.matching(&message.topic) {
        points.extend(template.points(&facts)?);
    }
    Ok(points)
}

/// One field `v` of a template for every topic.
fn of(leaf: &str, payload: &str) -> Result<Vec<Value>, TemplateError> {
    let templates = read(&format!(r##"{{"#": {{"measurement": "m", "fields": {{"v": {leaf}}}}}}}"##));
    Ok(points(&templates, &message("t", payload))?.into_iter().map(|point| point.fields[0].1.clone()).collect())
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

fn number(value: &str) -> Value {
    Value::Number(value.into())
}

#[test]
fn the_documented_example_gives_a_point_for_each_element() {
    let templates = read(include_str!("fixtures/templates/sample.tmpl"));
    let payload = r#"{"data": [{"temp": 1, "host": "serverA", "region": "hangzhou"},
                               {"temp": 2, "host": "serverB", "region": "ningbo"}]}"#;
    let points = points(&templates, &message("sample", payload)).unwrap();
    let tags: Vec<Vec<(&str, &str)>> =
        points.iter().map(|p| p.tags.iter().map(|(k, v)| (&**k, v.as_str())).collect()).collect();
    let expected = |host, region| vec![("clientid", "mqttjs_1"), ("host", host), ("qos", "0"), ("region", region)];
    assert_eq!(tags, [expected("serverA", "hangzhou"), expected("serverB", "ningbo")]);
    let fields: Vec<&[(Arc<str>, Value)]> = points.iter().map(|p| p.fields.as_slice()).collect();
    assert_eq!(fields, [&[("temperature".into(), number("1"))], &[("temperature".into(), number("2"))]]);
    assert!(points.iter().all(|p| p.measurement == "sample" && p.time == Time::Record));
}

#[test]
fn every_placeholder_is_a_fact_of_the_message() {
    let id = MsgId::new(TIME_US, 1, Lsn(7)).to_string();
    for (leaf, value) in [
        (r#""$id""#, text(&id)),
        (r#""$clientid""#, text("mqttjs_1")),
        (r#""$username""#, text("u")),
        (r#""$peerhost""#, text("10.0.0.9")),
        (r#""$qos""#, Value::Integer(0)),
        (r#""$topic""#, text("t")),
        (r#""$timestamp""#, Value::Integer(TIME_US / 1_000)),
        (r#""$payload""#, text("hello")),
        (r#""a literal""#, text("a literal")),
        ("2.50", number("2.50")),
        ("true", Value::Boolean(true)),
    ] {
        assert_eq!(of(leaf, "hello"), Ok(vec![value]), "{leaf}");
    }
}

#[test]
fn paths_lead_into_the_payload() {
    let payload = r#"{"a": {"b": [10, 20.5, "x", true, null, {"c": 1}, [1, 2]]}, "n": 9007199254740993, "$0": 1}"#;
    for (path, value) in [
        (r#"["$payload", "a", "b", "$1"]"#, vec![number("10")]),
        (r#"["$payload", "a", "b", "$2"]"#, vec![number("20.5")]),
        (r#"["$payload", "a", "b", "$3"]"#, vec![text("x")]),
        (r#"["$payload", "a", "b", "$4"]"#, vec![Value::Boolean(true)]),
        (r#"["$payload", "a", "b", "$6"]"#, vec![Value::Document(r#"{"c":1}"#.into())]),
        (r#"["$payload", "a", "b", "$7", "$0"]"#, vec![number("1"), number("2")]),
        (r#"["$payload", "n"]"#, vec![number("9007199254740993")]),
        (r#"["$payload"]"#, vec![text(payload)]),
    ] {
        assert_eq!(of(path, payload), Ok(value), "{path}");
    }
    for path in [r#"["$payload", "x"]"#, r#"["$payload", "a", "b", "$5"]"#, r#"["$payload", "a", "b", "$8"]"#] {
        assert!(matches!(of(path, payload), Err(TemplateError::Missing { .. })), "{path}");
    }
    assert!(matches!(of(r#"["$payload", "n", "$0"]"#, payload), Err(TemplateError::NotArray(..))));
    assert!(matches!(of(r#"["$payload", "n"]"#, "no JSON"), Err(TemplateError::NotJson(..))));
    assert_eq!(of(r#""$payload""#, "21.5"), Ok(vec![number("21.5")]));
    assert_eq!(of(r#"["$payload", "d", "$0"]"#, r#"{"d": []}"#), Ok(vec![]));
}

#[test]
fn arrays_of_different_lengths_are_refused_and_scalars_repeat() {
    let templates = read(
        r#"{"t": {"measurement": "m", "tags": {"h": ["$payload", "h", "$0"], "s": ["$payload", "s"]}, "fields": {"v": ["$payload", "v", "$0"]}}}"#,
    );
    let of = |payload| points(&templates, &message("t", payload));
    let two = of(r#"{"h": ["a", "b"], "s": "x", "v": [1, 2]}"#).unwrap();
    assert!(two.len() == 2 && two.iter().all(|p| p.tags[1] == ("s".into(), "x".into())));
    let error = of(r#"{"h": ["a", "b"], "v": [1, 2, 3]}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the arrays that `$0` stands for have different lengths: $payload.h.$0 2, $payload.v.$0 3"
    );
    // A tag without a value is none; elements stay beside each other.
    let gaps = of(r#"{"h": ["a", null, ""], "v": [1, 2, 3]}"#).unwrap();
    assert_eq!(gaps.iter().map(|p| p.tags.len()).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn one_message_gives_no_more_than_can_be_borne() {
    let templates = read(
        r#"{"t": {"measurement": "m", "tags": {"big": ["$payload", "big"]}, "fields": {"v": ["$payload", "v", "$0"]}}}"#,
    );
    let of = |big: usize, n: usize| {
        let payload = format!(r#"{{"big": "{}", "v": [{}]}}"#, "x".repeat(big), vec!["1"; n].join(","));
        points(&templates, &message("t", &payload)).map(|points| points.len())
    };
    assert_eq!(of(1, 10_000), Ok(10_000));
    assert_eq!(of(1, 10_001), Err(TemplateError::TooMuch));
    assert_eq!(of(100_000, 1_000), Err(TemplateError::TooMuch));
}

#[test]
fn times_have_the_unit_that_is_said() {
    let time = |unit: &str, payload: &str| {
        let unit = if unit.is_empty() { String::new() } else { format!(r#", "timestamp_unit": "{unit}""#) };
        let template =
            format!(r#"{{"t": {{"measurement": "m", "fields": {{"v": 1}}, "timestamp": ["$payload", "at"]{unit}}}}}"#);
        points(&read(&template), &message("t", &format!(r#"{{"at": {payload}}}"#))).map(|points| points[0].time)
    };
    assert_eq!(time("s", "1560745505"), Ok(Time::Given(1_560_745_505_000_000_000)));
    assert_eq!(time("s", "1560745505.25"), Ok(Time::Given(1_560_745_505_250_000_000)));
    assert_eq!(time("s", "\"1560745505\""), Ok(Time::Given(1_560_745_505_000_000_000)));
    assert_eq!(time("s", "1.5e9"), Ok(Time::Given(1_500_000_000_000_000_000)));
    assert_eq!(time("s", "-0.5"), Ok(Time::Given(-500_000_000)));
    assert_eq!(time("ns", "1560745505429670000"), Ok(Time::Given(1_560_745_505_429_670_000)));
    assert_eq!(time("", "1560745505429"), Ok(Time::Given(1_560_745_505_429_000_000)));
    for bad in ["\"yesterday\"", "true", "1e40", "\"1.x\"", "{}"] {
        assert!(matches!(time("s", bad), Err(TemplateError::Time(..))), "{bad}");
    }
    assert!(matches!(time("s", "null"), Err(TemplateError::Missing { .. })));
}

#[test]
fn several_templates_of_a_topic_are_all_used() {
    let templates = read(
        r##"{"a/#": [{"measurement": "x", "fields": {"v": 1}}, {"measurement": "y", "fields": {"v": 1}}],
            "a/+": {"measurement": "z", "fields": {"v": 1}}, "a/+": {"measurement": "w", "fields": {"v": 1}}}"##,
    );
    let of = |topic| -> Vec<String> {
        points(&templates, &message(topic, "")).unwrap().into_iter().map(|p| p.measurement).collect()
    };
    assert_eq!(of("a/b"), ["x", "y", "z", "w"]);
    assert_eq!(of("a/b/c"), ["x", "y"]);
    assert_eq!(of("b"), Vec::<String>::new());
}

#[test]
fn every_fault_has_its_place_and_a_remedy() {
    let fields = |text: &str| faults(text, Shape::Fields);
    for (text, said) in [
        ("{", "invalid JSON"),
        ("[]", "expected an object"),
        ("{}", "no template"),
        (r#"{"a/#/b": {"measurement": "m", "fields": {"v": 1}}}"#, "no topic filter"),
        (r#"{"t": {"fields": {"v": 1}}}"#, "no `measurement`"),
        (r#"{"t": {"measurement": "m"}}"#, "no `fields`"),
        (r#"{"t": {"measurement": "m", "fields": {}}}"#, "needs a field"),
        (r#"{"t": {"mesurement": "m", "fields": {"v": 1}}}"#, "did you mean `measurement`?"),
        (r#"{"t": {"measurement": "m", "fields": {"v": "$clientId"}}}"#, "did you mean `$clientid`?"),
        (r#"{"t": {"measurement": "m", "fields": {"v": "$1"}}}"#, "belongs into a path"),
        (r#"{"t": {"measurement": "m", "fields": {"v": ["$topic", "a"]}}}"#, "begins with `$payload`"),
        (r#"{"t": {"measurement": "m", "fields": {"v": ["$payload", 1]}}}"#, "the first is $1"),
        (r#"{"t": {"measurement": "m", "fields": {"v": null}}}"#, "found null"),
        (r#"{"t": {"measurement": "m", "fields": {"time": 1}}}"#, "the point's own time"),
        (r#"{"t": {"measurement": "m", "fields": {"v": 1, "v": 2}}}"#, "given twice"),
        (r#"{"t": {"measurement": "m", "fields": {"v": 1}, "timestamp": 5}}"#, "no time of a message"),
        (r#"{"t": {"measurement": "m", "fields": {"v": 1}, "timestamp_unit": "d"}}"#, "one of ns, us"),
    ] {
        let report = fields(text);
        assert!(report.contains(said), "{text}: {report}");
        assert!(report.starts_with("t.tmpl:1:"), "{report}");
    }
    let value = faults(r#"{"t": {"measurement": "m", "value": 1}}"#, Shape::Value);
    assert!(value.contains("without a tag") && value.contains("$clientid"), "{value}");
    let both = fields("{\n  \"t\": {\"measurement\": \"$x\",\n  \"fields\": {\"v\": \"$y\"}}}");
    assert!(both.contains("t.tmpl:2:24") && both.contains("t.tmpl:3:19"), "{both}");
}

#[test]
fn a_template_of_a_statement_says_what_stands_for_each_parameter() {
    let templates = parse_statements(Path::new("t.tmpl"), include_str!("fixtures/templates/timescale.tmpl")).unwrap();
    let rows = |topic: &str, payload: &str| {
        let message = message(topic, payload);
        let facts =
            Facts { message: &message, msgid: MsgId::new(TIME_US, 1, Lsn(7)), time_us: TIME_US, unit: Unit::Ms };
        let found: Vec<_> = templates.matching(topic).map(|t| (t.name.clone(), t.rows(&facts))).collect();
        assert_eq!(found.len(), 1, "{topic}");
        found.into_iter().next().unwrap()
    };
    let (name, two) =
        rows("sensor_data", r#"{"data": [{"location": "a", "temperature": 1}, {"location": "b", "humidity": null}]}"#);
    let value = |value: Value| Parameter::Value(value);
    assert_eq!(name, "insert_sensor_data");
    assert_eq!(
        two,
        Ok(vec![
            vec![value(text("a")), value(number("1")), Parameter::Null],
            vec![value(text("b")), Parameter::Null, Parameter::Null],
        ])
    );
    assert_eq!(rows("easy_data", "anything").1, Ok(vec![vec![Parameter::Payload]]));
    assert_eq!(rows("sensor_data2/x/y", "{}").1, Ok(vec![vec![Parameter::Null; 3]]));
    assert_eq!(rows("sensor_data", r#"{"data": []}"#).1, Ok(vec![]));
    let lengths = rows("sensor_data", r#"{"data": [{"location": ["a"]}]}"#);
    assert_eq!(lengths.1.unwrap()[0][0], value(Value::Document(r#"["a"]"#.into())));
    assert!(matches!(rows("sensor_data2/1", "no JSON").1, Err(TemplateError::NotJson(..))));
    let many = format!(r#"{{"data": [{}]}}"#, vec!["{}"; 10_001].join(","));
    assert_eq!(rows("sensor_data", &many).1, Err(TemplateError::TooMuch));
}

#[test]
fn every_fault_of_a_statement_s_template_has_its_place_and_a_remedy() {
    let of = |template: &str| {
        let file = format!("{{\"t\": [{template}]}}");
        parse_statements(Path::new("t.tmpl"), &file).map(|_| ()).map_err(|faults| faults.to_string())
    };
    let good = r#"{"name": "a", "sql": "insert into t values ($1, '$2', $1) -- $3", "param_keys": ["$id"], "timestamp_unit": "s"}"#;
    assert_eq!(of(good), Ok(()));
    for (template, said) in [
        (r#"5"#, "expected a template's object"),
        (r#"{"sql": "select 1", "param_keys": []}"#, "no `name`"),
        (r#"{"name": "", "sql": "select 1", "param_keys": []}"#, "expected the template's name"),
        (r#"{"name": "a", "param_keys": []}"#, "no `sql`"),
        (r#"{"name": "a", "sql": 1, "param_keys": []}"#, "expected a statement as a text"),
        (r#"{"name": "a", "sql": "select 1"}"#, "no `param_keys`"),
        (r#"{"name": "a", "sql": "select $1", "param_keys": "$id"}"#, "its first element is what `$1` stands for"),
        (r#"{"name": "a", "sql": "select 1", "param_key": [], "param_keys": []}"#, "did you mean `param_keys`?"),
        (r#"{"name": "a", "sql": "select $1, $2", "param_keys": ["$id"]}"#, "`param_keys` has 1 of them"),
        (r#"{"name": "a", "sql": "select $0", "param_keys": []}"#, "count from `$1`"),
        (
            r#"{"name": "a", "sql": "select $1", "param_keys": ["$id", ["$payload", "x"]]}"#,
            "$payload.x is not used in `sql`",
        ),
        (r#"{"name": "a", "sql": "select ${topic}", "param_keys": []}"#, "`$1`, `$2`"),
        (r#"{"name": "a", "sql": "select 1; select 2", "param_keys": []}"#, "a second statement"),
        (r#"{"name": "a", "sql": "commit", "param_keys": []}"#, "`COMMIT` can't be used"),
        (r#"{"name": "a", "sql": "select $1", "param_keys": ["$clientId"]}"#, "did you mean `$clientid`?"),
        (&format!("{good}, {good}"), "two templates have the name `a`"),
    ] {
        let report = of(template).unwrap_err();
        assert!(report.contains(said), "{template}: {report}");
        assert!(report.starts_with("t.tmpl:1:"), "{report}");
    }
    let place = of(r#"{"name": "a", "sql": "select $1, $2", "param_keys": ["$id"]}"#).unwrap_err();
    assert!(place.starts_with("t.tmpl:1:41: "), "{place}");
}

#[test]
fn times_of_a_coarse_unit_are_each_series_own_and_the_same_again() {
    let slots = Slots::new(Unit::Ms, SameTime::Bump);
    let place = |slots: &Slots, series, lsn, us| slots.place(series, lsn, us, 0).map(|p| (p.time, p.moved));
    assert_eq!(place(&slots, 1, 1, 5_000), Ok((5, false)));
    assert_eq!(place(&slots, 1, 2, 5_001), Ok((6, true)));
    assert_eq!(place(&slots, 1, 3, 5_002), Ok((7, true)));
    assert_eq!(place(&slots, 2, 4, 5_003), Ok((5, false)));
    assert_eq!(place(&slots, 1, 5, 6_000), Ok((8, true)));
    assert_eq!(place(&slots, 1, 5, 6_000), Ok((8, true)), "the same record again");
    assert_eq!(place(&slots, 1, 6, 20_000), Ok((20, false)));
    let refusing = Slots::new(Unit::Ms, SameTime::DeadLetter);
    assert_eq!(place(&refusing, 1, 1, 5_000), Ok((5, false)));
    assert!(place(&refusing, 1, 2, 5_001).is_err());
    assert_eq!(place(&refusing, 1, 3, 6_000), Ok((6, false)));
    // Finest: each record has a microsecond, and 1,000 points in it.
    let exact = Slots::new(Unit::Ns, SameTime::DeadLetter);
    assert_eq!(exact.place(1, 1, 5, 999).map(|p| p.time), Ok(5_999));
    assert!(exact.place(1, 1, 5, 1_000).is_err());
    assert!(!exact.depends_on_the_past() && slots.depends_on_the_past());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value as Json;
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        (-1e9..1e9f64).prop_map(Json::from),
        "[ -~ä]{0,6}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

fn path() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop_oneof!["[abc]", Just("$0".to_owned()), "\\$[1-3]"], 0..5)
}

/// Everything that a path stands for, told a second time.
fn expected(json: &serde_json::Value, path: &[String]) -> Result<(bool, Vec<Option<serde_json::Value>>), ()> {
    let Some((step, rest)) = path.split_first() else { return Ok((false, vec![Some(json.clone())])) };
    let none = Ok((false, vec![None]));
    match step.strip_prefix('$') {
        Some("0") => match json {
            serde_json::Value::Null => none,
            serde_json::Value::Array(items) => {
                let mut all = Vec::new();
                for item in items {
                    all.extend(expected(item, rest)?.1);
                }
                Ok((true, all))
            }
            _ => Err(()),
        },
        Some(n) => match json.as_array().and_then(|items| items.get(n.parse::<usize>().unwrap() - 1)) {
            Some(item) => expected(item, rest),
            None => none,
        },
        None => json.get(step).map_or(none, |value| expected(value, rest)),
    }
}

proptest! {
    #[test]
    fn a_path_finds_what_following_it_by_hand_finds(json in json(), path in path()) {
        let mut steps = vec!["$payload".to_owned()];
        steps.extend(path.clone());
        // A second field is always there, so that rows without a value are rows all the same.
        let template = serde_json::json!({"#": {"measurement": "m", "fields": {"v": steps, "w": 1}}});
        let templates = read(&template.to_string());
        let message = message("t", &json.to_string());
        match (points(&templates, &message), expected(&json, &path)) {
            (Err(_), Err(())) => {}
            (Ok(points), Ok((_, rows))) => {
                prop_assert_eq!(points.len(), rows.len());
                for (point, row) in points.iter().zip(rows) {
                    let found = point.fields.iter().find(|(name, _)| &**name == "v").map(|(_, value)| value.text());
                    // The whole payload is its own text, whatever JSON it is.
                    let wanted = row.filter(|v| !v.is_null()).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
                    prop_assert_eq!(found, wanted);
                }
            }
            (got, wanted) => prop_assert!(false, "{:?} {:?}", got, wanted),
        }
    }

    #[test]
    fn no_two_points_of_a_series_have_one_time_and_a_second_reading_gives_the_same(
        gaps in prop::collection::vec((1u64..900, 0u64..3, 1u64..4), 1..200),
        from in 0usize..200,
    ) {
        let slots = Slots::new(Unit::Ms, SameTime::Bump);
        let mut at = 1_000_000;
        let records: Vec<(u64, u64, u64, u64)> = gaps.iter().zip(1..).map(|((gap, series, count), lsn)| {
            at += gap;
            (lsn, at, *series, *count)
        }).collect();
        let read = |slots: &Slots, records: &[(u64, u64, u64, u64)]| -> Vec<(u64, u64, u64)> {
            records.iter().flat_map(|(lsn, at, series, count)| {
                (0..*count).map(|k| (*lsn, *series, slots.place(*series, *lsn, *at, k).unwrap().time)).collect::<Vec<_>>()
            }).collect()
        };
        let all = read(&slots, &records);
        let mut times: Vec<(u64, u64)> = all.iter().map(|(_, series, time)| (*series, *time)).collect();
        times.sort_unstable();
        let count = times.len();
        times.dedup();
        prop_assert_eq!(times.len(), count);
        // Killed anywhere, and begun again with what came before.
        let from = from.min(records.len());
        slots.forget();
        let _ = read(&slots, &records[..from]);
        let rest = read(&slots, &records[from..]);
        let first = records.get(from).map_or(u64::MAX, |record| record.0);
        prop_assert_eq!(rest, all.into_iter().filter(|(lsn, _, _)| *lsn >= first).collect::<Vec<_>>());
    }
}
