/// How often something was no more than each of some bounds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// Nothing was seen yet; the bounds rise.
    pub(crate) fn new(bounds: Vec<f64>) -> Self {
        Self { counts: vec![0; bounds.len()], bounds, count: 0, sum: 0.0 }
    }

    /// Something was seen.
    pub(crate) fn observe(&mut self, value: f64) {
        for (bound, count) in self.bounds.iter().zip(&mut self.counts) {
            *count += u64::from(value <= *bound);
        }
        self.count += 1;
        self.sum += value;
    }

    /// Bounds, and how many were no more.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds.iter().copied().zip(self.counts.iter().copied())
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }
}

/// So many bounds from the first one, each that many times the one before.
pub(crate) fn exponential(first: f64, factor: f64, count: i32) -> Vec<f64> {
    // Without the tail of a product of binary fractions: bounds are written out.
    let rounded = |bound: f64| (bound * 1e9).round() / 1e9;
    (0..count).map(|power| rounded(first * factor.powi(power))).collect()
}
