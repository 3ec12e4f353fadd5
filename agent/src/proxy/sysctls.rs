//! Kernel parameters that Services depend on, set as kube-proxy sets them. What cannot be set is said once and left.

use std::io;
use std::time::Duration;

const ROOT: &str = "/proc/sys/net";
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";
/// However many cores there are: beyond this the table costs more memory than anybody meant to give it.
const MOST_CONNECTIONS: u64 = 1 << 20;

/// Connection tracking; zero leaves a value as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Connections for each core.
    pub max_per_core: u64,
    /// At least as many connections.
    pub min: u64,
    /// How long an idle established TCP connection is remembered.
    pub tcp_established: Duration,
    /// How long one is remembered that the other side has closed.
    pub tcp_close_wait: Duration,
    /// Take packets outside the TCP window for good ones.
    pub tcp_be_liberal: bool,
    /// How long a UDP exchange of one packet is remembered.
    pub udp: Duration,
    /// How long a longer one is.
    pub udp_stream: Duration,
}

impl Default for Conntrack {
    /// kube-proxy's.
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established: Duration::from_secs(86_400),
            tcp_close_wait: Duration::from_secs(3_600),
            tcp_be_liberal: false,
            udp: Duration::ZERO,
            udp_stream: Duration::ZERO,
        }
    }
}

impl Conntrack {
    /// How many connections the kernel should remember on so many cores; `None` leaves its own figure.
    fn connections(&self, cores: u64) -> Option<u64> {
        let wanted = self.max_per_core.saturating_mul(cores);
        (self.max_per_core > 0).then(|| if wanted > MOST_CONNECTIONS { MOST_CONNECTIONS } else { wanted.max(self.min) })
    }

    /// Parameters and their values.
    fn wanted(&self, cores: u64) -> Vec<(String, u64)> {
        let of = |name: &str| format!("{ROOT}/netfilter/nf_conntrack_{name}");
        let seconds = [
            ("tcp_timeout_established", self.tcp_established),
            ("tcp_timeout_close_wait", self.tcp_close_wait),
            ("udp_timeout", self.udp),
            ("udp_timeout_stream", self.udp_stream),
        ];
        let times = seconds.iter().filter(|(_, time)| !time.is_zero()).map(|(name, time)| (of(name), time.as_secs()));
        let connections = self.connections(cores);
        let mut wanted: Vec<_> = connections.map(|most| (of("max"), most)).into_iter().chain(times).collect();
        wanted.extend(self.tcp_be_liberal.then(|| (of("tcp_be_liberal"), 1)));
        wanted
    }

    /// Sets what differs, and says what could not be set.
    pub(super) fn apply(&self) -> Vec<String> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let mut failed: Vec<_> =
            self.wanted(cores).iter().filter_map(|(path, value)| set(path, *value).err()).collect();
        if let Some(most) = self.connections(cores)
            && read(HASH_SIZE).is_some_and(|size| size < most / 4)
        {
            failed.extend(set(HASH_SIZE, most / 4).err());
        }
        failed
    }
}

/// Where packets for 127.0.0.0/8 are let through, which node ports on localhost need.
const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// Lets them through, and says whether they were kept out before. The rule that guards the node's loopback comes first.
pub(super) fn open_loopback() -> Result<bool, String> {
    let was_open = is_loopback_open();
    set(ROUTE_LOCALNET, 1).map(|()| !was_open)
}

/// Keeps them out again.
pub(super) fn close_loopback() -> Result<(), String> {
    set(ROUTE_LOCALNET, 0)
}

/// Whether they are let through; where that cannot be said, they may be.
pub(super) fn is_loopback_open() -> bool {
    read(ROUTE_LOCALNET) != Some(0)
}

/// Whether connection tracking takes packets outside the window for good ones, so that rules must not drop them.
pub(super) fn is_liberal() -> bool {
    read(&format!("{ROOT}/netfilter/nf_conntrack_tcp_be_liberal")).is_some_and(|value| value != 0)
}

fn read(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn set(path: &str, value: u64) -> Result<(), String> {
    if read(path) == Some(value) {
        return Ok(());
    }
    std::fs::write(path, value.to_string()).map_err(|error: io::Error| format!("setting {path} to {value}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_grows_with_the_cores_up_to_a_limit() {
        let conntrack = Conntrack::default();
        assert_eq!([1, 8, 64].map(|cores| conntrack.connections(cores)), [Some(131_072), Some(262_144), Some(1 << 20)]);
        assert_eq!(Conntrack { max_per_core: 0, ..conntrack }.connections(8), None);
    }

    #[test]
    fn what_is_zero_is_left_alone() {
        let names = |conntrack: &Conntrack| -> Vec<String> {
            let wanted = conntrack.wanted(1);
            wanted
                .iter()
                .map(|(path, value)| format!("{}={value}", path.rsplit("conntrack_").next().unwrap_or_default()))
                .collect()
        };
        let usual = ["max=131072", "tcp_timeout_established=86400", "tcp_timeout_close_wait=3600"];
        assert_eq!(names(&Conntrack::default()), usual);
        let none = Conntrack {
            max_per_core: 0,
            tcp_established: Duration::ZERO,
            tcp_close_wait: Duration::ZERO,
            ..Conntrack::default()
        };
        assert_eq!(names(&none), Vec::<String>::new());
        assert_eq!(
            names(&Conntrack { tcp_be_liberal: true, udp: Duration::from_secs(30), ..none }),
            ["udp_timeout=30", "tcp_be_liberal=1"]
        );
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        let error = set("/proc/sys/net/nothing_of_this_name", 7).unwrap_err();
        assert!(error.starts_with("setting /proc/sys/net/nothing_of_this_name to 7: "), "{error}");
    }
}
