//! Raw write commands: built, cut into pieces that a server takes, and their answers.

use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, cstr, rawdoc};

use super::conn::MongoConn;
use super::error::{self, Class};
use crate::sink::WriteError;

/// Bytes of documents in one command. A server takes 16 MiB and a little.
const BYTES: usize = 12 << 20;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

/// One statement with the operations it stands for, by their place in the batch.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) body: RawDocumentBuf,
    pub(super) entries: Vec<usize>,
}

/// Statements on one collection.
#[derive(Clone, Debug)]
pub(super) struct Command {
    kind: Kind,
    collection: &'static str,
    /// One after the other; otherwise in any order.
    ordered: bool,
    statements: Vec<Statement>,
}

/// A statement that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// Its place among the statements.
    pub(super) index: usize,
    pub(super) code: i32,
    pub(super) message: String,
}

/// What a server made of a command.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Documents inserted, matched or deleted.
    pub(super) n: i64,
    /// Statements that were refused.
    pub(super) refused: Vec<Refused>,
}

impl Command {
    pub(super) fn new(kind: Kind, collection: &'static str) -> Command {
        Command { kind, collection, ordered: false, statements: Vec::new() }
    }

    /// Statements run in their order.
    pub(super) fn ordered(mut self) -> Command {
        self.ordered = true;
        self
    }

    /// A document to be inserted.
    pub(super) fn insert(&mut self, body: RawDocumentBuf, entries: Vec<usize>) {
        self.statements.push(Statement { body, entries });
    }

    /// An update of one document; `upsert` inserts it where there is none.
    pub(super) fn update(&mut self, filter: Document, update: Document, upsert: bool, entries: Vec<usize>) {
        self.push(mongodb::bson::doc! { "q": filter, "u": update, "upsert": upsert, "multi": false }, entries);
    }

    /// An update of all documents that match.
    pub(super) fn update_all(&mut self, filter: Document, update: Document, entries: Vec<usize>) {
        self.push(mongodb::bson::doc! { "q": filter, "u": update, "upsert": false, "multi": true }, entries);
    }

    /// A deletion of all documents that match.
    pub(super) fn delete(&mut self, filter: Document, entries: Vec<usize>) {
        self.push(mongodb::bson::doc! { "q": filter, "limit": 0 }, entries);
    }

    fn push(&mut self, statement: Document, entries: Vec<usize>) {
        let body = RawDocumentBuf::try_from(&statement).unwrap_or_default();
        self.statements.push(Statement { body, entries });
    }

    /// The operations that a statement stands for.
    pub(super) fn entries(&self, index: usize) -> &[usize] {
        self.statements.get(index).map_or(&[], |statement| &statement.entries)
    }

    /// Sends it, in as many pieces as it takes. Of a transaction the first refusal is the end; otherwise all that is not refused is done.
    ///
    /// # Errors
    /// Where the server refused a command as a whole, or is gone.
    pub(super) async fn run(&self, conn: &mut MongoConn) -> Result<Outcome, WriteError> {
        let mut outcome = Outcome::default();
        let mut begin = 0;
        while begin < self.statements.len() {
            let end = self.piece(begin, conn.statements);
            let command = self.build(conn, begin, end);
            let answer = conn.run(command).await?;
            outcome.n = outcome.n.saturating_add(integer(answer.get("n")).unwrap_or(0));
            refused(&answer, begin, &mut outcome.refused);
            if let Some(Bson::Document(concern)) = answer.get("writeConcernError") {
                let (code, message) = code_and_message(concern);
                return Err(error::answered(if code == 0 { 64 } else { code }, &message));
            }
            // The server's state, not a statement's: the others may or may not be in.
            for one in &outcome.refused {
                match error::class(one.code, &one.message) {
                    Class::Link | Class::Operator(_) => return Err(error::answered(one.code, &one.message)),
                    Class::Own | Class::Duplicate | Class::Unknown => {}
                }
            }
            match outcome.refused.last() {
                // It is void.
                Some(_) if conn.in_transaction() => break,
                // The server ended there; those behind are no worse for it.
                Some(last) if self.ordered && last.index >= begin => begin = last.index + 1,
                _ => begin = end,
            }
        }
        Ok(outcome)
    }

    /// The end of the piece that begins there, of at most so many statements.
    fn piece(&self, begin: usize, most: usize) -> usize {
        let (mut end, mut bytes) = (begin, 0);
        for statement in self.statements.iter().skip(begin).take(most) {
            bytes += statement.body.as_bytes().len() + 16;
            if end > begin && bytes > BYTES {
                break;
            }
            end += 1;
        }
        end
    }

    fn build(&self, conn: &MongoConn, begin: usize, end: usize) -> RawDocumentBuf {
        let mut list = RawArrayBuf::new();
        for statement in self.statements.get(begin..end).unwrap_or_default() {
            list.push(statement.body.clone());
        }
        let mut command = RawDocumentBuf::new();
        match self.kind {
            Kind::Insert => command.append(cstr!("insert"), self.collection),
            Kind::Update => command.append(cstr!("update"), self.collection),
            Kind::Delete => command.append(cstr!("delete"), self.collection),
        }
        command.append(cstr!("ordered"), self.ordered || conn.in_transaction());
        if let Some(concern) = conn.write_concern() {
            command.append(cstr!("writeConcern"), concern);
        }
        match self.kind {
            Kind::Insert => command.append(cstr!("documents"), list),
            Kind::Update => command.append(cstr!("updates"), list),
            Kind::Delete => command.append(cstr!("deletes"), list),
        }
        command
    }
}

/// How writes are confirmed.
pub(super) fn concern(safe: bool) -> RawDocumentBuf {
    if safe {
        rawdoc! { "w": "majority", "j": true, "wtimeout": 10_000 }
    } else {
        rawdoc! { "w": 1 }
    }
}

fn refused(answer: &Document, begin: usize, refused: &mut Vec<Refused>) {
    let Some(Bson::Array(errors)) = answer.get("writeErrors") else { return };
    for error in errors {
        let Bson::Document(error) = error else { continue };
        let index = integer(error.get("index")).and_then(|index| usize::try_from(index).ok()).unwrap_or(0);
        let (code, message) = code_and_message(error);
        refused.push(Refused { index: begin + index, code, message });
    }
}

fn code_and_message(error: &Document) -> (i32, String) {
    let code = integer(error.get("code")).and_then(|code| i32::try_from(code).ok()).unwrap_or(0);
    (code, error.get_str("errmsg").unwrap_or("refused without a reason").to_owned())
}

/// A whole number in whichever of BSON's forms a server keeps it.
pub(super) fn integer(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        // Exact up to 2^53; what other programs write there is small.
        #[expect(clippy::cast_possible_truncation, reason = "checked before")]
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn commands_are_cut_by_number_and_by_bytes_and_never_empty() {
        let mut command = Command::new(Kind::Insert, "c");
        for n in 0..2_500 {
            command.insert(rawdoc! { "_id": n }, vec![0]);
        }
        let piece = |begin| command.piece(begin, 1_000);
        assert_eq!((piece(0), piece(1_000), piece(2_000)), (1_000, 2_000, 2_500));
        let mut command = Command::new(Kind::Insert, "c");
        for _ in 0..3 {
            command.insert(rawdoc! { "x": "y".repeat(7 << 20) }, vec![0]);
        }
        let piece = |begin| command.piece(begin, 1_000);
        assert_eq!((piece(0), piece(1), piece(2)), (1, 2, 3));
    }

    #[test]
    fn refusals_are_counted_from_the_first_statement() {
        let mut found = Vec::new();
        refused(&doc! { "writeErrors": [{ "index": 2, "code": 11_000, "errmsg": "E11000" }] }, 1_000, &mut found);
        assert_eq!((found[0].index, found[0].code, found[0].message.as_str()), (1_002, 11_000, "E11000"));
        for number in [Bson::Int32(5), Bson::Int64(5), Bson::Double(5.0)] {
            assert_eq!(integer(Some(&number)), Some(5));
        }
        assert_eq!(integer(Some(&Bson::Double(5.5))), None);
    }
}
