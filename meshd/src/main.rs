//! `meshd`: the meshnet daemon and its command line.
fn main() {}
