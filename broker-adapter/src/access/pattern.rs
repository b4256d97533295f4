//! Topic filters of rules, with `%c` (client id) and `%u` (verified user name) in them.
//!
//! A name stands for a part of one level and never for more: a rule that allows does not apply to a client whose name is empty or
//! contains `+`, `#`, `/` or U+0000, or begins with `$` where the topic begins with the name. A rule that denies takes the level for
//! any then. So whoever chooses his own name gains nothing by it.

use std::borrow::Cow;

use forebay_engine::topic::{TopicError, check_filter};

use super::Identity;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Client,
    User,
}

/// A filter of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pieces: Vec<Piece>,
    /// The filter where it has no names; else the filter with `+` for each level that has.
    widest: String,
    has_names: bool,
}

impl Pattern {
    /// Reads a filter. `%%` is a `%`; any other `%` stands for itself.
    ///
    /// # Errors
    /// It is no topic filter.
    pub(crate) fn parse(text: &str) -> Result<Pattern, TopicError> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (before, from) = rest.split_at(at);
            plain.push_str(before);
            let named = match from.as_bytes().get(1) {
                Some(b'c') => Some(Piece::Client),
                Some(b'u') => Some(Piece::User),
                Some(b'%') => None,
                _ => {
                    plain.push('%');
                    rest = from.get(1..).unwrap_or_default();
                    continue;
                }
            };
            match named {
                Some(piece) => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(piece);
                }
                None => plain.push('%'),
            }
            rest = from.get(2..).unwrap_or_default();
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        let mut pattern =
            Pattern { has_names: !pieces.iter().all(|p| matches!(p, Piece::Text(_))), pieces, widest: String::new() };
        // Any name that is taken leaves a filter valid or invalid as this one does.
        let sample = pattern.with("n", "n");
        check_filter(&sample)?;
        pattern.widest = if pattern.has_names { pattern.widened() } else { sample };
        Ok(pattern)
    }

    fn with(&self, client: &str, user: &str) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            out.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Client => client,
                Piece::User => user,
            });
        }
        out
    }

    /// The filter with `+` for each level that has a name in it. U+0000 can't be in a filter, so it marks them.
    fn widened(&self) -> String {
        let marked = self.with("\0", "\0");
        let levels: Vec<&str> = marked.split('/').map(|level| if level.contains('\0') { "+" } else { level }).collect();
        levels.join("/")
    }

    /// The filter that it is for this client; `None` where a name in it is missing or not to be taken.
    pub(crate) fn exactly(&self, identity: &Identity) -> Option<Cow<'_, str>> {
        if !self.has_names {
            return Some(Cow::Borrowed(&self.widest));
        }
        let client = self.name(&Piece::Client, Some(&identity.client))?;
        let user = self.name(&Piece::User, identity.user.as_deref())?;
        Some(Cow::Owned(self.with(client, user)))
    }

    /// The name for a piece where it may be taken; any where there is no such piece.
    fn name<'n>(&self, piece: &Piece, name: Option<&'n str>) -> Option<&'n str> {
        if !self.pieces.contains(piece) {
            return Some("");
        }
        let begins_topic = self.pieces.first() == Some(piece);
        name.filter(|name| is_plain(name) && !(begins_topic && name.starts_with('$')))
    }

    /// The filter that it is for this client; with any level in place of one that has a name which is missing or not to be taken.
    pub(crate) fn at_least(&self, identity: &Identity) -> Cow<'_, str> {
        self.exactly(identity).unwrap_or(Cow::Borrowed(&self.widest))
    }
}

/// Whether a name can be a part of a level and nothing else.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['+', '#', '/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_engine::topic::matches;
    use proptest::prelude::*;

    fn identity(client: &str, user: Option<&str>) -> Identity {
        Identity { client: client.into(), user: user.map(Into::into) }
    }

    #[test]
    fn names_are_put_in_and_odd_ones_are_not() {
        let exactly = |pattern: &str, client: &str, user: Option<&str>| {
            Pattern::parse(pattern).unwrap().exactly(&identity(client, user)).map(Cow::into_owned)
        };
        assert_eq!(exactly("d/%c/%u-x/#", "c1", Some("u1")).as_deref(), Some("d/c1/u1-x/#"));
        assert_eq!(exactly("d/100%/%%c", "c1", None).as_deref(), Some("d/100%/%c"));
        assert_eq!(exactly("a/%u", "c", None), None, "an anonymous client has no user name");
        assert_eq!(exactly("a/%c", "%u", Some("x")).as_deref(), Some("a/%u"), "a name is not read again");
        for odd in ["", "+", "#", "a/b", "a+", "#a", "\0"] {
            assert_eq!(exactly("a/%c", odd, None), None, "{odd:?}");
            assert_eq!(exactly("a/x%c", odd, None), None, "{odd:?}");
            assert_eq!(exactly("a/b", odd, None).as_deref(), Some("a/b"));
        }
        assert_eq!(exactly("%c/#", "$SYS", None), None);
        assert_eq!(exactly("%c%u/#", "$S", Some("YS")), None);
        assert_eq!(exactly("a/%c", "$SYS", None).as_deref(), Some("a/$SYS"));
        assert_eq!(Pattern::parse("a/x%c/#").unwrap().at_least(&identity("a/b", None)), "a/+/#");
        for bad in ["", "a/#/b", "a/%c#", "a/+%u", "#%c"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    /// Level by level, with the names as they are.
    fn oracle(pattern: &str, client: &str, user: &str, topic: &str) -> bool {
        let put = |level: &str| level.replace("%c", "\u{1}").replace("%u", user).replace('\u{1}', client);
        let (mut levels, mut of_topic) = (pattern.split('/'), topic.split('/'));
        if topic.starts_with('$') && !pattern.starts_with('$') {
            return false;
        }
        loop {
            match (levels.next(), of_topic.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(level), Some(of_topic)) if put(level) == of_topic => {}
                _ => return false,
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_the_names_are_no_more_is_matched_than_level_by_level(
            pattern in "(a|\\+|%c|%u|x%c|%u%c)(/(a|b|\\+|%c|%u|b%c)){0,3}(/#)?",
            client in "[ab+#/$x]{0,4}", user in "[ab+#/$]{0,4}", topic in "[ab$x](/?[ab$x]){0,5}",
        ) {
            let parsed = Pattern::parse(&pattern).unwrap();
            let who = identity(&client, Some(&user));
            let expected = oracle(&pattern, &client, &user, &topic);
            if let Some(filter) = parsed.exactly(&who) {
                check_filter(&filter).unwrap();
                prop_assert_eq!(filter.split('/').count(), pattern.split('/').count());
                prop_assert_eq!(matches(&filter, &topic), expected, "{} is {}", pattern, filter);
            }
            if expected {
                prop_assert!(matches(&parsed.at_least(&who), &topic), "a rule that denies must not miss {}", topic);
            }
        }
    }
}
