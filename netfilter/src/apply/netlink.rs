//! What messages of nfnetlink have in common (linux/netlink.h, linux/netfilter/nfnetlink.h): a header, what nftables puts
//! behind it, and attributes of length, type and value, padded to four bytes.

/// Bytes of a message's header, of nfgenmsg, and of an attribute's header.
pub(super) const HEADER: usize = 16;
pub(super) const NFGEN: usize = 4;
pub(super) const ATTRIBUTE: usize = 4;

/// Two bytes in the machine's order.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The value of the first attribute of a type.
pub(super) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(length), Some(kind)) = (number(attributes, 0), number(attributes, 2)) {
        let value = attributes.get(ATTRIBUTE..usize::from(length))?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}
