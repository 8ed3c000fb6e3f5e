//! Medians and spreads of a handful of rounds.

/// The values of one figure, one a round, in the order measured.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    /// The median: with an even count the mean of the two in the middle. `None` without values.
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[middle]),
            _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        }
    }

    /// Lowest and highest value.
    pub fn range(&self) -> Option<(f64, f64)> {
        let sorted = self.sorted();
        Some((*sorted.first()?, *sorted.last()?))
    }

    /// How far the middle rounds lie apart, as a share of the median: the range without the lowest and the highest
    /// value from five rounds on, the whole range below. 0.1 means within 10 %.
    pub fn spread(&self) -> Option<f64> {
        let median = self.median()?;
        let sorted = self.sorted();
        let middle = if sorted.len() >= 5 { &sorted[1..sorted.len() - 1] } else { &sorted[..] };
        let width = middle.last()? - middle.first()?;
        if median == 0.0 {
            Some(if width == 0.0 { 0.0 } else { f64::INFINITY })
        } else {
            Some(width / median)
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The value below which the share `q` (0 to 1) of `values` lies, by the nearest rank. `None` without values.
pub fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (q.clamp(0.0, 1.0) * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> Rounds {
        Rounds(values.to_vec())
    }

    #[test]
    fn the_median_is_the_middle_value_whatever_the_order() {
        assert_eq!(rounds(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(rounds(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(rounds(&[]).median(), None);
    }

    #[test]
    fn the_spread_of_few_rounds_is_their_range_and_of_five_leaves_one_off_at_each_end() {
        assert_eq!(rounds(&[9.0, 10.0, 11.0]).spread(), Some(0.2));
        assert_eq!(rounds(&[1.0, 9.0, 10.0, 11.0, 99.0]).spread(), Some(0.2));
        assert_eq!(rounds(&[0.0, 0.0]).spread(), Some(0.0));
        assert_eq!(rounds(&[7.0]).spread(), Some(0.0));
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), Some(50.0));
        assert_eq!(quantile(&mut values, 0.99), Some(99.0));
        assert_eq!(quantile(&mut values, 1.0), Some(100.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
