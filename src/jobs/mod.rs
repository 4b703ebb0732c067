//! The registry from a job's name to its handler, and one file per job, named like the job.
