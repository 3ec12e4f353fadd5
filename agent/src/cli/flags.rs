//! Values of flags, read and checked.

use crate::quantity::Amount;

/// A size from which on something is done; `None` for never.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxSize(pub(super) Option<u64>);

/// Reads a quantity; negative ones mean never.
pub(super) fn size(text: &str) -> Result<MaxSize, String> {
    let amount = Amount::parse(text).map_err(|error| error.to_string())?;
    if amount == Amount::ZERO {
        return Err("a log of no size at all cannot be kept; a negative size turns rotation off".to_owned());
    }
    Ok(MaxSize((!amount.is_negative()).then(|| amount.ceil_units())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_size_is_never_and_none_at_all_is_refused() {
        let read = |text: &str| size(text).map(|size| size.0);
        assert_eq!(read("10Mi"), Ok(Some(10 << 20)));
        assert_eq!(read("-1"), Ok(None));
        assert!(read("0").is_err() && read("much").is_err());
    }
}
