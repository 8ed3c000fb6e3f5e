//! Bringing images to the node.

use std::collections::BTreeMap;

use bollard::errors::Error as DockerError;
use bollard::query_parameters as options;
use futures_util::StreamExt;

use super::{Engine, Error, refused, said};
use crate::stack::actual::ImageFact;
use crate::stack::definition::Arch;

impl Engine {
    /// Pulls an image unless it is there, as the user with the password of `login`, telling `progress` the bytes that came and those expected so far.
    ///
    /// # Errors
    /// [`Error::WrongArch`], or what the registry said.
    pub async fn pull(
        &self,
        reference: &str,
        arch: Arch,
        login: Option<(String, String)>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<ImageFact, Error> {
        if let Some(image) =
            self.image(reference).await.filter(|image| Arch::parse(&image.arch) == Some(arch))
        {
            return Ok(image);
        }
        let options = options::CreateImageOptions {
            from_image: Some(reference.to_owned()),
            platform: format!("linux/{arch}{}", if arch == Arch::Arm { "/v7" } else { "" }),
            ..Default::default()
        };
        let login = login.map(|(username, password)| bollard::auth::DockerCredentials {
            username: Some(username),
            password: Some(password),
            serveraddress: Some(crate::stack::spec::registry_of(reference).to_owned()),
            ..Default::default()
        });
        let mut layers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut failure = None;
        let mut events = Box::pin(self.docker.create_image(Some(options), None, login));
        while let Some(event) = events.next().await {
            match event {
                Err(error @ DockerError::HyperLegacyError { .. }) => {
                    return Err(refused("pull an image")(error));
                }
                Ok(event) => {
                    let detail = event.progress_detail.as_ref();
                    if let (Some(id), Some(detail)) = (event.id, detail)
                        && event.status.as_deref() == Some("Downloading")
                    {
                        let number = |value: Option<i64>| u64::try_from(value.unwrap_or(0)).unwrap_or(0);
                        layers.insert(id, (number(detail.current), number(detail.total)));
                        let (current, total) =
                            layers.values().fold((0, 0), |(a, b), (current, total)| (a + current, b + total));
                        progress(current, total);
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        // A pull may end in an error and be whole, or end well and have brought another platform's image: look.
        match self.image(reference).await {
            Some(image) if Arch::parse(&image.arch) == Some(arch) => Ok(image),
            Some(image) => {
                Err(Error::WrongArch { image: reference.to_owned(), got: image.arch, wanted: arch })
            }
            None => {
                let message =
                    failure.map_or("nothing came".to_owned(), |error| pull_hint(reference, &said(&error)));
                Err(Error::Refused { action: "pull an image", message })
            }
        }
    }
}

/// An engine answers 500 to bad credentials and to a registry that is down alike: tell them apart by their words.
fn pull_hint(reference: &str, message: &str) -> String {
    let lower = message.to_lowercase();
    let hint = if ["unauthorized", "no basic auth", "denied", "authentication required"]
        .iter()
        .any(|word| lower.contains(word))
    {
        "the registry wants credentials, or other ones: see [registries] in docs/stack.md"
    } else if [
        "connection refused",
        "no such host",
        "timeout",
        "i/o timeout",
        "network is unreachable",
        "eof",
    ]
    .iter()
    .any(|word| lower.contains(word))
    {
        "the registry cannot be reached from that node"
    } else if ["manifest unknown", "not found", "no matching manifest", "does not exist"]
        .iter()
        .any(|word| lower.contains(word))
    {
        "there is no such image or tag, or none for this architecture"
    } else if lower.contains("no space left") {
        "the node's disk is full"
    } else {
        return format!("{reference}: {message}");
    };
    format!("{reference}: {hint} ({message})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_said_is_told_apart() {
        for (said, expected) in [
            ("unauthorized: authentication required", "wants credentials"),
            ("no basic auth credentials", "wants credentials"),
            (
                "Get \"http://r:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
                "cannot be reached",
            ),
            ("manifest for a:1 not found: manifest unknown", "no such image"),
            ("write /x: no space left on device", "disk is full"),
            ("strange", "r/a:1: strange"),
        ] {
            let hint = pull_hint("r/a:1", said);
            assert!(hint.contains(expected), "{hint}");
        }
    }
}
