//! Which files the calling thread, and those that it starts, may use from now on (landlock(7)).

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::{Mode, Needs};

/// The newest rules that this was tested with: Linux 6.12.
const NEWEST: ABI = ABI::V6;

/// What a name look-up reads (nsswitch.conf(5), resolv.conf(5), hosts(5), gai.conf(5)), where it is not replaced.
const NAME_FILES: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
];
/// Where the programs live that write `resolv.conf`, and the libraries of nsswitch.conf(5).
const NAME_DIRECTORIES: [&str; 8] = [
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// Rules that are not in force yet.
pub struct Rules {
    rules: RulesetCreated,
    mode: Mode,
}

impl Rules {
    /// From paths as they are now. Those that do not exist are left out: they cannot be used later either, but for files
    /// in directories that are named.
    ///
    /// # Errors
    /// In strict mode, what the kernel cannot do.
    pub fn new(mode: Mode, needs: &Needs) -> Result<Rules, String> {
        let failed = |error: landlock::RulesetError| error.to_string();
        let level = match mode {
            Mode::Strict => CompatLevel::HardRequirement,
            Mode::Off | Mode::Normal => CompatLevel::BestEffort,
        };
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = read
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let mut scopes = BitFlags::<Scope>::from(Scope::Signal);
        // The one socket in the abstract name space that is ever used is systemd's, where it gives one.
        if !std::env::var("NOTIFY_SOCKET").is_ok_and(|path| path.starts_with('@')) {
            scopes |= Scope::AbstractUnixSocket;
        }
        let mut rules = Ruleset::default()
            .set_compatibility(level)
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|rules| rules.scope(scopes))
            .and_then(Ruleset::create)
            .map_err(failed)?;
        let names = NAME_FILES.iter().chain(&NAME_DIRECTORIES).chain(&DEVICES).map(Path::new);
        // Where resolv.conf is replaced by another file, a rule for the old one is no good: whoever does not insist may
        // read all of /etc that its user may.
        let etc = (mode != Mode::Strict).then_some(Path::new("/etc"));
        let readable = needs.read.iter().map(|path| path.as_path()).chain(names).chain(etc);
        let writable = needs.write.iter().map(|path| (path.as_path(), write));
        for (path, access) in readable.map(|path| (path, read)).chain(writable) {
            // Rules follow symbolic links, and stay with the file or directory that is there now.
            let Ok(opened) = PathFd::new(path) else { continue };
            let allowed = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
            rules = rules.add_rule(PathBeneath::new(opened, allowed)).map_err(failed)?;
        }
        Ok(Rules { rules, mode })
    }

    /// Puts them in force.
    ///
    /// # Errors
    /// Why they are not, or not all of them in strict mode.
    pub fn enforce(self) -> Result<String, String> {
        let status = self.rules.restrict_self().map_err(|error| error.to_string())?;
        match status.ruleset {
            RulesetStatus::FullyEnforced => Ok("Landlock: state, configuration, and name look-ups".into()),
            RulesetStatus::PartiallyEnforced if self.mode != Mode::Strict => {
                Ok("Landlock, as far as this kernel knows it: state, configuration, and name look-ups".into())
            }
            RulesetStatus::PartiallyEnforced => {
                Err("this kernel knows Landlock only in part (Linux 6.12 has all)".into())
            }
            RulesetStatus::NotEnforced => Err("this kernel has no Landlock, or it is not switched on".into()),
        }
    }
}
