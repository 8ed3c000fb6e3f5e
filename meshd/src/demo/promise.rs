//! What the demo says it will show, and whether it was seen.

use serde::Serialize;

/// One thing that must be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Promise {
    /// What was promised.
    pub(super) promise: String,
    /// Whether it was seen.
    pub(super) kept: bool,
    /// What was seen.
    pub(super) seen: String,
}

/// All that was promised so far.
#[derive(Debug, Default)]
pub(super) struct Promises {
    list: Vec<Promise>,
}

impl Promises {
    /// Notes one, and gives it for display.
    pub(super) fn note(
        &mut self,
        promise: impl Into<String>,
        kept: bool,
        seen: impl Into<String>,
    ) -> Promise {
        let promise = Promise { promise: promise.into(), kept, seen: seen.into() };
        self.list.push(promise.clone());
        promise
    }

    /// Was everything seen? Not when nothing was promised: the demo then ended before it began.
    pub(super) fn all_kept(&self) -> bool {
        !self.list.is_empty() && self.list.iter().all(|promise| promise.kept)
    }

    /// Those that were not kept.
    pub(super) fn broken(&self) -> impl Iterator<Item = &Promise> {
        self.list.iter().filter(|promise| !promise.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_spoils_it_and_none_at_all_is_no_success() {
        let mut promises = Promises::default();
        assert!(!promises.all_kept());
        promises.note("one", true, "yes");
        assert!(promises.all_kept());
        promises.note("two", false, "no");
        assert!(!promises.all_kept());
        assert_eq!(promises.broken().count(), 1);
    }
}
