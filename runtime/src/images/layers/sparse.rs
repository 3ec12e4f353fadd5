//! Sparse files: which parts of the file the data in the archive are.

/// A run of bytes in the file; runs follow one another without overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

// A map is held in memory: 16 MiB at most. Beyond this many holes a file is an attack.
pub(super) const MAX_SEGMENTS: usize = 1 << 20;

/// Checks that the runs rise, stay inside the file and use exactly the stored bytes. `pairs` is offset, length, ….
pub(super) fn segments(pairs: &[u64], real_size: u64, stored: u64) -> Result<Vec<Segment>, &'static str> {
    if !pairs.len().is_multiple_of(2) {
        return Err("a sparse map with an offset but no length");
    }
    let mut end = 0u64;
    let mut sum = 0u64;
    let mut segments = Vec::with_capacity(pairs.len() / 2);
    for pair in pairs.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        if offset < end {
            return Err("sparse parts that overlap");
        }
        end = offset.checked_add(length).ok_or("a sparse part beyond all numbers")?;
        sum = sum.checked_add(length).ok_or("a sparse part beyond all numbers")?;
        if length > 0 {
            segments.push(Segment { offset, length });
        }
    }
    if end > real_size {
        return Err("a sparse part behind the end of its file");
    }
    if sum != stored {
        return Err("a sparse map that does not fit its data");
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_rise_and_fit() {
        let ok = segments(&[0, 2, 10, 3, 20, 0], 20, 5).unwrap();
        assert_eq!(ok, [Segment { offset: 0, length: 2 }, Segment { offset: 10, length: 3 }]);
        for (pairs, real, stored) in [
            (&[0u64, 2, 1, 1][..], 9, 3),
            (&[0, 2, 5], 9, 2),
            (&[5, 5], 9, 5),
            (&[0, 2], 9, 3),
            (&[u64::MAX, 2], 9, 2),
            (&[0, u64::MAX, u64::MAX, 0, u64::MAX, 1], u64::MAX, 0),
        ] {
            assert!(segments(pairs, real, stored).is_err(), "{pairs:?}");
        }
    }
}
