//! Names of signals.

use cri_proto::v1;

const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// What stops a container that says nothing.
pub(crate) const SIGTERM: i32 = 15;

/// What stops everything.
pub(crate) const SIGKILL: i32 = 9;

/// The number of a signal as images name it: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub(crate) fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    match bare {
        "CLD" => return Some(libc::SIGCHLD),
        "IOT" => return Some(libc::SIGABRT),
        "POLL" => return Some(libc::SIGIO),
        _ => {}
    }
    let offset = |text: &str, sign: &str| match text.strip_prefix(sign) {
        Some(digits) => digits.parse::<i32>().ok(),
        None => text.is_empty().then_some(0),
    };
    let real_time = if let Some(rest) = bare.strip_prefix("RTMIN") {
        offset(rest, "+").and_then(|plus| SIGRTMIN.checked_add(plus))
    } else if let Some(rest) = bare.strip_prefix("RTMAX") {
        offset(rest, "-").and_then(|minus| SIGRTMAX.checked_sub(minus))
    } else {
        format!("SIG{bare}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    real_time.filter(|number| (1..=SIGRTMAX).contains(number))
}

/// The number of a signal as CRI names it; `None` for "as the image says".
pub(crate) fn from_cri(signal: v1::Signal) -> Option<i32> {
    if signal == v1::Signal::RuntimeDefault {
        return None;
    }
    number(&signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-"))
}

/// CRI's name for a signal number.
pub(crate) fn to_cri(number: i32) -> v1::Signal {
    // 65 is the last value; names that mean the same number come later and lose.
    let all = (1..=65).filter_map(|value| v1::Signal::try_from(value).ok());
    let preferred =
        |signal: &v1::Signal| !matches!(signal, v1::Signal::Sigcld | v1::Signal::Sigpoll | v1::Signal::Sigiot);
    all.filter(preferred).find(|signal| from_cri(*signal) == Some(number)).unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_every_usual_name() {
        for (name, expected) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMIN", 34),
            ("SIGCLD", 17),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for bad in ["", "SIG", "0", "65", "-1", "SIGRTMIN+99", "SIGRTMAX+1", "SIGFOO"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_cri_signal_has_a_number_and_comes_back_as_that_number() {
        for value in 1..=65 {
            let signal = v1::Signal::try_from(value).unwrap();
            let number = from_cri(signal).unwrap_or_else(|| panic!("{signal:?}"));
            assert_eq!(from_cri(to_cri(number)), Some(number), "{signal:?}");
        }
        assert_eq!(from_cri(v1::Signal::RuntimeDefault), None);
    }
}
