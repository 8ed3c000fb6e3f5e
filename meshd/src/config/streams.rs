//! TCP for where UDP is blocked: what to listen on, and how to get out.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use zeroize::Zeroizing;

use super::HostPort;
use super::diagnose::{Findings, example};
use super::raw::Raw;
use super::values::choice;

/// Most addresses to listen on, of each kind.
const MAX_LISTEN: usize = 8;
/// Longest user name and password (RFC 1929).
const MAX_LOGIN: usize = 255;
/// Longest file with a password that is read.
const MAX_FILE: u64 = 4096;

/// What is configured about TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    /// Addresses to listen on.
    pub listen_tcp: Vec<SocketAddr>,
    /// Addresses to listen on, with TLS.
    pub listen_tls: Vec<SocketAddr>,
    /// The certificate to show there; one is made up if `None`.
    pub certificate: Option<CertificateFiles>,
    /// Whether connections are made where datagrams do not arrive.
    pub dial: bool,
    /// The name that is asked for in TLS; none if `None`.
    pub tls_name: Option<String>,
    /// The proxy through which all connections are made.
    pub proxy: Option<Proxy>,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams {
            listen_tcp: Vec::new(),
            listen_tls: Vec::new(),
            certificate: None,
            dial: true,
            tls_name: None,
            proxy: None,
        }
    }
}

impl Streams {
    /// Keys whose values differ.
    pub(super) fn changed(&self, other: &Streams) -> Vec<&'static str> {
        [
            (self.listen_tcp != other.listen_tcp, "listen_tcp"),
            (self.listen_tls != other.listen_tls, "listen_tls"),
            (self.certificate != other.certificate, "tls_certificate"),
            (self.dial != other.dial, "tcp"),
            (self.tls_name != other.tls_name, "tls_name"),
            (self.proxy != other.proxy, "proxy"),
        ]
        .into_iter()
        .filter_map(|(differs, key)| differs.then_some(key))
        .collect()
    }
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those that lead to a known authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who to say that we are.
    pub login: Option<Login>,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// SOCKS version 5 (RFC 1928).
    Socks5,
    /// HTTP's CONNECT.
    Http,
}

/// A user of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// What proves it.
    pub password: Password,
}

/// A password, which is neither printed nor logged, and does not stay in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// This one.
    pub fn new(password: Zeroizing<String>) -> Password {
        Password(password)
    }

    /// The password itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a password)")
    }
}

/// Judges what was written, and takes it out of `raw`.
pub(super) fn resolve(raw: &mut Raw, findings: &mut Findings<'_>) -> Streams {
    let mut streams = Streams {
        listen_tcp: addresses("listen_tcp", raw.listen_tcp.take().unwrap_or_default(), findings),
        listen_tls: addresses("listen_tls", raw.listen_tls.take().unwrap_or_default(), findings),
        ..Streams::default()
    };
    if let Some(twice) = streams.listen_tls.iter().find(|address| streams.listen_tcp.contains(address)) {
        findings.add(0..0, format!("{twice} is in both `listen_tcp` and `listen_tls`"), None);
    }
    streams.dial =
        choice("tcp", raw.tcp.take(), &[("auto", true), ("off", false)], findings).unwrap_or(streams.dial);
    match (raw.tls_certificate.take(), raw.tls_key.take()) {
        (None, None) => {}
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.into_inner(), key.into_inner());
            streams.certificate = Some(CertificateFiles { certificate, key });
        }
        (Some(one), None) | (None, Some(one)) => {
            let message = "`tls_certificate` and `tls_key` go together";
            findings.add(one.span(), message, example("tls_certificate"));
        }
    }
    if let Some(name) = raw.tls_name.take() {
        match format!("{}:443", name.get_ref()).parse::<HostPort>() {
            Ok(_) => streams.tls_name = Some(name.into_inner()),
            Err(_) => findings.add(
                name.span(),
                format!("`{}` is no host name", name.get_ref()),
                example("tls_name"),
            ),
        }
    }
    let password = raw.proxy_password_file.take().and_then(|file| password(&file, findings));
    if let Some(url) = raw.proxy.take() {
        // The text is not repeated: there may be a password in it.
        match proxy(&url.get_ref().0, password) {
            Ok(proxy) => streams.proxy = Some(proxy),
            Err(message) => findings.add(url.span(), message, example("proxy")),
        }
    }
    streams
}

fn addresses(key: &str, items: Vec<Spanned<String>>, findings: &mut Findings<'_>) -> Vec<SocketAddr> {
    let mut resolved = Vec::new();
    for item in &items {
        match item.get_ref().parse::<SocketAddr>() {
            Ok(address) if resolved.contains(&address) => {
                findings.add(item.span(), format!("{address} is in `{key}` twice"), None);
            }
            Ok(address) => resolved.push(address),
            Err(_) => {
                let message = format!("`{}` is not ADDRESS:PORT", item.get_ref());
                findings.add(item.span(), message, example(key));
            }
        }
    }
    if let Some(over) = items.get(MAX_LISTEN) {
        findings.add(over.span(), format!("`{key}` has more than {MAX_LISTEN} items"), None);
    }
    resolved
}

fn password(file: &Spanned<PathBuf>, findings: &mut Findings<'_>) -> Option<Password> {
    use std::io::Read;
    let path = file.get_ref();
    let mut text = Zeroizing::new(String::new());
    let read = std::fs::File::open(path).and_then(|opened| opened.take(MAX_FILE).read_to_string(&mut text));
    match read {
        Ok(_) => Some(Password(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))),
        Err(error) => {
            findings.add(file.span(), format!("cannot read {}: {error}", path.display()), None);
            None
        }
    }
}

/// `socks5://USER:PASSWORD@HOST:PORT` or `http://...`; a separate password comes first.
fn proxy(url: &str, password: Option<Password>) -> Result<Proxy, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or("`proxy` has no `socks5://` or `http://`")?;
    let kind = match scheme {
        "socks5" | "socks5h" => ProxyKind::Socks5,
        "http" => ProxyKind::Http,
        _ => return Err("`proxy` is neither `socks5://` nor `http://`"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
    let place: HostPort = place.parse().map_err(|_| "`proxy` does not end in HOST:PORT")?;
    let HostPort { host, port } = place;
    let Some(login) = login else {
        return match password {
            None => Ok(Proxy { kind, host, port, login: None }),
            Some(_) => Err("there is a `proxy_password_file`, but `proxy` names no user"),
        };
    };
    let (user, inline) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
    let decoded = |text| percent_decoded(text).ok_or("`proxy` has a `%` without two hexadecimal digits");
    let user = decoded(user)?.to_string();
    let password = match (password, inline) {
        (Some(_), Some(_)) => return Err("there is a password both in `proxy` and in `proxy_password_file`"),
        (Some(password), None) => password,
        (None, inline) => Password(decoded(inline.unwrap_or_default())?),
    };
    let fits = |text: &str| text.len() <= MAX_LOGIN && !text.contains(char::is_control);
    if user.is_empty() || !fits(&user) || !fits(password.as_str()) {
        return Err("the proxy's user or password is empty, too long, or has control characters");
    }
    // RFC 1929 wants at least one byte, RFC 7617 no colon in the name.
    if (kind == ProxyKind::Socks5 && password.as_str().is_empty())
        || (kind == ProxyKind::Http && user.contains(':'))
    {
        return Err("this kind of proxy cannot take such a user or password");
    }
    Ok(Proxy { kind, host, port, login: Some(Login { user, password }) })
}

fn percent_decoded(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? << 4 | digit(digits[1])?) as u8);
        rest = after;
    }
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Password {
        Password(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn proxies_are_read_with_and_without_user() {
        let plain = proxy("socks5://192.0.2.1:1080", None).unwrap();
        assert_eq!((plain.kind, plain.host.as_str(), plain.port), (ProxyKind::Socks5, "192.0.2.1", 1080));
        assert!(plain.login.is_none());
        let full = proxy("http://me%40home:p%3a%25w@proxy.example.org:3128/", None).unwrap();
        let login = full.login.as_ref().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("me@home", "p:%w"));
        let file = proxy("socks5://me@[2001:db8::1]:1080", Some(secret("word"))).unwrap();
        assert_eq!((file.host.as_str(), file.login.unwrap().password.as_str()), ("2001:db8::1", "word"));
    }

    #[test]
    fn nothing_that_is_printed_has_a_password_in_it() {
        let full = proxy("http://me:hunter2@proxy.example.org:3128", None).unwrap();
        assert!(!format!("{full:?}").contains("hunter2"), "{full:?}");
        for wrong in [
            "ftp://me:hunter2@h:1",
            "me:hunter2@h:1",
            "http://me:hunter2@h",
            "http://:hunter2@h:1",
            "http://me:hunter2%4@h:1",
            "socks5://me:@h:1",
            "http://me:hunter2\n@h:1",
        ] {
            let error = proxy(wrong, None).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(proxy("http://me:a@h:1", Some(secret("b"))).is_err());
        assert!(proxy("http://h:1", Some(secret("b"))).is_err());
    }
}
