//! What JSON and TOML have in common: values that know where they stand.

use super::source::Span;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) data: Data,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Data {
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
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) at: Span,
    pub(crate) value: Node,
}

impl Node {
    /// What it is, for `expected …, found …`.
    pub(crate) fn kind(&self) -> &'static str {
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

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn fields(&self) -> Option<&[Field]> {
        match &self.data {
            Data::Table(fields) => Some(fields),
            _ => None,
        }
    }
}
