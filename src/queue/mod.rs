//! BullMQ: connection, scripts, consumer, leases, schedulers. Knows no job and no table.
