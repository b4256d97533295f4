//! What JSON and TOML have in common: values that know where they stand.

use super::source::Span;

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) data: Data,
    pub(super) span: Span,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    Null,
    Boolean(bool),
    Integer(u64),
    /// A number that is no whole one, a date and the like: as written.
    Other(String),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Field>),
}

/// A name with its value.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) at: Span,
    pub(super) value: Node,
}

impl Node {
    /// What it is, for `expected …, found …`.
    pub(super) fn kind(&self) -> &'static str {
        match &self.data {
            Data::Null => "null",
            Data::Boolean(_) => "a boolean",
            Data::Integer(_) => "a number",
            Data::Other(_) => "another value",
            Data::Text(_) => "a text",
            Data::List(_) => "a list",
            Data::Table(_) => "an object",
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn fields(&self) -> Option<&[Field]> {
        match &self.data {
            Data::Table(fields) => Some(fields),
            _ => None,
        }
    }
}
