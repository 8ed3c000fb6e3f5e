//! Writing the first `meshd.toml`, for `init` and `join`.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Config, DEFAULT_PORT, HostPort, Subnet};

/// What `init` and `join` put into a new configuration file.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// `--listen`; the default if empty.
    pub listen: Vec<SocketAddr>,
    /// `--endpoint`.
    pub endpoints: Vec<HostPort>,
    /// `--datacenter`.
    pub datacenter: Option<String>,
    /// `--relay`.
    pub relay: bool,
    /// Subnets that the certificate allows.
    pub subnets: Vec<Subnet>,
}

impl Choices {
    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.listen.is_empty() && self.endpoints.is_empty() && self.datacenter.is_none() && !self.relay
    }

    /// The text of the configuration file: the choices, and the rest as comments.
    pub fn to_toml(&self) -> String {
        let default = Config::default();
        let mut text = String::from("# Configuration of meshd. After a change: systemctl reload meshd\n");
        let mut line = |comment: &str, key: &str, value: Option<String>, example: String| {
            // Writing to a string does not fail.
            let _ = match value {
                Some(value) => writeln!(text, "\n# {comment}\n{key} = {value}"),
                None => writeln!(text, "\n# {comment}\n#{key} = {example}"),
            };
        };
        let set = |list: String, empty: bool| (!empty).then_some(list);
        line(
            "UDP addresses to listen on; [::] is all addresses, IPv4 included.",
            "listen",
            set(quoted(&self.listen), self.listen.is_empty()),
            quoted(&[format!("[::]:{DEFAULT_PORT}")]),
        );
        line(
            "Where others reach this node from outside, if it has a public address or a forwarded port.",
            "endpoints",
            set(quoted(&self.endpoints), self.endpoints.is_empty()),
            quoted(&[format!("vpn.example.org:{DEFAULT_PORT}")]),
        );
        line(
            "The datacentre that this node is in.",
            "datacenter",
            self.datacenter.as_ref().map(|name| format!("\"{name}\"")),
            "\"ams\"".into(),
        );
        line(
            "Forward traffic between others; needs the role in the certificate.",
            "relay",
            self.relay.then(|| "true".into()),
            "true".into(),
        );
        line(
            "Networks behind this node; the certificate must allow them. The lowest weight is used.",
            "subnets",
            set(subnet_list(&self.subnets), self.subnets.is_empty()),
            "[{ prefix = \"192.168.7.0/24\", weight = 100 }]".into(),
        );
        line("The overlay's network device.", "interface", None, format!("\"{}\"", default.interface));
        line(
            "off: one packet a system call, should a kernel's batches be broken.",
            "offload",
            None,
            "\"auto\"".into(),
        );
        line(
            "off, prefer, or require: keys that a quantum computer will not find in recorded traffic.",
            "pq",
            None,
            "\"prefer\"".into(),
        );
        line("chacha20poly1305: no AES, whatever the CPU has.", "suite", None, "\"auto\"".into());
        line(
            "Queues and pairs of threads that carry packets; auto: one for two processors, at most 4.",
            "lanes",
            None,
            "\"auto\"".into(),
        );
        line(
            "off, normal, or strict: which rights, files, and system calls the daemon gives up after its start.",
            "sandbox",
            None,
            format!("\"{}\"", default.sandbox.name()),
        );
        line("error, warn, info, debug, or trace.", "log", None, "\"info\"".into());
        text
    }
}

/// `text` with `key = value` outside of all tables: in the place of a line that has the key, or in front; without `value`
/// the line goes.
pub fn with_key(text: &str, key: &str, value: Option<&str>) -> String {
    let mut outside = true;
    let mut lines: Vec<String> = Vec::new();
    let mut wanted = value.map(|value| format!("{key} = {value}"));
    for line in text.lines() {
        let trimmed = line.trim_start();
        outside &= !trimmed.starts_with('[');
        let rest = trimmed.strip_prefix(key).map(str::trim_start);
        if outside && rest.is_some_and(|rest| rest.starts_with('=')) {
            lines.extend(wanted.take());
        } else {
            lines.push(line.to_owned());
        }
    }
    let first = wanted.map(|line| line + "\n").unwrap_or_default();
    first + &lines.into_iter().map(|line| line + "\n").collect::<String>()
}

/// Puts `text` in the place of the file at `path`, at once, with the same mode and owner.
///
/// # Errors
/// What the system says.
pub fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("toml.new");
    std::fs::write(&new, text)?;
    if let Ok(old) = std::fs::metadata(path) {
        std::fs::set_permissions(&new, old.permissions())?;
        std::os::unix::fs::chown(&new, Some(old.uid()), Some(old.gid()))?;
    }
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, path)
}

fn quoted<T: ToString>(items: &[T]) -> String {
    // Addresses and host names need no escapes.
    let items: Vec<String> = items.iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn subnet_list(subnets: &[Subnet]) -> String {
    let items: Vec<String> = subnets
        .iter()
        .map(|subnet| format!("{{ prefix = \"{}\", weight = {} }}", subnet.prefix, subnet.weight))
        .collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_replaced_and_taken_out_and_the_rest_stays() {
        let text = "# mine\nrelay = true\n[hooks]\nexit_node = 3\n";
        let set = with_key(text, "exit_node", Some("\"gw\""));
        assert_eq!(set, format!("exit_node = \"gw\"\n{text}"));
        let other = with_key(&set, "exit_node", Some("\"gw2\""));
        assert_eq!(other, format!("exit_node = \"gw2\"\n{text}"));
        assert_eq!(with_key(&other, "exit_node", None), text);
        assert_eq!(with_key("exit = true\n", "exit_node", None), "exit = true\n");
    }

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meshd.toml");
        std::fs::write(&path, "a").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, "b").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_written_reads_back() {
        let choices = Choices {
            listen: vec!["192.0.2.1:7000".parse().unwrap(), "[2001:db8::1]:7000".parse().unwrap()],
            endpoints: vec!["vpn.example.org:7000".parse().unwrap(), "[2001:db8::1]:7000".parse().unwrap()],
            datacenter: Some("ams".into()),
            relay: true,
            subnets: vec![Subnet { prefix: "192.168.7.0/24".parse().unwrap(), weight: 5 }],
        };
        let config = Config::parse(Path::new("m.toml"), &choices.to_toml()).unwrap();
        assert_eq!((config.listen, config.endpoints), (choices.listen, choices.endpoints));
        assert_eq!(
            (config.datacenter, config.relay, config.subnets),
            (choices.datacenter, true, choices.subnets)
        );
    }

    #[test]
    fn without_choices_the_file_is_the_default_and_its_comments_are_right() {
        let text = Choices::default().to_toml();
        assert_eq!(Config::parse(Path::new("m.toml"), &text).unwrap(), Config::default());
        let live: String = text
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n"
            })
            .collect();
        Config::parse(Path::new("m.toml"), &live).unwrap();
    }
}
