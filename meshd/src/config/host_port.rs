//! A host with a port, as people write endpoints.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A host name or an address, with a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A DNS name, or an address without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

/// Why a text is no [`HostPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// There is no `:PORT`.
    #[error("the port is missing")]
    NoPort,
    /// The port is not 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The host is neither an address nor a host name.
    #[error("the host is neither an address nor a host name")]
    Host,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return match socket.port() {
                0 => Err(HostPortError::Port),
                port => Ok(HostPort { host: socket.ip().to_string(), port }),
            };
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(HostPortError::NoPort);
        }
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::NoPort)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(HostPortError::Port)?;
        // Digits and dots alone are a mistyped address, never a host name.
        let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        if numeric || name.len() > 253 || !name.split('.').all(label) {
            return Err(HostPortError::Host);
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl HostPort {
    /// The endpoint, if the host is an address and needs no look-up.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, self.port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
