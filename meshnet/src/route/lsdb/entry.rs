//! A record as it is kept: its bytes, and when they came.

use std::time::Duration;

use proto::record::{Record, RecordView};
use proto::signed::Signed;

use super::Version;
use crate::route::limit::TokenBucket;
use crate::time::Mono;

/// A record in the database.
///
/// Of ten thousand records hardly one is looked at whole, so they are kept as bytes: [`Entry::view`] reads one field.
#[derive(Clone, Debug)]
pub struct Entry {
    bytes: Box<[u8]>,
    version: Version,
    pub(super) received: Mono,
    pub(super) accept: TokenBucket,
}

impl Entry {
    /// Keeps a record that came, or was made, at `received`.
    pub(super) fn new(record: Signed<Record>, received: Mono, accept: TokenBucket) -> Self {
        Self { version: Version::of(record.body()), bytes: record.into_bytes(), received, accept }
    }

    /// The record as signed by its origin.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The record, read whole.
    pub fn signed(&self) -> Signed<Record> {
        Signed::parse(&self.bytes).expect("it was read when it came")
    }

    /// The record's content, read whole.
    pub fn record(&self) -> Record {
        self.signed().into_body()
    }

    /// The record, to be read one field at a time.
    pub fn view(&self) -> RecordView<'_> {
        RecordView::new(&self.bytes)
    }

    /// The record's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Time since this version arrived here or was made here.
    pub fn age(&self, now: Mono) -> Duration {
        now.since(self.received)
    }
}
