//! CPU time and memory of a process, from /proc.

use crate::LoadError;

/// `utime` and `stime` as counted from the state, the first field after the name (proc(5): fields
/// 14 and 15 of all, 3 being the state).
const UTIME_AFTER_STATE: usize = 11;

fn read(pid: u32, file: &str) -> Result<String, LoadError> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
        .map_err(|error| LoadError::Process { pid, reason: format!("/proc/{pid}/{file}: {error}") })
}

/// User and system CPU seconds of all threads so far, in steps of a clock tick (10 ms).
///
/// # Errors
/// [`LoadError::Process`] when there is no such process.
#[allow(clippy::cast_precision_loss, reason = "ticks of a load run stay far below 2^52")]
pub fn cpu_s(pid: u32) -> Result<f64, LoadError> {
    let stat = read(pid, "stat")?;
    let ticks = cpu_ticks(&stat)
        .ok_or_else(|| LoadError::Process { pid, reason: "its stat file is not as proc(5) says".to_owned() })?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// User and system CPU time of this process's threads so far, in nanoseconds and in steps of some.
pub fn own_cpu_ns() -> u64 {
    const NS_PER_S: u64 = 1_000_000_000;
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or_default() * NS_PER_S + u64::try_from(time.tv_nsec).unwrap_or_default()
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    times(stat, 2)
}

/// The sum of the first `count` of utime, stime, cutime, cstime.
fn times(stat: &str, count: usize) -> Option<u64> {
    // The name may hold spaces and parentheses; the last one closes it.
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> = fields
        .split_ascii_whitespace()
        .skip(UTIME_AFTER_STATE)
        .take(count)
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    (times.len() == count).then(|| times.iter().sum())
}

/// CPU seconds that this process and the children it has waited for have used.
///
/// # Errors
/// [`LoadError::Process`] when /proc cannot be read.
#[allow(clippy::cast_precision_loss, reason = "ticks of a load run stay far below 2^52")]
pub fn family_cpu_s() -> Result<f64, LoadError> {
    let pid = std::process::id();
    let stat = read(pid, "stat")?;
    let ticks = times(&stat, 4)
        .ok_or_else(|| LoadError::Process { pid, reason: "its stat file is not as proc(5) says".to_owned() })?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// CPU seconds that all processes of the machine have used, and seconds stolen by its host.
///
/// # Errors
/// [`LoadError::Io`] when /proc cannot be read.
#[allow(clippy::cast_precision_loss, reason = "ticks of a machine's life stay far below 2^52")]
pub fn machine_cpu_s() -> Result<f64, LoadError> {
    let stat = std::fs::read_to_string("/proc/stat").map_err(LoadError::io("read /proc/stat"))?;
    let ticks = machine_ticks(&stat).unwrap_or_default();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
fn machine_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let busy = fields.take(8).enumerate().filter(|(field, _)| !matches!(field, 3 | 4));
    busy.map(|(_, ticks)| ticks.parse::<u64>().ok()).sum()
}

/// Resident memory in bytes.
///
/// # Errors
/// [`LoadError::Process`] when there is no such process.
pub fn rss_bytes(pid: u32) -> Result<u64, LoadError> {
    let status = read(pid, "status")?;
    rss_kib(&status)
        .map(|kib| kib * 1024)
        .ok_or_else(|| LoadError::Process { pid, reason: "it has no VmRSS, so it has ended".to_owned() })
}

fn rss_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 250 31 7 9 20 0 4 0 100 1000 200";
        assert_eq!(cpu_ticks(stat), Some(281));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
    }

    #[test]
    fn children_count_once_waited_for() {
        let stat = "42 (a) S 1 42 42 0 -1 4194304 100 0 0 0 250 31 7 9 20 0 4 0 100 1000 200";
        assert_eq!(times(stat, 4), Some(297));
    }

    #[test]
    fn a_machine_is_busy_but_for_idle_and_waiting() {
        let stat = "cpu  1 2 4 1000 2000 8 16 32 64 64\ncpu0 9 9 9 9\n";
        assert_eq!(machine_ticks(stat), Some(63));
        assert_eq!(machine_ticks("intr 1 2 3"), None);
    }

    #[test]
    fn resident_memory_is_read_in_kibibytes() {
        assert_eq!(rss_kib("Name:\tx\nVmHWM:\t  99 kB\nVmRSS:\t  1234 kB\n"), Some(1234));
        assert_eq!(rss_kib("Name:\tzombie\n"), None);
    }
}
