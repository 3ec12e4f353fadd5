//! Tables, chains and single rules.

use crate::{Protocol, ServicePortName};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

/// A table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Decides which packets pass.
    Filter,
    /// Rewrites addresses.
    Nat,
    /// Holds only chains by which others are recognised.
    Mangle,
}

impl Table {
    /// The name as iptables writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a chain: at most 28 characters, which every name made here keeps to.
pub type ChainName = Arc<str>;

/// A rule without its chain: matches and target in the notation of the iptables command.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule(Arc<str>);

impl Rule {
    /// Everything that stands behind `-A CHAIN `.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The rule as words of a command line. Ours have no open quotes, so nothing is lost.
    pub(crate) fn words(&self) -> Vec<String> {
        super::save::words(self.as_str()).unwrap_or_default()
    }

    /// Starts a rule that carries a comment.
    pub(crate) fn comment(text: impl fmt::Display) -> Draft {
        Draft::default().comment(text)
    }

    /// Starts a rule without a comment.
    pub(crate) fn bare() -> Draft {
        Draft::default()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A chain with its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// What it is called.
    pub name: ChainName,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// XT_MAX_COMMENT_LEN without its final zero byte.
const LONGEST_COMMENT: usize = 255;

/// A rule being written. The order of calls is the order in the text; upstream's is kept, so that a diff
/// of both inputs is empty.
#[derive(Default)]
pub(crate) struct Draft(String);

impl Draft {
    /// Quoted where it has spaces and cut at the kernel's limit. Names have no quotes: see `name`.
    pub(crate) fn comment(self, text: impl fmt::Display) -> Self {
        let mut text = text.to_string();
        text.truncate(LONGEST_COMMENT);
        let quote = if text.contains(' ') { "\"" } else { "" };
        self.part(format_args!("-m comment --comment {quote}{text}{quote}"))
    }

    pub(crate) fn comment_unless(self, without: bool, text: impl fmt::Display) -> Self {
        if without { self } else { self.comment(text) }
    }

    pub(crate) fn protocol(self, protocol: Protocol) -> Self {
        self.part(format_args!("-m {protocol} -p {protocol}"))
    }

    pub(crate) fn destination(self, ip: IpAddr) -> Self {
        self.part(format_args!("-d {ip}"))
    }

    pub(crate) fn source(self, range: impl fmt::Display) -> Self {
        self.part(format_args!("-s {range}"))
    }

    pub(crate) fn destination_port(self, port: impl fmt::Display) -> Self {
        self.part(format_args!("--dport {port}"))
    }

    pub(crate) fn matching(self, matches: &str) -> Self {
        if matches.is_empty() { self } else { self.part(format_args!("{matches}")) }
    }

    pub(crate) fn with(self, part: fmt::Arguments<'_>) -> Self {
        self.part(part)
    }

    pub(crate) fn jump(self, target: impl fmt::Display) -> Rule {
        self.part(format_args!("-j {target}")).without_target()
    }

    /// A rule that only counts.
    pub(crate) fn without_target(self) -> Rule {
        Rule(self.0.into())
    }

    fn part(mut self, part: fmt::Arguments<'_>) -> Self {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        // Writing into a String does not fail.
        let _ = self.0.write_fmt(part);
        self
    }
}

/// The chains of one service port.
pub(crate) struct Names<'a> {
    service: &'a ServicePortName,
    protocol: Protocol,
    hash: String,
}

impl<'a> Names<'a> {
    pub(crate) fn new(service: &'a ServicePortName, protocol: Protocol) -> Self {
        let hash = crate::hash::base32_sha256(&[service.as_str(), protocol.as_str()], 16);
        Self { service, protocol, hash }
    }

    /// `kind` is SVC, SVL, EXT or FW.
    pub(crate) fn of(&self, kind: &str) -> ChainName {
        format!("KUBE-{kind}-{}", self.hash).into()
    }

    pub(crate) fn endpoint(&self, socket: &str) -> ChainName {
        let hash = crate::hash::base32_sha256(&[self.service.as_str(), self.protocol.as_str(), socket], 16);
        format!("KUBE-SEP-{hash}").into()
    }
}
