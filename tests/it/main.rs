//! The tests against real servers and real BullMQ clients, in one binary so that it is linked once.
//!
//! Each test starts what it needs through [`support`]: its own servers on free ports, its own Node processes.

mod support;
