//! How the daemon ends, and with which code.

use std::process::ExitCode;

/// The end of the daemon. The codes are those of sysexits(3) that DESIGN and the unit file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: stopped after a clean drain.
    Clean,
    /// 64: called wrongly. systemd does not restart it.
    Usage,
    /// 70: something of ours failed, or jobs had to be abandoned. systemd restarts it.
    Internal,
    /// 75: ended on purpose, after a drain, to be started anew. systemd restarts it, and does not call it a failure.
    Restart,
    /// 78: what waiting cannot heal: configuration, a rejected login, a schema that excludes us. systemd does not
    /// restart it.
    Config,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Clean => 0,
            Exit::Usage => 64,
            Exit::Internal => 70,
            Exit::Restart => 75,
            Exit::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
