//! The daemon behind `meshd up`.

pub mod dns;
pub mod lanes;
pub mod notify;
