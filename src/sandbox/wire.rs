//! What the worker and a child say to each other: JSON, each message after its length.

use super::{Kind, Logs, Position};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::io::{self, Read, Write};

/// Longer than any message of either side: variables of [`super::LARGEST_VARIABLES`] are escaped once more.
pub const LONGEST: usize = 24 * 1024 * 1024;

/// A script for the child.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The body of the function.
    pub code: String,
    /// The variables as JSON text: QuickJS reads it, and what nests too deep for it is the script's failure.
    pub variables: String,
    /// What is kept of the result.
    pub outputs: Vec<String>,
    /// What `floh.now()` says.
    pub now: String,
    /// How long it may run.
    pub limit_ms: u64,
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// It waits for a script. The most memory that it ever had, KiB.
    Ready(u64),
    /// It has the script: what becomes of the process now is what becomes of the script.
    Begun,
    /// What became of the script.
    Answer(Answer),
    /// It cannot run scripts.
    Unfit(String),
}

/// What became of a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The declared outputs, or what was wrong.
    pub result: Result<Map<String, Value>, Failure>,
    /// What it logged.
    pub logs: Logs,
    /// How long it ran.
    pub took_ms: u64,
}

/// What was wrong with a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// One sentence.
    pub message: String,
    /// Where.
    pub position: Option<Position>,
}

impl Failure {
    /// Without a place.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), position: None }
    }
}

/// A message with its length before it.
///
/// # Errors
/// It is too long.
pub fn pack<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= LONGEST => {
            frame[..4].copy_from_slice(&prefix.to_be_bytes());
            Ok(frame)
        }
        _ => Err(io::Error::other(format!("a message of {length} bytes is longer than {LONGEST}"))),
    }
}

/// The length that a prefix says.
///
/// # Errors
/// No message is that long.
pub fn length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length <= LONGEST { Ok(length) } else { Err(io::Error::other(format!("a message of {length} bytes"))) }
}

/// Waits for a message; `None` where the other side has gone.
///
/// # Errors
/// The pipe's, or what came is no message.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match from.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; length(prefix)?];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Sends a message.
///
/// # Errors
/// The pipe's, or it is too long.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&pack(message)?)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was() {
        let mut pipe = Vec::new();
        write(&mut pipe, &Message::Ready(7)).unwrap();
        write(&mut pipe, &Message::Unfit("é\0".into())).unwrap();
        let mut pipe = &pipe[..];
        assert!(matches!(read(&mut pipe).unwrap(), Some(Message::Ready(7))));
        assert!(matches!(read(&mut pipe).unwrap(), Some(Message::Unfit(why)) if why == "é\0"));
        assert!(read::<Message>(&mut pipe).unwrap().is_none());
    }

    #[test]
    fn what_is_cut_off_or_no_message_is_an_error() {
        assert!(read::<Message>(&mut &b"\0\0\0\x05{}"[..]).is_err());
        assert!(read::<Message>(&mut &b"\0\0\0\x02{}"[..]).is_err());
        assert!(read::<Message>(&mut &b"\xff\xff\xff\xff"[..]).unwrap_err().to_string().contains("4294967295"));
    }
}
