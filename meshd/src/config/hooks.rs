//! `[hooks]`: commands to run when something happens.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::diagnose::{Findings, example};
use crate::hooks::{Command, Config, On, TIMEOUT_MAX};
use crate::output::units;

/// The table as it is written.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct RawHooks {
    /// When the daemon is up.
    pub up: Option<Spanned<RawCommand>>,
    /// When it ends.
    pub down: Option<Spanned<RawCommand>>,
    /// When a member can be reached.
    pub node_up: Option<Spanned<RawCommand>>,
    /// When it cannot any more.
    pub node_down: Option<Spanned<RawCommand>>,
    /// When a subnet can be reached through a member.
    pub subnet_up: Option<Spanned<RawCommand>>,
    /// When it cannot any more.
    pub subnet_down: Option<Spanned<RawCommand>>,
    /// When traffic to a member takes another path.
    pub path_change: Option<Spanned<RawCommand>>,
    /// A directory with tinc's scripts.
    pub tinc: Option<Spanned<PathBuf>>,
    /// How long each may take.
    pub timeout: Option<Spanned<String>>,
}

/// A command: for the shell, or a program with its arguments.
#[derive(Deserialize, Debug)]
#[serde(untagged)]
pub enum RawCommand {
    /// For `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments.
    Program(Vec<String>),
}

/// Judges what was written.
pub(super) fn resolve(raw: RawHooks, findings: &mut Findings<'_>) -> Config {
    let mut config = Config::default();
    let commands = [
        (On::Up, raw.up),
        (On::Down, raw.down),
        (On::NodeUp, raw.node_up),
        (On::NodeDown, raw.node_down),
        (On::SubnetUp, raw.subnet_up),
        (On::SubnetDown, raw.subnet_down),
        (On::PathChange, raw.path_change),
    ];
    for (on, command) in commands {
        let Some(command) = command else { continue };
        let span = command.span();
        let command = match command.into_inner() {
            RawCommand::Shell(text) if text.trim().is_empty() => None,
            RawCommand::Shell(text) => Some(Command::Shell(text)),
            RawCommand::Program(words) if words.first().is_none_or(String::is_empty) => None,
            RawCommand::Program(words) => Some(Command::Program(words)),
        };
        match command {
            Some(command) => drop(config.commands.insert(on, command)),
            None => findings.add(span, format!("`{}` names no command", on.name()), example(on.name())),
        }
    }
    if let Some(tinc) = raw.tinc {
        if tinc.get_ref().is_absolute() {
            config.tinc = Some(tinc.into_inner());
        } else {
            let message = format!("`{}` is no absolute path", tinc.get_ref().display());
            findings.add(tinc.span(), message, example("tinc"));
        }
    }
    if let Some(timeout) = raw.timeout {
        match units::parse_span(timeout.get_ref()) {
            Ok(seconds) if (1..=TIMEOUT_MAX.as_secs()).contains(&seconds) => {
                config.timeout = Duration::from_secs(seconds);
            }
            Ok(_) => {
                let message = format!("`timeout` is {}, but must be from 1s to 5m", timeout.get_ref());
                findings.add(timeout.span(), message, example("timeout"));
            }
            Err(why) => findings.add(timeout.span(), why, example("timeout")),
        }
    }
    config
}
