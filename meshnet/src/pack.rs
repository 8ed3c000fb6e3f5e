//! Ordered maps and sets that hold something of each member.

/// Builds a map or set anew. Each node of a tree has room for eleven entries: where entries came in ascending order, as they do
/// from the cache, six of these places are used, and in any order seven or eight; in a tree that is built from all entries at
/// once they are full.
pub(crate) fn pack<C: Default + IntoIterator<Item = T> + FromIterator<T>, T>(tree: &mut C) {
    *tree = std::mem::take(tree).into_iter().collect();
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn nothing_is_lost() {
        let mut map: BTreeMap<u32, u32> = (0..1000).map(|number| (number, number * number)).collect();
        let mut set: BTreeSet<u32> = (0..1000).rev().collect();
        let before = (map.clone(), set.clone());
        pack(&mut map);
        pack(&mut set);
        assert_eq!((map, set), before);
    }
}
