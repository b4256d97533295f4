//! Topic names and topic filters: validation, matching, and whether one filter lies inside another.

/// Longest topic name or filter in bytes (MQTT's string limit).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Most levels of a topic name or filter. MQTT sets no limit; a tree of topics needs one.
pub const TOPIC_LEVELS_MAX: usize = 256;

/// Why a topic name or filter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Zero bytes long.
    #[error("it is empty")]
    Empty,
    /// Longer than [`TOPIC_BYTES_MAX`].
    #[error("it is longer than 65535 bytes")]
    TooLong,
    /// More than [`TOPIC_LEVELS_MAX`] levels.
    #[error("it has more than 256 levels")]
    TooManyLevels,
    /// U+0000 is not allowed.
    #[error("it contains the character U+0000")]
    Null,
    /// A wildcard in a topic name.
    #[error("a topic name can't contain the wildcards + and #")]
    WildcardInName,
    /// `+` or `#` beside other characters in a level.
    #[error("+ and # must stand alone in their level")]
    WildcardNotAlone,
    /// `#` before the last level.
    #[error("# must be the last level")]
    HashNotLast,
    /// A shared subscription without a group's name, with a wildcard in it, or without a filter behind it.
    #[error("a shared subscription is $share/<name>/<filter>, with a name that is not empty and has no + or #")]
    ShareName,
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        Err(TopicError::Empty)
    } else if text.len() > TOPIC_BYTES_MAX {
        Err(TopicError::TooLong)
    } else if text.as_bytes().contains(&0) {
        Err(TopicError::Null)
    } else if text.bytes().filter(|b| *b == b'/').count() >= TOPIC_LEVELS_MAX {
        Err(TopicError::TooManyLevels)
    } else {
        Ok(())
    }
}

/// Checks a topic name (what is published to).
///
/// # Errors
/// Says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    check_text(name)?;
    if name.bytes().any(|b| b == b'+' || b == b'#') { Err(TopicError::WildcardInName) } else { Ok(()) }
}

/// Checks a topic filter (what is subscribed to), without `$share/…`.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_text(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        match level {
            "#" if levels.peek().is_some() => return Err(TopicError::HashNotLast),
            "#" | "+" => {}
            _ if level.contains(['+', '#']) => return Err(TopicError::WildcardNotAlone),
            _ => {}
        }
    }
    Ok(())
}

/// The group's name and the topic filter of a shared subscription, `$share/<name>/<filter>`; `None` for any other filter. Neither is
/// checked here.
#[must_use]
pub fn shared(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}

/// The topic filter of a subscription, shared or not: what topics it matches.
#[must_use]
pub fn unshared(filter: &str) -> &str {
    shared(filter).map_or(filter, |(_, inner)| inner)
}

/// Checks what is subscribed to: a topic filter, or a shared subscription `$share/<name>/<filter>`.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_subscription(filter: &str) -> Result<(), TopicError> {
    let Some(rest) = filter.strip_prefix("$share/") else { return check_filter(filter) };
    let (name, inner) = rest.split_once('/').ok_or(TopicError::ShareName)?;
    if name.is_empty() || name.contains(['+', '#']) {
        Err(TopicError::ShareName)
    } else if filter.len() > TOPIC_BYTES_MAX {
        Err(TopicError::TooLong)
    } else if name.contains('\0') {
        Err(TopicError::Null)
    } else {
        check_filter(inner)
    }
}

/// True when the filter has a wildcard.
#[must_use]
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|b| b == b'+' || b == b'#')
}

/// True when `name` matches `filter` (MQTT 4.7): `$…` names are not matched by a leading wildcard.
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut levels = name.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// True when every name that `inner` matches is matched by `outer` too: `inner` lies inside `outer`.
#[must_use]
pub fn covers(outer: &str, inner: &str) -> bool {
    if inner.starts_with('$') && (outer.starts_with('+') || outer.starts_with('#')) {
        return false;
    }
    let mut inner_levels = inner.split('/');
    for part in outer.split('/') {
        match (part, inner_levels.next()) {
            ("#", _) => return true,
            (_, Some("#") | None) => return false,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    inner_levels.next().is_none()
}

/// True when some name is matched by both filters.
#[must_use]
pub fn overlaps(a: &str, b: &str) -> bool {
    let dollar = |f: &str| f.starts_with('$');
    let wild = |f: &str| f.starts_with('+') || f.starts_with('#');
    if dollar(a) && wild(b) || dollar(b) && wild(a) {
        return false;
    }
    let (mut left, mut right) = (a.split('/'), b.split('/'));
    loop {
        match (left.next(), right.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn matching_follows_the_standard_s_examples() {
        for (filter, name, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor", "$SYS/monitor", false),
            ("$SYS/#", "$SYS/x", true),
            ("état/+", "état/1", true),
        ] {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }

    #[test]
    fn invalid_filters_and_names_are_refused() {
        for filter in ["", "a/#/b", "a#", "a/+b", "a\0b", "##", "a/b#"] {
            assert!(check_filter(filter).is_err(), "{filter}");
        }
        for filter in ["#", "+", "/", "a//b", "+/#", "$SYS/#", "/#"] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        assert_eq!(check_name("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(check_name("a/b"), Ok(()));
    }

    #[test]
    fn a_shared_subscription_has_a_name_and_a_filter() {
        for filter in ["$share/g/a/+", "$share/g/#", "$share/g//", "$share/g/$SYS/x", "$share", "$shared/a", "a"] {
            assert_eq!(check_subscription(filter), Ok(()), "{filter}");
        }
        for (filter, error) in [
            ("$share/", TopicError::ShareName),
            ("$share/g", TopicError::ShareName),
            ("$share//a", TopicError::ShareName),
            ("$share/g+/a", TopicError::ShareName),
            ("$share/#/a", TopicError::ShareName),
            ("$share/g/", TopicError::Empty),
            ("$share/g/a#", TopicError::WildcardNotAlone),
            ("$share/g\0/a", TopicError::Null),
            ("a#", TopicError::WildcardNotAlone),
        ] {
            assert_eq!(check_subscription(filter), Err(error), "{filter}");
        }
        assert_eq!((shared("$share/g/a/b"), shared("$shared/g/a")), (Some(("g", "a/b")), None));
        assert_eq!((unshared("$share/g/a/b"), unshared("a/b")), ("a/b", "a/b"));
    }

    #[test]
    fn covering() {
        assert!(covers("queue/#", "queue/a/+"));
        assert!(covers("queue/#", "queue"));
        assert!(covers("queue/#", "queue/#"));
        assert!(!covers("queue/#", "#"));
        assert!(!covers("queue/+", "queue/#"));
        assert!(covers("queue/+", "queue/+"));
        assert!(!covers("#", "$SYS/#"));
    }

    proptest! {
        #[test]
        fn covers_and_overlaps_agree_with_matching(
            outer in "(\\+|a|b)(/(\\+|a|b)){0,3}(/#)?", inner in "(\\+|a|b)(/(\\+|a|b)){0,3}(/#)?",
            name in "(a|b)(/(a|b)){0,4}",
        ) {
            if covers(&outer, &inner) && matches(&inner, &name) {
                prop_assert!(matches(&outer, &name), "{} covers {} but not {}", outer, inner, name);
            }
            if matches(&outer, &name) && matches(&inner, &name) {
                prop_assert!(overlaps(&outer, &inner));
            }
        }
    }
}
