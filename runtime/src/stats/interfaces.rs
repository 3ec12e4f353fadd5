//! Counters of network interfaces, as `/proc/<pid>/net/dev` shows them.

/// What went through one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Such as `eth0`.
    pub name: String,
    /// Received.
    pub rx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Send errors.
    pub tx_errors: u64,
}

/// Every interface but the loopback.
pub(crate) fn parse(text: &str) -> Vec<Counters> {
    text.lines().skip(2).filter_map(parse_line).filter(|counters| counters.name != "lo").collect()
}

/// `name: bytes packets errs drop fifo frame compressed multicast bytes packets errs …`
fn parse_line(line: &str) -> Option<Counters> {
    let (name, rest) = line.split_once(':')?;
    let fields: Vec<u64> = rest.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    Some(Counters {
        name: name.trim().to_owned(),
        rx_bytes: *fields.first()?,
        rx_errors: *fields.get(2)?,
        tx_bytes: *fields.get(8)?,
        tx_errors: *fields.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_understood() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
            eth0: 1306       15    2    0    0     0          0         0      726       9    3    0    0     0       0          0\n";
        let eth0 = Counters { name: "eth0".into(), rx_bytes: 1306, rx_errors: 2, tx_bytes: 726, tx_errors: 3 };
        assert_eq!(parse(text), [eth0]);
    }
}
