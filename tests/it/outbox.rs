//! The outbox: what a transaction wanted is added to the queue after its commit, by any worker, and runs once, whatever
//! happens to the workers and to Redis.

mod endings;
mod rows;
mod sending;
mod wiped;

use crate::support::{Fleet, wait_for};
use std::{collections::BTreeMap, time::Duration};

const SOON: Duration = Duration::from_secs(30);
/// What was lost is back within this time.
const MINUTE: Duration = Duration::from_secs(60);

impl Fleet {
    /// Writes rows of the outbox as an API server does, one statement and so one transaction.
    fn write_rows(&self, columns: &str, rows: &str) {
        self.sql(&format!(
            "INSERT INTO floh_worker.job_outbox (queue, {columns}) SELECT 'bull:workflow-scheduler', {rows}"
        ));
    }

    /// One row whose job writes an effect under its own id.
    fn write_row(&self, id: &str) {
        self.write_rows("job_id, name, data", &format!("'{id}', 'test.effect', '{{\"key\": \"{id}\"}}'"));
    }

    /// How the row ended; `sent` or `unsent` if it has not.
    fn row(&self, id: &str) -> String {
        let query = format!(
            "SELECT coalesce(ended, CASE WHEN sent_at IS NULL THEN 'unsent' ELSE 'sent' END)
            FROM floh_worker.job_outbox WHERE job_id = '{id}'"
        );
        self.sql(&query)[0][0].clone().unwrap()
    }

    fn wait_row(&self, id: &str, state: &str, limit: Duration) {
        wait_for(&format!("the row {id} to be {state}"), limit, || (self.row(id) == state).then_some(()));
    }

    /// How many rows there are of each state.
    fn rows(&self) -> BTreeMap<String, u64> {
        let query = "SELECT coalesce(ended, CASE WHEN sent_at IS NULL THEN 'unsent' ELSE 'sent' END), count(*)
            FROM floh_worker.job_outbox GROUP BY 1";
        let rows = self.sql(query).into_iter();
        rows.map(|row| (row[0].clone().unwrap(), row[1].as_deref().unwrap().parse().unwrap())).collect()
    }
}
