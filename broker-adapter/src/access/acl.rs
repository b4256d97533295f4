//! Rules: who may publish and subscribe where. The first rule that decides counts.
//!
//! ```text
//! # comment
//! allow|deny  publish|subscribe|all  FILTER  [user=NAME] [client=ID] [verified|anonymous]
//! ```
//!
//! A publish is decided by the first rule that concerns the client and whose filter matches the topic. A subscription asks for all
//! topics of its filter: a rule that allows decides it where its filter covers the one that is asked for, a rule that denies where the
//! two have a topic in common. Whoever asks for more than one rule allows is denied.

use std::collections::HashMap;
use std::path::Path;

use bytestring::ByteString;
use forebay_engine::topic::{covers, matches, overlaps};

use super::fault::{AccessError, Fault, Faults, column, text_of};
use super::pattern::Pattern;
use super::users::read;
use super::{Action, Identity};

/// Largest file of rules, bytes.
const ACL_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    publish: bool,
    subscribe: bool,
    pattern: Pattern,
    user: Option<ByteString>,
    client: Option<ByteString>,
    /// Only clients that showed who they are, or only those that did not.
    verified: Option<bool>,
}

/// The rules of a file, in order.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    rules: Vec<Rule>,
    /// Rules of everybody, of a user, of a client, each in order: a file of a rule a device costs a device its own.
    general: Vec<usize>,
    of_user: HashMap<ByteString, Vec<usize>>,
    of_client: HashMap<ByteString, Vec<usize>>,
    default_allow: bool,
}

impl Acl {
    /// Reads the text of a file of rules. What no rule decides is allowed or denied by `default_allow`.
    ///
    /// # Errors
    /// The faults with their places, at most twenty.
    pub fn parse(path: &Path, text: &str, default_allow: bool) -> Result<Acl, Vec<Fault>> {
        let mut faults = Faults::of(path);
        let mut acl = Acl { default_allow, ..Acl::default() };
        for (number, line) in text.lines().enumerate() {
            match rule(line) {
                Ok(None) => {}
                Ok(Some(rule)) => acl.add(rule),
                Err((at, message)) => faults.add(number, column(line, at), message),
            }
        }
        faults.or(acl)
    }

    pub(crate) fn read(path: &Path, default_allow: bool) -> Result<Acl, AccessError> {
        let text = text_of(path, read(path, ACL_BYTES_MAX, "")?).map_err(AccessError::Faults)?;
        Acl::parse(path, &text, default_allow).map_err(AccessError::Faults)
    }

    fn add(&mut self, rule: Rule) {
        let at = self.rules.len();
        match (&rule.user, &rule.client) {
            (Some(user), _) => self.of_user.entry(user.clone()).or_default().push(at),
            (None, Some(client)) => self.of_client.entry(client.clone()).or_default().push(at),
            (None, None) => self.general.push(at),
        }
        self.rules.push(rule);
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a client may publish to a topic name, or subscribe to a topic filter.
    #[must_use]
    pub fn may(&self, identity: &Identity, action: Action, topic: &str) -> bool {
        self.concerning(identity).find_map(|rule| rule.decides(identity, action, topic)).unwrap_or(self.default_allow)
    }

    /// The rules that concern a client, in order.
    fn concerning<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a Rule> {
        let of_user = identity.user.as_ref().and_then(|user| self.of_user.get(user));
        let mut lists = [
            self.general.as_slice(),
            of_user.map_or(&[], Vec::as_slice),
            self.of_client.get(&identity.client).map_or(&[], Vec::as_slice),
        ];
        std::iter::from_fn(move || {
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())?;
            let (first, rest) = next.split_first()?;
            *next = rest;
            self.rules.get(*first)
        })
        .filter(|rule| rule.concerns(identity))
    }
}

impl Rule {
    fn concerns(&self, identity: &Identity) -> bool {
        self.user.as_ref().is_none_or(|user| identity.user.as_ref() == Some(user))
            && self.client.as_ref().is_none_or(|client| identity.client == *client)
            && self.verified.is_none_or(|verified| identity.user.is_some() == verified)
    }

    /// What it says of a topic or filter, if anything.
    fn decides(&self, identity: &Identity, action: Action, topic: &str) -> Option<bool> {
        let (concerned, applies): (bool, fn(&str, &str) -> bool) = match action {
            Action::Publish => (self.publish, matches),
            Action::Subscribe => (self.subscribe, if self.allow { covers } else { overlaps }),
        };
        if !concerned {
            return None;
        }
        let filter = if self.allow { self.pattern.exactly(identity)? } else { self.pattern.at_least(identity) };
        applies(&filter, topic).then_some(self.allow)
    }
}

/// A place in a line, in bytes, and what is wrong there.
type Wrong = (usize, String);

/// The rule of a line; `None` where it has none.
fn rule(line: &str) -> Result<Option<Rule>, Wrong> {
    if line.trim_start().starts_with('#') {
        return Ok(None);
    }
    let mut words = words(line)?.into_iter();
    let Some((at, verdict)) = words.next() else { return Ok(None) };
    let allow = match verdict.as_str() {
        "allow" => true,
        "deny" => false,
        other => return Err((at, format!("a rule begins with `allow` or `deny`, not `{other}`"))),
    };
    let end = line.trim_end().len();
    let missing = |what: &str| {
        (
            end,
            format!(
                "{what} is missing: allow|deny publish|subscribe|all FILTER [user=NAME] [client=ID] [verified|anonymous]"
            ),
        )
    };
    let (at, action) = words.next().ok_or_else(|| missing("`publish`, `subscribe` or `all`"))?;
    let (publish, subscribe) = match action.as_str() {
        "publish" => (true, false),
        "subscribe" => (false, true),
        "all" => (true, true),
        other => return Err((at, format!("here stands `publish`, `subscribe` or `all`, not `{other}`"))),
    };
    let (at, filter) = words.next().ok_or_else(|| missing("the topic filter"))?;
    let pattern = Pattern::parse(&filter).map_err(|error| (at, format!("topic filter `{filter}`: {error}")))?;
    let mut rule = Rule { allow, publish, subscribe, pattern, user: None, client: None, verified: None };
    for (at, word) in words {
        let (key, value) = word.split_once('=').map_or((word.as_str(), None), |(key, value)| (key, Some(value)));
        let twice = match (key, value) {
            ("user" | "client", Some("")) => return Err((at, format!("`{key}=` needs a name"))),
            ("user", Some(name)) => rule.user.replace(name.into()).is_some(),
            ("client", Some(id)) => rule.client.replace(id.into()).is_some(),
            ("verified", None) => rule.verified.replace(true).is_some(),
            ("anonymous", None) => rule.verified.replace(false).is_some(),
            _ => {
                return Err((
                    at,
                    format!("here may stand user=NAME, client=ID, `verified` or `anonymous`, not `{word}`"),
                ));
            }
        };
        if twice {
            return Err((at, format!("`{key}` says again whom the rule concerns")));
        }
        if rule.verified == Some(false) && rule.user.is_some() {
            return Err((at, "an anonymous client has no user name: this rule would concern nobody".to_owned()));
        }
    }
    Ok(Some(rule))
}

/// The words of a line with their places. Parts in double quotes may hold white space, `\"` and `\\`.
fn words(line: &str) -> Result<Vec<(usize, String)>, Wrong> {
    let mut out = Vec::new();
    let mut chars = line.char_indices().peekable();
    while let Some((start, first)) = chars.next() {
        if first.is_whitespace() {
            continue;
        }
        let (mut word, mut next) = (String::new(), Some((start, first)));
        while let Some((at, c)) = next {
            match c {
                '"' => quoted(&mut chars, at, &mut word)?,
                c if c.is_whitespace() => break,
                c => word.push(c),
            }
            next = chars.next();
        }
        out.push((start, word));
    }
    Ok(out)
}

fn quoted(
    chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>,
    open: usize,
    word: &mut String,
) -> Result<(), Wrong> {
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok(()),
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => word.push(c),
                _ => return Err((at, "in quotes a backslash stands before `\"` or another backslash".to_owned())),
            },
            c => word.push(c),
        }
    }
    Err((open, "this quote is not closed".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{Publish, Subscribe};
    use proptest::prelude::*;

    fn acl(text: &str) -> Acl {
        Acl::parse(Path::new("acl"), text, false).unwrap()
    }

    fn who(client: &str, user: Option<&str>) -> Identity {
        Identity { client: client.into(), user: user.map(Into::into) }
    }

    #[test]
    fn the_first_rule_that_decides_counts_whoever_it_names() {
        let acl = acl("
            # readers of everything but secrets
            allow all     #                  user=admin
            deny  all     secret/#
            allow publish devices/%c/up
            allow subscribe devices/%c/#     verified
            allow publish \"open space/x\"   anonymous
            allow subscribe a/b              client=c9
            deny  subscribe a/#
            allow subscribe a/+
        ");
        let (admin, device, nobody) = (who("x", Some("admin")), who("d1", Some("dev")), who("c9", None));
        assert!(acl.may(&admin, Publish, "secret/1") && acl.may(&admin, Subscribe, "#"));
        assert!(!acl.may(&admin, Subscribe, "$SYS/#"), "a leading # never means $ topics");
        assert!(acl.may(&device, Publish, "devices/d1/up") && !acl.may(&device, Publish, "devices/d2/up"));
        assert!(acl.may(&device, Subscribe, "devices/d1/a/+") && !acl.may(&device, Subscribe, "devices/+/a"));
        assert!(!acl.may(&device, Subscribe, "devices/#") && !acl.may(&device, Subscribe, "#"));
        assert!(!acl.may(&device, Publish, "secret/1"));
        assert!(!acl.may(&nobody, Subscribe, "devices/c9/x") && acl.may(&nobody, Publish, "open space/x"));
        assert!(!acl.may(&device, Publish, "open space/x"));
        assert!(
            acl.may(&nobody, Subscribe, "a/b") && !acl.may(&device, Subscribe, "a/b"),
            "denied before it is allowed"
        );
        assert!(!acl.may(&nobody, Subscribe, "a/+"), "the rule that denies has a topic in common with it");
    }

    #[test]
    fn faults_have_line_and_column() {
        let text = "alow all a\nallow al a\nallow all\n\n  deny publish a/#/b\nallow all é x=1\nallow all \"a\nallow all a user=u anonymous\n\
                    allow all a user=a user=b\nallow all a user=\nallow all \"\\n\"";
        let faults = Acl::parse(Path::new("dir/acl"), text, true).unwrap_err();
        let places: Vec<_> = faults.iter().map(|fault| (fault.line, fault.column)).collect();
        assert_eq!(places, [(1, 1), (2, 7), (3, 10), (5, 16), (6, 13), (7, 11), (8, 20), (9, 20), (10, 13), (11, 12)]);
        assert!(faults[0].to_string().starts_with("dir/acl:1:1: a rule begins with `allow` or `deny`, not `alow`"));
    }

    #[test]
    fn the_example_of_the_documentation_is_taken() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ACCESS.md")).unwrap();
        let example = page.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
        let acl = acl(example);
        assert_eq!(acl.len(), 6);
        assert!(acl.may(&who("c", Some("u")), Publish, "users/u/x") && !acl.may(&who("c", Some("u")), Subscribe, "#"));
    }

    fn rules() -> impl Strategy<Value = String> {
        let filter = "(a|\\+|%c|%u)(/(a|b|\\+|%c)){0,2}(/#)?|#";
        let who = prop_oneof![Just(""), Just("user=a"), Just("client=b"), Just("verified"), Just("anonymous")];
        let rule = (any::<bool>(), prop_oneof![Just("publish"), Just("subscribe"), Just("all")], filter, who).prop_map(
            |(allow, action, filter, who)| {
                format!("{} {action} {filter} {who}\n", if allow { "allow" } else { "deny" })
            },
        );
        proptest::collection::vec(rule, 0..6).prop_map(|rules| rules.concat())
    }

    proptest! {
        #[test]
        fn a_filter_that_is_granted_holds_no_topic_that_alone_would_be_denied(
            text in rules(), default in any::<bool>(), filter in "(a|b|\\+)(/(a|b|\\+)){0,3}(/#)?|#",
            topic in "[ab$](/[ab]){0,3}", client in "[ab+#/]{1,2}", user in proptest::option::of("[ab+#/]{1,2}"),
        ) {
            let acl = Acl::parse(Path::new("acl"), &text, default).unwrap();
            let who = who(&client, user.as_deref());
            if acl.may(&who, Subscribe, &filter) && matches(&filter, &topic) {
                prop_assert!(acl.may(&who, Subscribe, &topic), "{}", text);
            }
        }

        #[test]
        fn rules_sorted_by_whom_they_concern_decide_as_in_order(
            text in rules(), topic in "[ab](/[ab]){0,3}", client in "[ab]", user in proptest::option::of("[ab]"),
        ) {
            let acl = Acl::parse(Path::new("acl"), &text, false).unwrap();
            let who = who(&client, user.as_deref());
            let in_order = acl.rules.iter().filter(|rule| rule.concerns(&who));
            let expected = in_order.clone().find_map(|rule| rule.decides(&who, Publish, &topic)).unwrap_or(false);
            prop_assert_eq!(acl.may(&who, Publish, &topic), expected);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,40}(\n\\PC{0,20}){0,4}") {
            let _ = Acl::parse(Path::new("acl"), &text, false);
        }
    }
}
