//! PostgreSQL, the truth: pool, migrations, ledger and fence, one file per aggregate. Knows no queue.
