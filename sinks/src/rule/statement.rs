//! Statements that users write: split at their `${…}` parameters and checked for what can't work.

use super::names::{StatementKind, suggestion};
use super::{Database, Hook, Param, Part, Statement};

/// What is wrong with a statement: bytes `start..end` of its text are meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StatementFault {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Statement {
    /// Splits a statement for a hook of a database at its parameters.
    pub(super) fn parse(source: &str, database: Database, hook: Hook) -> Result<Statement, Vec<StatementFault>> {
        let mut faults = Vec::new();
        let mut parts: Vec<Part> = Vec::new();
        let mut at = 0;
        let mut rest = source;
        while let Some(open) = rest.find("${") {
            let (text, tail) = rest.split_at_checked(open).unwrap_or((rest, ""));
            push_text(&mut parts, text);
            at += open;
            let Some(close) = tail.find('}') else {
                faults.push(fault(at, source.len(), "the parameter is not closed".into(), Some("expected `}`".into())));
                rest = "";
                break;
            };
            let name = tail.get(2..close).unwrap_or_default();
            match check_param(name, database, hook) {
                Ok(param) => parts.push(Part::Param(param)),
                Err((message, help)) => faults.push(fault(at, at + close + 1, message, Some(help))),
            }
            at += close + 1;
            rest = tail.get(close + 1..).unwrap_or_default();
        }
        push_text(&mut parts, rest);
        match database.statements() {
            Some(StatementKind::Commands) => check_command(source, &mut faults),
            Some(_) => check_query(source, database, &mut faults),
            None => {}
        }
        if faults.is_empty() { Ok(Statement { source: source.to_owned(), parts }) } else { Err(faults) }
    }

    /// The fields of a Redis command: split at single spaces of the text as written, so that a parameter never becomes
    /// more than (a piece of) the field it stands in. A field is its pieces in order.
    #[must_use]
    pub fn fields(&self) -> Vec<Vec<Part>> {
        let mut fields = vec![Vec::new()];
        for part in &self.parts {
            match part {
                Part::Text(text) => {
                    for (i, piece) in text.split(' ').enumerate() {
                        if i > 0 {
                            fields.push(Vec::new());
                        }
                        if let (Some(field), false) = (fields.last_mut(), piece.is_empty()) {
                            field.push(Part::Text(piece.to_owned()));
                        }
                    }
                }
                Part::Param(param) => {
                    if let Some(field) = fields.last_mut() {
                        field.push(Part::Param(*param));
                    }
                }
            }
        }
        fields
    }
}

/// What is wrong with the statement of a template, whose parameters are `$1`, `$2`, ….
pub(crate) fn template_faults(source: &str) -> Vec<StatementFault> {
    let mut faults = Vec::new();
    for (at, _) in source.match_indices("${") {
        let end = source.get(at..).and_then(|rest| rest.find('}')).map_or(source.len(), |close| at + close + 1);
        let help = "parameters of a template are `$1`, `$2`, …; `param_keys` says what they stand for".to_owned();
        faults.push(fault(at, end, "`${…}` belongs into rules".to_owned(), Some(help)));
    }
    if faults.is_empty() {
        check_query(source, Database::Timescale, &mut faults);
    }
    faults
}

/// See [`crate::fuzzing::parse_statement`].
pub(crate) fn fuzzed(source: &str, database: Database, hook: Hook) -> Result<Statement, Vec<std::ops::Range<usize>>> {
    Statement::parse(source, database, hook).map_err(|faults| faults.iter().map(|f| f.start..f.end).collect())
}

fn fault(start: usize, end: usize, message: String, help: Option<String>) -> StatementFault {
    StatementFault { start, end, message, help }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

fn check_param(name: &str, database: Database, hook: Hook) -> Result<Param, (String, String)> {
    let available = hook.params(database);
    let names: Vec<&str> = available.iter().map(|param| param.name()).collect();
    match Param::parse(name) {
        Some(param) if available.contains(&param) => Ok(param),
        Some(_) => Err((
            format!("`${{{name}}}` is not known at {hook} of {database}"),
            format!("parameters there: {}", names.join(", ")),
        )),
        None => Err((format!("unknown parameter `${{{name}}}`"), suggestion(name, &names))),
    }
}

/// Redis commands that belong to a connection or a transaction, or wait: a batch is a script, and a script can't run them.
const NOT_IN_A_SCRIPT: [&str; 38] = [
    "ASKING",
    "AUTH",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "CLIENT",
    "CLUSTER",
    "CONFIG",
    "DISCARD",
    "EVAL",
    "EVALSHA",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXEC",
    "FCALL",
    "FCALL_RO",
    "FUNCTION",
    "HELLO",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "QUIT",
    "RESET",
    "SCRIPT",
    "SELECT",
    "SHUTDOWN",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SYNC",
    "UNSUBSCRIBE",
    "WAIT",
    "WATCH",
];

fn check_command(source: &str, faults: &mut Vec<StatementFault>) {
    let name = source.split(' ').next().unwrap_or_default();
    if NOT_IN_A_SCRIPT.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        let message = format!("`{}` can't be used in a rule", name.to_ascii_uppercase());
        let help = "each batch is one script already, together with the sink's position; a command that changes a key can be used";
        faults.push(fault(0, name.len(), message, Some(help.to_owned())));
    }
    let mut at = 0;
    for (i, field) in source.split(' ').enumerate() {
        if field.is_empty() {
            let message = "an empty field".to_owned();
            faults.push(fault(at, at + 1, message, Some("fields are separated by exactly one space".into())));
        } else if i == 0 && field.contains("${") {
            let message = "the command's name can't be a parameter".to_owned();
            faults.push(fault(at, at + field.len(), message, Some("write the command, e.g. `SET`".into())));
        }
        at += field.len() + 1;
    }
}

/// Walks over the text outside of quotation marks.
fn check_query(source: &str, database: Database, faults: &mut Vec<StatementFault>) {
    let mut quote: Option<char> = None;
    let mut quote_at = 0;
    let mut ended = false;
    let mut chars = source.char_indices().peekable();
    // The text with everything between quotation marks blanked out, byte for byte in its place.
    let mut plain = String::with_capacity(source.len());
    while let Some((at, c)) = chars.next() {
        plain.extend(std::iter::repeat_n(' ', at.saturating_sub(plain.len())));
        match quote {
            // MySQL's strings have backslash escapes; the standard's haven't.
            Some(_) if c == '\\' && database == Database::Mysql => {
                chars.next();
            }
            Some(_) if c == '$' && chars.peek().is_some_and(|(_, next)| *next == '{') => {
                let end = source.get(at..).and_then(|rest| rest.find('}')).map_or(source.len(), |close| at + close + 1);
                let message = "a parameter inside quotation marks is not replaced".to_owned();
                faults.push(fault(
                    at,
                    end,
                    message,
                    Some("write it without them: its value is bound, never spliced in".into()),
                ));
            }
            Some(open) => quote = (c != open).then_some(open),
            None if matches!(c, '\'' | '"' | '`') => (quote, quote_at) = (Some(c), at),
            None if ended && !c.is_whitespace() => {
                let message = "a second statement in one text".to_owned();
                faults.push(fault(at, source.len(), message, Some("give each its own entry in the list".into())));
                return;
            }
            None if c == ';' => ended = true,
            None if c.is_ascii() => plain.push(c),
            None => {}
        }
    }
    if quote.is_some() {
        faults.push(fault(quote_at, source.len(), "the quotation mark is not closed".to_owned(), None));
    }
    if source.trim().is_empty() {
        faults.push(fault(0, source.len(), "an empty statement".to_owned(), None));
    }
    plain.extend(std::iter::repeat_n(' ', source.len().saturating_sub(plain.len())));
    check_words(&plain, database, faults);
}

/// Statements that begin or end a transaction.
const TRANSACTION: [&str; 9] =
    ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"];

/// Statements about SQLite's connection or file.
const SQLITE_CONNECTION: [&str; 4] = ["attach", "detach", "pragma", "vacuum"];

/// Statements that commit what came before them in MySQL, or change the connection for all that follow.
const MYSQL_CONNECTION: [&str; 17] = [
    "alter", "analyze", "change", "create", "drop", "flush", "grant", "kill", "load", "lock", "optimize", "rename",
    "reset", "revoke", "set", "truncate", "unlock",
];

/// Statements that change the connection for all that follow in PostgreSQL.
const PGSQL_CONNECTION: [&str; 7] = ["deallocate", "discard", "listen", "reset", "set", "unlisten", "vacuum"];

/// Refuses what would take the transaction out of the sink's hands: rows and position would no longer commit together.
fn check_words(plain: &str, database: Database, faults: &mut Vec<StatementFault>) {
    let words = words(plain);
    let is = |word: Option<&(usize, &str)>, known: &[&str]| {
        word.is_some_and(|(_, word)| known.iter().any(|known| known.eq_ignore_ascii_case(word)))
    };
    let mut refuse = |word: Option<&(usize, &str)>, help: &str| {
        if let Some((at, word)) = word {
            let message = format!("`{}` can't be used in a rule", word.to_ascii_uppercase());
            faults.push(fault(*at, at + word.len(), message, Some(help.to_owned())));
        }
    };
    if database == Database::Cassandra {
        return check_cql(&words, &mut refuse);
    }
    if is(words.first(), &TRANSACTION) {
        refuse(words.first(), "each batch is one transaction already, together with the sink's position");
    }
    let connection: &[&str] = match database {
        Database::Sqlite => &SQLITE_CONNECTION,
        Database::Mysql => &MYSQL_CONNECTION,
        Database::Pgsql | Database::Timescale => &PGSQL_CONNECTION,
        _ => &[],
    };
    if is(words.first(), connection) {
        refuse(words.first(), "the connection and its transaction are the sink's: run it once with another program");
    }
    if database == Database::Sqlite {
        for pair in words.windows(2) {
            if is(pair.first(), &["or"]) && is(pair.get(1), &["rollback"]) {
                refuse(
                    pair.get(1),
                    "it would undo the whole batch: `OR IGNORE` leaves out one row, `OR ABORT` is the default",
                );
            }
        }
    }
}

/// Statements about the session, its batches or the tables of all.
const CQL_SESSION: [&str; 9] = ["alter", "begin", "create", "drop", "grant", "list", "revoke", "truncate", "use"];

/// Refuses what would take the timestamp out of the sink's hands: sent again, a statement could replace a newer row.
fn check_cql(words: &[(usize, &str)], refuse: &mut impl FnMut(Option<&(usize, &str)>, &str)) {
    let is = |word: Option<&(usize, &str)>, known: &str| word.is_some_and(|(_, word)| word.eq_ignore_ascii_case(known));
    if words.first().is_some_and(|(_, first)| CQL_SESSION.iter().any(|word| word.eq_ignore_ascii_case(first))) {
        refuse(words.first(), "the session and its batches are the sink's: run it once with another program");
    }
    for word in words.iter().filter(|word| is(Some(word), "if")) {
        let help = "each statement carries its record's time, which Cassandra does not take together with a condition; without \
                    it a statement can be repeated: a write with an older time never replaces a newer one";
        refuse(Some(word), help);
    }
    let using = words.iter().position(|word| is(Some(word), "using")).unwrap_or(words.len());
    let options = words.iter().skip(using).take_while(|word| !is(Some(word), "set") && !is(Some(word), "where"));
    if let Some(word) = options.into_iter().find(|word| is(Some(word), "timestamp")) {
        refuse(Some(word), "each statement carries its record's time already; `USING TTL` can be used");
    }
}

/// Words with their places; comments are none.
fn words(plain: &str) -> Vec<(usize, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = plain.get(at..).filter(|rest| !rest.is_empty()) {
        at += if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with(is_word) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            found.extend(rest.get(..length).map(|word| (at, word)));
            length
        } else {
            1
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(source: &str, database: Database, hook: Hook) -> Vec<(usize, usize, String)> {
        let found = Statement::parse(source, database, hook).err().unwrap_or_default();
        found.into_iter().map(|f| (f.start, f.end, format!("{}; {}", f.message, f.help.unwrap_or_default()))).collect()
    }

    #[test]
    fn a_command_is_split_at_spaces_before_parameters_are_looked_at() {
        let statement =
            Statement::parse("HSET sub:${clientid}:x ${topic} ${qos}", Database::Redis, Hook::SessionSubscribed)
                .unwrap();
        assert_eq!(
            statement.fields(),
            [
                vec![Part::Text("HSET".into())],
                vec![Part::Text("sub:".into()), Part::Param(Param::ClientId), Part::Text(":x".into())],
                vec![Part::Param(Param::Topic)],
                vec![Part::Param(Param::Qos)],
            ]
        );
    }

    #[test]
    fn fields_are_separated_by_exactly_one_space() {
        for source in ["SET  a b", " SET a b", "SET a b ", ""] {
            let found = faults(source, Database::Redis, Hook::ClientConnected);
            assert!(found.iter().all(|f| f.2.contains("exactly one space")) && found.len() == 1, "{source} {found:?}");
        }
    }

    #[test]
    fn commands_that_a_script_can_t_run_are_refused() {
        let found = faults("eval x 0", Database::Redis, Hook::ClientConnected);
        assert_eq!(found.len(), 1);
        assert!(found[0].2.starts_with("`EVAL` can't be used in a rule"), "{found:?}");
        assert!(faults("PUBLISH a ${clientid}", Database::Redis, Hook::ClientConnected).is_empty());
    }

    #[test]
    fn parameters_are_those_of_the_hook() {
        let found = faults("insert into t values (${clientid}, ${payload})", Database::Mysql, Hook::MessageAcked);
        assert_eq!(
            found,
            [(
                35,
                45,
                "`${payload}` is not known at message.acked of mysql; parameters there: msgid, topic, clientid".into()
            )]
        );
        let found = faults("delete from t where topic = ${topc}", Database::Mysql, Hook::MessageAcked);
        assert_eq!(found, [(28, 35, "unknown parameter `${topc}`; did you mean `topic`?".into())]);
        assert!(faults("RPUSH l ${message}", Database::Redis, Hook::MessagePublish).is_empty());
        assert_eq!(faults("insert into t values (${message})", Database::Pgsql, Hook::MessagePublish).len(), 1);
        assert_eq!(faults("SET a ${clientid", Database::Redis, Hook::ClientConnected).len(), 1);
    }

    #[test]
    fn a_parameter_in_quotation_marks_is_refused() {
        for source in [
            "insert into t values ('${clientid}')",
            "insert into t values ('it''s ${clientid}')",
            "select \"${topic}\"",
        ] {
            assert!(
                faults(source, Database::Pgsql, Hook::SessionSubscribed)[0].2.contains("inside quotation marks"),
                "{source}"
            );
        }
        assert!(
            faults("insert into t values ('$', '{', ${clientid});", Database::Pgsql, Hook::ClientConnected).is_empty()
        );
        assert!(faults(r"insert into t values ('\'', ${clientid})", Database::Mysql, Hook::ClientConnected).is_empty());
    }

    #[test]
    fn one_text_is_one_statement() {
        assert_eq!(faults("delete from a; delete from b", Database::Sqlite, Hook::ClientConnected).len(), 1);
        assert!(faults("insert into a values (';')", Database::Sqlite, Hook::ClientConnected).is_empty());
        assert_eq!(
            faults("insert into a(x) values (1) IF NOT EXISTS", Database::Cassandra, Hook::ClientConnected).len(),
            1
        );
    }

    #[test]
    fn statements_that_take_the_transaction_away_are_refused_at_their_word() {
        let refused = |source| faults(source, Database::Sqlite, Hook::MessagePublish);
        for (source, start, end) in [
            ("BEGIN", 0, 5),
            ("  commit;", 2, 8),
            ("-- a note\n/* another */ rollback", 24, 32),
            ("savepoint x", 0, 9),
            ("release x", 0, 7),
            ("Attach 'x.db' as x", 0, 6),
            ("pragma synchronous = off", 0, 6),
            ("insert or rollback into t values (${topic})", 10, 18),
            ("update or /* x */ ROLLBACK t set a = 'é'", 18, 26),
        ] {
            let found = refused(source);
            assert_eq!(found.len(), 1, "{source}: {found:?}");
            assert_eq!((found[0].0, found[0].1), (start, end), "{source}: {found:?}");
        }
        for source in [
            "insert into begin values ('or rollback', ${topic})",
            "insert or ignore into t (\"begin\") values ('é', ${topic})",
            "insert into t values (case when 1 then 2 end)",
            "update t set a = b or c",
        ] {
            assert!(refused(source).is_empty(), "{source}: {:?}", refused(source));
        }
        for (source, start, end) in [
            ("insert into a (x) values (1) IF NOT EXISTS", 29, 31),
            ("update a set x = ${topic} where y = 'if' if exists", 41, 43),
            ("insert into a (x) values (${topic}) using ttl 5 and timestamp 3", 52, 61),
            ("delete from a USING TIMESTAMP 3 where x = ${topic}", 20, 29),
            ("begin batch", 0, 5),
            ("USE other", 0, 3),
        ] {
            let found = faults(source, Database::Cassandra, Hook::MessagePublish);
            assert_eq!(found.len(), 1, "{source}: {found:?}");
            assert_eq!((found[0].0, found[0].1), (start, end), "{source}: {found:?}");
        }
        for source in [
            "insert into a (timestamp) values (${topic}) using ttl 5",
            "update a using ttl 5 set timestamp = ${topic} where x = 1",
        ] {
            assert!(faults(source, Database::Cassandra, Hook::MessagePublish).is_empty(), "{source}");
        }
        for (source, start, end) in [("commit", 0, 6), ("set x = 1", 0, 3), ("insert into t values (${topic})", 22, 30)]
        {
            let found = template_faults(source);
            assert!(found.len() == 1 && (found[0].start, found[0].end) == (start, end), "{source}: {found:?}");
        }
        assert_eq!(faults("start transaction", Database::Mysql, Hook::MessagePublish).len(), 1);
        assert!(faults("pragma x", Database::Pgsql, Hook::MessagePublish).is_empty());
        for (source, database) in
            [("truncate t", Database::Mysql), ("set autocommit = 1", Database::Mysql), ("discard all", Database::Pgsql)]
        {
            assert_eq!(faults(source, database, Hook::MessagePublish).len(), 1, "{source}");
        }
    }
}
