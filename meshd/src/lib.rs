//! The parts of `meshd`, the meshnet daemon and its command line. A library only so that its tests and the binary
//! share them; nothing else builds on it.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod exit;
pub mod founding;
pub mod hooks;
pub mod join;
pub mod local;
pub mod log;
pub mod metrics;
pub mod output;
pub mod sandbox;
pub mod stack;
pub mod state;
