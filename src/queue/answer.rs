//! What a script that may give out a job answers: `[[name, value, …] or 0, id or 0, rate limit ms, next delayed ms]`, as
//! one piece of MessagePack. Nothing is copied out of it, and strings need not be UTF-8.

use rmp_serde::decode::Error;
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use std::fmt;

/// Room for so many names and values is made at once at most, whatever length the answer claims to have.
const MOST_FIELDS: usize = 64;

/// The four parts.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// The fields of the job's hash, name and value in turn; `None` if there is no job.
    pub fields: Option<Vec<&'a [u8]>>,
    /// The job's id.
    pub id: Option<&'a [u8]>,
    /// How long the rate limit is used up, if it is.
    pub limit_ms: f64,
    /// When the next delayed job is due, if one is known.
    pub until_ms: f64,
}

impl<'a> Answer<'a> {
    pub(super) fn read(packed: &'a [u8]) -> Result<Self, Error> {
        let (fields, id, limit_ms, until_ms): (Part, Part, f64, f64) = rmp_serde::from_slice(packed)?;
        let fields = match fields {
            Part::Fields(fields) => Some(fields),
            Part::Number => None,
            Part::Text(_) => return Err(de::Error::custom("text where a job should be")),
        };
        let id = match id {
            Part::Text(id) => Some(id),
            Part::Fields(_) | Part::Number => None,
        };
        Ok(Answer { fields, id, limit_ms, until_ms })
    }
}

/// One of the first two parts.
enum Part<'a> {
    Number,
    Text(&'a [u8]),
    Fields(Vec<&'a [u8]>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a string or a list of strings")
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Part::Number)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Part::Text(text.as_bytes()))
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Part::Text(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(list.size_hint().unwrap_or(0).min(MOST_FIELDS));
        while let Some(part) = list.next_element::<Part<'de>>()? {
            match part {
                Part::Text(text) => fields.push(text),
                Part::Number | Part::Fields(_) => return Err(de::Error::custom("a field that is no string")),
            }
        }
        Ok(Part::Fields(fields))
    }
}
