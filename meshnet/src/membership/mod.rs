//! Who belongs to the mesh: authority, certificates, revocations.
