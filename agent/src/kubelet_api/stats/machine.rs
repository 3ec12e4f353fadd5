//! What the machine itself uses, from /proc.

use jiff::Timestamp;
use procfs::prelude::*;
use procfs::{CpuTime, KernelStats};

pub(super) use crate::machine::Memory;
use crate::machine::Tasks;

/// The node's own figures; what cannot be read is zero or missing.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) at: Timestamp,
    pub(super) booted: Timestamp,
    pub(super) cores: u64,
    /// Time that the processors worked, nanoseconds.
    pub(super) cpu_ns: u64,
    pub(super) memory: Memory,
    pub(super) interfaces: Vec<Interface>,
    /// The interface of the default route.
    pub(super) primary: Option<String>,
    pub(super) processes: u64,
    pub(super) most_processes: u64,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) rx_bytes: u64,
    pub(super) rx_errors: u64,
    pub(super) tx_bytes: u64,
    pub(super) tx_errors: u64,
}

pub(super) fn look() -> Machine {
    let kernel = KernelStats::current().ok();
    let tasks = Tasks::now().unwrap_or_default();
    let booted = kernel.as_ref().and_then(|stats| Timestamp::from_second(i64::try_from(stats.btime).ok()?).ok());
    Machine {
        at: Timestamp::now(),
        booted: booted.unwrap_or_default(),
        cores: kernel.as_ref().map_or(0, |stats| stats.cpu_time.len() as u64),
        cpu_ns: kernel.map_or(0, |stats| busy_ns(&stats.total)),
        memory: Memory::now().unwrap_or_default(),
        interfaces: interfaces(),
        primary: primary(),
        processes: tasks.now,
        most_processes: tasks.most,
    }
}

fn busy_ns(time: &CpuTime) -> u64 {
    let others = [time.irq_ms(), time.softirq_ms(), time.steal_ms()];
    let ms = [time.user_ms(), time.nice_ms(), time.system_ms()].into_iter().chain(others.into_iter().flatten());
    ms.sum::<u64>().saturating_mul(1_000_000)
}

fn interfaces() -> Vec<Interface> {
    let all = procfs::net::dev_status().unwrap_or_default();
    let mut all: Vec<_> = all.into_values().filter(|one| one.name != "lo").map(interface).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

fn interface(status: procfs::net::DeviceStatus) -> Interface {
    Interface {
        name: status.name,
        rx_bytes: status.recv_bytes,
        rx_errors: status.recv_errs,
        tx_bytes: status.sent_bytes,
        tx_errors: status.sent_errs,
    }
}

fn primary() -> Option<String> {
    let routes = procfs::net::route().ok()?;
    routes.into_iter().find(|route| route.destination.is_unspecified()).map(|route| route.iface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_figures() {
        let machine = look();
        assert!(machine.cores > 0 && machine.cpu_ns > 0 && machine.booted < machine.at);
        assert!(machine.memory.total > 0 && machine.processes > 0);
    }
}
