//! Items and their attributes.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

/// An item, or its key.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The most that an item may have, bytes, its attributes' names included.
pub(super) const ITEM: usize = 400 << 10;

/// The most that a partition key may have, bytes.
pub(super) const PARTITION_KEY: usize = 2_048;

/// The most that a sort key may have, bytes.
pub(super) const SORT_KEY: usize = 1_024;

pub(super) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn b(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

pub(super) fn ss<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> AttributeValue {
    AttributeValue::Ss(texts.into_iter().map(Into::into).collect())
}

/// An item of these attributes.
pub(super) fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A text.
pub(super) fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    match item.get(name)? {
        AttributeValue::S(text) => Some(text),
        _ => None,
    }
}

/// A whole number, also one that another program wrote as a text or a boolean.
pub(super) fn number(item: &Item, name: &str) -> Option<i64> {
    match item.get(name)? {
        AttributeValue::N(text) | AttributeValue::S(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|n| n as i64))
        }
        AttributeValue::Bool(truth) => Some(i64::from(*truth)),
        _ => None,
    }
}

/// The texts of a set; none where there is no such set.
pub(super) fn texts(item: &Item, name: &str) -> Vec<String> {
    match item.get(name) {
        Some(AttributeValue::Ss(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

/// Bytes of an item as DynamoDB counts them, numbers at their least.
pub(super) fn bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_other_programs_are_read_as_they_come() {
        let row =
            item([("a", n(7)), ("b", s(" 8 ")), ("c", AttributeValue::Bool(true)), ("d", s("x")), ("e", n("9.0"))]);
        let read = ["a", "b", "c", "d", "e", "f"].map(|name| number(&row, name));
        assert_eq!(read, [Some(7), Some(8), Some(1), None, Some(9), None]);
    }

    #[test]
    fn names_count_too() {
        assert_eq!(bytes(&item([("ab", s("cde")), ("f", b(&[0; 10]))])), 2 + 3 + 1 + 10);
    }
}
