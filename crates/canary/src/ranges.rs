//! A set of numbers that takes memory for its gaps, not for its members.

use serde::{Deserialize, Serialize};

/// A set of sequence numbers, kept as inclusive ranges: sorted, apart from each other, never adjacent.
///
/// As JSON: `[[1,4711],[4713,9000]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(i64, i64)>", into = "Vec<(i64, i64)>")]
pub struct Ranges(Vec<(i64, i64)>);

impl From<Vec<(i64, i64)>> for Ranges {
    /// Sorts and merges; a range that ends before it begins is empty.
    fn from(mut ranges: Vec<(i64, i64)>) -> Self {
        ranges.retain(|(low, high)| low <= high);
        ranges.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }
}

impl From<Ranges> for Vec<(i64, i64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

impl Ranges {
    /// Adds one number; quick when numbers come in ascending order.
    pub fn insert(&mut self, number: i64) {
        match self.0.last_mut() {
            None => self.0.push((number, number)),
            Some((_, high)) if number == *high + 1 => *high = number,
            Some((_, high)) if number > *high => self.0.push((number, number)),
            Some(_) => {
                let mut ranges = std::mem::take(&mut self.0);
                ranges.push((number, number));
                *self = Self::from(ranges);
            }
        }
    }

    /// Returns how many numbers are in the set.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(low, high)| high.abs_diff(*low) + 1).sum()
    }

    /// Says whether there is no number in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says whether `number` is in the set.
    pub fn contains(&self, number: i64) -> bool {
        let following = self.0.partition_point(|(low, _)| *low <= number);
        following > 0 && number <= self.0[following - 1].1
    }

    /// Returns the greatest number.
    pub fn last(&self) -> Option<i64> {
        self.0.last().map(|(_, high)| *high)
    }

    /// Walks through the numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().flat_map(|(low, high)| *low..=*high)
    }

    /// Returns what is in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from([self.0.as_slice(), other.0.as_slice()].concat())
    }

    /// Returns what is in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut mine, mut theirs, mut both) = (0, 0, Vec::new());
        while let (Some(a), Some(b)) = (self.0.get(mine), other.0.get(theirs)) {
            let (low, high) = (a.0.max(b.0), a.1.min(b.1));
            if low <= high {
                both.push((low, high));
            }
            if a.1 < b.1 { mine += 1 } else { theirs += 1 }
        }
        Self(both)
    }

    /// Returns what is in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let (mut theirs, mut rest) = (0, Vec::new());
        for &(mut low, high) in &self.0 {
            while other.0.get(theirs).is_some_and(|b| b.1 < low) {
                theirs += 1;
            }
            // Not `theirs` itself: the last range looked at may reach into the next of ours.
            for b in &other.0[theirs..] {
                if b.0 > high || low > high {
                    break;
                }
                if b.0 > low {
                    rest.push((low, b.0 - 1));
                }
                low = b.1.saturating_add(1);
            }
            if low <= high {
                rest.push((low, high));
            }
        }
        Self(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(ranges: &[(i64, i64)]) -> Ranges {
        Ranges::from(ranges.to_vec())
    }

    #[test]
    fn consecutive_numbers_take_one_range() {
        let mut ranges = Ranges::default();
        (1..=100_000).for_each(|number| ranges.insert(number));
        assert_eq!(ranges.0, [(1, 100_000)]);
    }

    #[test]
    fn a_number_that_fills_a_gap_joins_its_neighbours() {
        let mut ranges = set(&[(1, 3), (5, 9)]);
        ranges.insert(4);
        assert_eq!(ranges.0, [(1, 9)]);
    }

    #[test]
    fn json_is_a_list_of_pairs_and_is_put_in_order_on_reading() {
        let ranges: Ranges = serde_json::from_str("[[5,9],[1,4],[12,12]]").unwrap();
        assert_eq!(serde_json::to_string(&ranges).unwrap(), "[[1,9],[12,12]]");
    }

    /// Every subset of eight numbers against every other: the sweeps agree with a plain set of numbers.
    #[test]
    fn set_operations_agree_with_plain_sets() {
        let members = |bits: u32| (0..8).filter(move |n| bits & (1 << n) != 0).map(i64::from);
        let ranges = |bits| Ranges::from(members(bits).map(|n| (n, n)).collect::<Vec<_>>());
        for a in 0..256 {
            for b in 0..256 {
                let (ra, rb) = (ranges(a), ranges(b));
                for (got, want) in [(ra.union(&rb), a | b), (ra.intersection(&rb), a & b), (ra.difference(&rb), a & !b)]
                {
                    assert_eq!(got, ranges(want), "{a:08b} and {b:08b}");
                    assert_eq!(got.len(), u64::from(want.count_ones()));
                    assert_eq!(got.iter().collect::<BTreeSet<_>>(), members(want).collect());
                    assert!((-1..9).all(|n| got.contains(n) == members(want).any(|m| m == n)));
                }
            }
        }
    }
}
