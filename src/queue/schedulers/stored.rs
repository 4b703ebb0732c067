//! A scheduler as it stands in Redis.

use crate::queue::{Error, Queue, connection::COMMAND_DEADLINE};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// How many schedulers are read in one round trip.
const PAGE: usize = 500;

/// One scheduler or repeatable of the queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) id: String,
    /// When the iteration that was made last is due, milliseconds, as Redis printed it.
    pub(super) score: String,
    /// The fields of its hash; old repeatables have none.
    pub(super) fields: HashMap<String, String>,
    /// Whether the iteration exists and has not ended.
    pub(super) alive: bool,
}

impl Stored {
    /// The name of its jobs: of old repeatables without a hash, it stands at the beginning of their keys.
    pub(super) fn name(&self) -> &str {
        self.fields.get("name").map_or_else(|| self.id.split(':').next().unwrap_or_default(), String::as_str)
    }

    /// Whether it still announces iterations: its next one is there, or was due a moment ago, so that it may be being made.
    /// One whose chain ended (its limit, its end date, a client that did not continue it) stays in the set for ever.
    ///
    /// Of an old repeatable without a hash the iterations cannot be found by its key. There a day is waited, which a backlog
    /// explains.
    pub(super) fn goes_on(&self, now_ms: i64) -> bool {
        const MOMENT_MS: f64 = 60.0 * 1000.0;
        const BACKLOG_MS: f64 = 24.0 * 3600.0 * 1000.0;
        let patience = if self.fields.is_empty() { BACKLOG_MS } else { MOMENT_MS };
        self.alive || self.score.parse::<f64>().is_ok_and(|due| due > now_ms as f64 - patience)
    }

    /// Whether the iteration that was made last is due.
    pub(super) fn is_due(&self, now_ms: i64) -> bool {
        self.score.parse::<f64>().is_ok_and(|due| due <= now_ms as f64)
    }

    /// A field of the hash, read as JSON; an empty object where there is none.
    pub(super) fn json(&self, field: &str) -> Value {
        let stored = self.fields.get(field).and_then(|text| serde_json::from_str(text).ok());
        stored.unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// The fields of the hash as the options that they were made of.
    pub(super) fn options(&self) -> Map<String, Value> {
        self.fields.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()
    }
}

impl Queue {
    /// All schedulers and repeatables of the queue.
    pub(super) async fn stored_schedulers(&self) -> Result<Vec<Stored>, Error> {
        let mut range = redis::cmd("ZRANGE");
        range.arg(&self.keys.repeat).arg(0).arg(-1).arg("WITHSCORES");
        let flat: Vec<Vec<u8>> = self.link.query(&range, "ZRANGE", COMMAND_DEADLINE).await?;
        let entries: Vec<(String, String)> = flat
            .chunks_exact(2)
            .map(|pair| {
                (String::from_utf8_lossy(&pair[0]).into_owned(), String::from_utf8_lossy(&pair[1]).into_owned())
            })
            .collect();
        let mut found = Vec::with_capacity(entries.len());
        for page in entries.chunks(PAGE) {
            found.extend(self.read_page(page).await?);
        }
        Ok(found)
    }

    /// One scheduler, if it exists.
    pub(super) async fn stored_scheduler(&self, id: &str) -> Result<Option<Stored>, Error> {
        let mut score = redis::cmd("ZSCORE");
        score.arg(&self.keys.repeat).arg(id);
        let Some(score): Option<String> = self.link.query(&score, "ZSCORE", COMMAND_DEADLINE).await? else {
            return Ok(None);
        };
        Ok(self.read_page(&[(id.to_string(), score)]).await?.pop())
    }

    async fn read_page(&self, page: &[(String, String)]) -> Result<Vec<Stored>, Error> {
        let mut pipe = redis::pipe();
        for (id, score) in page {
            let iteration = self.keys.job(&format!("repeat:{id}:{score}"));
            pipe.cmd("HGETALL").arg(format!("{}:{id}", self.keys.repeat));
            pipe.cmd("HEXISTS").arg(&iteration).arg("name");
            pipe.cmd("HEXISTS").arg(&iteration).arg("finishedOn");
        }
        let answers: Vec<(HashMap<String, Vec<u8>>, bool, bool)> = self
            .link
            .with("HGETALL", COMMAND_DEADLINE, async |mut connection| {
                let flat: Vec<redis::Value> = pipe.query_async(&mut connection).await?;
                let read = |three: &[redis::Value]| {
                    use redis::FromRedisValue;
                    Ok((
                        FromRedisValue::from_redis_value(three[0].clone())?,
                        FromRedisValue::from_redis_value(three[1].clone())?,
                        FromRedisValue::from_redis_value(three[2].clone())?,
                    ))
                };
                flat.chunks_exact(3).map(read).collect::<redis::RedisResult<Vec<_>>>()
            })
            .await?;
        let stored = page.iter().zip(answers).map(|((id, score), (fields, exists, finished))| Stored {
            id: id.clone(),
            score: score.clone(),
            fields: fields
                .into_iter()
                .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
                .collect(),
            alive: exists && !finished,
        });
        Ok(stored.collect())
    }
}
