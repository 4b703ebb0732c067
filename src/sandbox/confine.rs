//! What the child gives up before it sees the first script. QuickJS has no way to the outside; this is for the day on which
//! a script finds a fault in it.

use nix::{
    sys::{
        prctl,
        resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
        signal::Signal,
    },
    unistd,
};
use std::{fs, io};

/// Memory beside what the program has when it starts: a script's 16 MiB, and its texts on their way in and out.
const MORE_MEMORY: u64 = 192 * 1024 * 1024;

/// Where the program's own size is unknown.
const MEMORY: u64 = 1024 * 1024 * 1024;

/// Gives up whatever running scripts does not need.
///
/// # Errors
/// The machine does not allow it.
pub fn confine() -> io::Result<()> {
    // Never outlives the worker, however that ends: its thread that started us ends with it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_no_new_privs()?;
    // No core file with a run's data in it, and no way in for other processes of the same user.
    prctl::set_dumpable(false)?;
    prctl::set_name(c"floh-sandbox")?;
    let own = size_of_program();
    close_all_but_pipes();
    lower(Resource::RLIMIT_CORE, 0)?;
    lower(Resource::RLIMIT_FSIZE, 0)?;
    // Neither files nor sockets nor processes of its own.
    lower(Resource::RLIMIT_NOFILE, 0)?;
    lower(Resource::RLIMIT_NPROC, 0)?;
    lower(Resource::RLIMIT_AS, own.map_or(MEMORY, |own| own + MORE_MEMORY))
}

/// Lets the process be killed when it has worked for so many more seconds: for a worker that is itself too busy to do it.
pub fn allow_cpu(seconds: u64) -> io::Result<()> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = usage.user_time().tv_sec() + usage.system_time().tv_sec();
    let (_, hard) = getrlimit(Resource::RLIMIT_CPU)?;
    let soft = u64::try_from(used).unwrap_or(0).saturating_add(seconds).saturating_add(1).min(hard);
    Ok(setrlimit(Resource::RLIMIT_CPU, soft, hard)?)
}

/// The most memory that this process ever had, KiB.
pub fn peak_kib() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF).ok().and_then(|usage| u64::try_from(usage.max_rss()).ok()).unwrap_or(u64::MAX)
}

fn lower(resource: Resource, to: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let to = to.min(hard);
    Ok(setrlimit(resource, to, to)?)
}

/// The address space that the program takes, bytes.
fn size_of_program() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().next()?.parse().ok()?;
    let page = unistd::sysconf(unistd::SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// Ours close by themselves on exec; those that the worker was started with need not.
fn close_all_but_pipes() {
    let open: Vec<i32> = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => (3..1024).collect(),
    };
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The one of the directory itself is closed already.
        let _ = unistd::close(fd);
    }
}
