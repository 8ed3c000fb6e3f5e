//! Who belongs to the mesh, and what each member may do.
//!
//! ```text
//! mesh id ── hash of ── trust bundle 1 ── signed by old and new roots ── trust bundle 2 ── …      bundle
//!                            │ roots
//!                            ▼
//!                       certificates ── role issuer, within constraints ── certificates           certificate, issue
//!                            │ identity key
//!                            ▼
//!                  key epochs, link-state records                                                 epoch, crate::route
//! ```
//!
//! [`Membership`] gathers all of it and answers what follows: who is a member now, which addresses and prefixes are whose.
//! [`SourceTable`] is the answer in the form that the data plane asks for every packet.

mod address;
mod bundle;
mod certificate;
mod epoch;
mod issue;
mod revocation;
mod secret;
mod source;
mod table;
#[cfg(test)]
mod tests;

pub use address::{is_host_of, member_address6, member_network6, mesh_network6, next_free_address};
pub use bundle::{BundleError, Extended, Founding, MAX_VERSIONS, TrustChain, found, root_key_id, succeed};
pub use certificate::{
    CLOCK_TOLERANCE_S, CertificateError, GRACE_S, Validity, VerifiedCertificate, member_id,
};
pub use epoch::{EpochError, KeyEpochs, MAX_EPOCHS, verify_epoch};
pub use issue::{DEFAULT_LIFETIME_S, IssueError, Request, Signer, issue};
pub use revocation::{MAX_REVOCATIONS, RevocationError, RevocationSet};
pub use secret::{AuthoritySecret, BadSignature, IdentitySecret, verify_join, verify_request};
pub use source::{MAX_OWNERS, MAX_SOURCES, SourceTable, SourceTableBuilder};
pub use table::{
    AddError, Added, Claimed, Clash, MAX_FORMER_OPERATORS, MAX_MEMBERS, Member, Membership, Revoked,
};
