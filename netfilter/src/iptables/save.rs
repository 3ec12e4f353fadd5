//! The form in which `iptables-save` prints a rule.
//!
//! What goes in and what comes out differ in order and in defaults made visible. Knowing the printed form
//! lets a fake answer like the kernel, and lets rules found in the kernel be compared with ours.

use super::Rule;
use crate::Family;
use ipnet::IpNet;
use std::net::IpAddr;

/// Why a rule has no printed form here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// An option that our rules never have.
    #[error("option {0:?} is not one of ours")]
    Option(String),
    /// The value of an option is missing or wrong.
    #[error("option {0:?} has no usable value")]
    Value(String),
    /// A quote that does not end.
    #[error("a quote does not end")]
    Quote,
}

impl Rule {
    /// The rule as `iptables-save` prints it, without `-A CHAIN `.
    ///
    /// # Errors
    /// If the rule holds an option that kube-proxy's and our rules never hold.
    pub fn saved(&self, family: Family) -> Result<String, Unreadable> {
        saved(self.as_str(), family)
    }
}

/// [`Rule::saved`] for any rule text in our vocabulary; a rule that is already in printed form stays.
pub(super) fn saved(rule: &str, family: Family) -> Result<String, Unreadable> {
    let words = words(rule)?;
    let mut words = words.iter().map(String::as_str);
    let mut parts = Parts::new(family);
    while let Some(word) = words.next() {
        match word {
            "!" => parts.negated = true,
            _ => parts.take(word, &mut words)?,
        }
    }
    parts.print()
}

/// Splits at spaces; double quotes hold a word together.
pub(super) fn words(text: &str) -> Result<Vec<String>, Unreadable> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or(Unreadable::Quote)?,
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

/// What a rule says, apart from the order in which it was said.
struct Parts {
    family: Family,
    negated: bool,
    /// `-s`, `-d`, `-i` and `-p`, in the order in which they are printed.
    header: [Option<String>; 4],
    matches: Vec<Match>,
    target: Option<Match>,
}

/// A match or a target with its options.
struct Match {
    name: String,
    options: Vec<(String, String)>,
}

impl Match {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), options: Vec::new() }
    }
}

impl Parts {
    fn new(family: Family) -> Self {
        Self { family, negated: false, header: [const { None }; 4], matches: Vec::new(), target: None }
    }

    fn take<'a>(&mut self, word: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), Unreadable> {
        let missing = || Unreadable::Value(word.to_owned());
        let value = if is_flag(word) { "" } else { words.next().ok_or_else(missing)? };
        let not = if std::mem::take(&mut self.negated) { "! " } else { "" };
        match word {
            "-s" | "--src" => self.header[0] = Some(format!("{not}-s {}", self.range(value).ok_or_else(missing)?)),
            "-d" | "--dst" => self.header[1] = Some(format!("{not}-d {}", self.range(value).ok_or_else(missing)?)),
            "-i" => self.header[2] = Some(format!("{not}-i {value}")),
            "-p" => self.header[3] = Some(format!("{not}-p {value}")),
            "-m" => self.matches.push(Match::new(value)),
            "-j" => self.target = Some(Match::new(value)),
            _ => self.take_option(word, not, value)?,
        }
        Ok(())
    }

    fn take_option(&mut self, word: &str, not: &str, value: &str) -> Result<(), Unreadable> {
        let owner = owner_of(word);
        let belongs = |entry: &&mut Match| owner.contains(&entry.name.as_str());
        let found = self.target.iter_mut().find(belongs);
        let found = found.or_else(|| self.matches.iter_mut().rev().find(belongs));
        let entry = found.ok_or_else(|| Unreadable::Option(word.to_owned()))?;
        entry.options.push((format!("{not}{word}"), value.to_owned()));
        Ok(())
    }

    fn range(&self, text: &str) -> Option<IpNet> {
        let range = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        range.ok().filter(|range| self.family.has_net(range)).map(|range| range.trunc())
    }

    fn print(&self) -> Result<String, Unreadable> {
        let mut words: Vec<String> = self.header.iter().flatten().cloned().collect();
        for entry in &self.matches {
            words.push(format!("-m {}", entry.name));
            words.extend(self.print_match(entry)?);
        }
        if let Some(target) = &self.target {
            words.push(format!("-j {}", target.name));
            words.extend(self.print_target(target)?);
        }
        Ok(words.join(" "))
    }

    fn print_match(&self, entry: &Match) -> Result<Vec<String>, Unreadable> {
        let all_ones = match self.family {
            Family::V4 => "255.255.255.255",
            Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        };
        if entry.name == "recent" {
            let has = |option: &str| entry.options.iter().find(|(word, _)| word == option);
            let given = ["--rcheck", "--set", "--seconds", "--reap", "--name"].into_iter().filter_map(has);
            let mut words: Vec<_> = given.map(|(word, value)| joined(word, value)).collect();
            words.push(format!("--mask {all_ones} --rsource"));
            return Ok(words);
        }
        entry.options.iter().map(|(word, value)| print_option(word, value)).collect()
    }

    fn print_target(&self, target: &Match) -> Result<Vec<String>, Unreadable> {
        let unreachable = match self.family {
            Family::V4 => "icmp-port-unreachable",
            Family::V6 => "icmp6-port-unreachable",
        };
        if target.name == "REJECT" {
            return Ok(vec![format!("--reject-with {unreachable}")]);
        }
        target.options.iter().map(|(word, value)| print_option(word, value)).collect()
    }
}

fn is_flag(word: &str) -> bool {
    matches!(word, "--rcheck" | "--set" | "--reap" | "--rsource" | "--random-fully")
}

/// The matches or targets that have this option.
fn owner_of(option: &str) -> &'static [&'static str] {
    match option {
        "--comment" => &["comment"],
        "--dport" => &["tcp", "udp", "sctp"],
        "--dst-type" | "--src-type" => &["addrtype"],
        "--ctstate" => &["conntrack"],
        "--mark" => &["mark"],
        "--rcheck" | "--set" | "--seconds" | "--reap" | "--name" | "--mask" | "--rsource" => &["recent"],
        "--mode" | "--probability" => &["statistic"],
        "--nfacct-name" => &["nfacct"],
        "--or-mark" | "--xor-mark" | "--set-xmark" => &["MARK"],
        "--reject-with" => &["REJECT"],
        "--random-fully" => &["MASQUERADE"],
        "--to-destination" => &["DNAT"],
        _ => &[],
    }
}

fn print_option(word: &str, value: &str) -> Result<String, Unreadable> {
    let wrong = || Unreadable::Value(word.to_owned());
    Ok(match word {
        "--comment" => format!("--comment \"{value}\""),
        "--nfacct-name" => format!("--nfacct-name  {value}"),
        "--probability" => format!("--probability {}", kernel_probability(value).ok_or_else(wrong)?),
        "--or-mark" => number(value).map(|bits| format!("--set-xmark {bits:#x}/{bits:#x}")).ok_or_else(wrong)?,
        "--xor-mark" => number(value).map(|bits| format!("--set-xmark {bits:#x}/0x0")).ok_or_else(wrong)?,
        "--mark" | "! --mark" | "--set-xmark" => {
            let (value, mask) = value.split_once('/').and_then(|(v, m)| number(v).zip(number(m))).ok_or_else(wrong)?;
            format!("{word} {value:#x}/{mask:#x}")
        }
        _ => joined(word, value),
    })
}

fn joined(word: &str, value: &str) -> String {
    if value.is_empty() { word.to_owned() } else { format!("{word} {value}") }
}

fn number(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
}

/// The kernel keeps 31 bits of a probability and prints 11 decimals of them.
fn kernel_probability(text: &str) -> Option<String> {
    const ONE: f64 = 2_147_483_648.0;
    let chance: f64 = text.parse().ok().filter(|chance| (0.0..=1.0).contains(chance))?;
    Some(format!("{:.11}", (chance * ONE).round() / ONE))
}

#[cfg(test)]
mod tests;
