//! The node's own container engine, over its local socket.
//!
//! Facts about engines that are easy to get wrong: starting what runs is no error (304); a second container of a name is
//! 409; missing credentials and a registry that is down are both 500; a platform that an image does not have is silently
//! replaced by one that it has; a pull can end in an error and be whole. Measured with 20.10.24 (API 1.41).

mod body;
pub mod probe;
mod processes;
mod pull;
mod run;

pub(crate) use body::file_name;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::models::{ContainerInspectResponse, VolumeCreateRequest};
use bollard::query_parameters as options;
use futures_util::future::join_all;

use super::actual::{Found, ImageFact};
use super::definition::DriverKind;
use super::definition::{Arch, Definition, LABEL, Source};

/// How long the engine may take for one answer, in seconds: above every grace that it waits for itself.
const TIMEOUT_S: u64 = 900;
/// What the name of a container ends with that runs one program beside a replica's data.
const ONCE: &str = "-once";

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket.
    #[error(
        "the container engine does not answer{}: is it running, and is `engine` in meshd.toml right?",
        .0.as_ref().map(|at| format!(" at {at}")).unwrap_or_default()
    )]
    NoEngine(Option<String>),
    /// The engine says no.
    #[error("the engine could not {action}: {message}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// What it said.
        message: String,
    },
    /// The image is for other machines.
    #[error("{image} is for {got}, but this node is {wanted}: name an image for {wanted} in stack.toml")]
    WrongArch {
        /// The image.
        image: String,
        /// What came.
        got: String,
        /// What is needed.
        wanted: Arch,
    },
    /// The volume's data belongs to another replica.
    #[error(
        "the volume {volume} has the data of replica {has}, but this is replica {wanted}: its server would keep the old number \
         without a word. Move the volume away, or name the node in the place that it had"
    )]
    OtherReplica {
        /// The volume.
        volume: String,
        /// The number in its data.
        has: String,
        /// The number wanted.
        wanted: u32,
    },
    /// A container or volume under the name is not ours.
    #[error("something called {0} is there that this stack did not make: remove or rename it")]
    Foreign(String),
}

/// A connection to the engine.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
}

impl Engine {
    /// Connects to the socket at `path` (with or without `unix://`).
    ///
    /// # Errors
    /// [`Error::NoEngine`] if there is no socket.
    pub fn connect(path: &str) -> Result<Engine, Error> {
        let no_engine = |_| Error::NoEngine(Some(path.to_owned()));
        let docker =
            Docker::connect_with_unix(path, TIMEOUT_S, bollard::API_DEFAULT_VERSION).map_err(no_engine)?;
        Ok(Engine { docker })
    }

    /// The engine's version.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn version(&self) -> Result<String, Error> {
        let version = self.docker.version().await.map_err(refused("tell its version"))?;
        Ok(version.version.unwrap_or_default())
    }

    /// All containers of a stack, and others that have names which it would use; without what their checks say.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn containers(&self, stack: &str) -> Result<Vec<Found>, Error> {
        let prefix = format!("meshd-{stack}-");
        let mut found = Vec::new();
        // The newest first: of what Mesos runs, the older ones are on their way out.
        let mut list = self.list(HashMap::new()).await?;
        list.sort_by_key(|summary| std::cmp::Reverse(summary.created));
        let mut ours = Vec::new();
        for summary in list {
            let Some(name) = name_of(&summary).filter(|name| !name.ends_with(ONCE)) else { continue };
            let of = summary.labels.as_ref().and_then(|labels| labels.get(LABEL));
            if of.is_some_and(|of| of == stack) {
                ours.push(name);
            } else if name.starts_with(&prefix) {
                found.push(Found { name, ..Found::default() });
            }
        }
        let all = join_all(ours.iter().map(|name| self.look_at(name))).await;
        let mut seen = Vec::new();
        for (name, one) in ours.iter().zip(all) {
            seen.extend(one?.map(|one| (name, one)));
        }
        let images: BTreeSet<&String> = seen.iter().filter_map(|(_, seen)| seen.image.as_ref()).collect();
        let images = images.into_iter().map(async |image| {
            let found = self.docker.inspect_image(image).await.ok()?;
            Some((image.clone(), found))
        });
        let images: BTreeMap<_, _> = join_all(images).await.into_iter().flatten().collect();
        for (name, seen) in &seen {
            let image = seen.image.as_ref().and_then(|image| images.get(image));
            let one = body::found(name, seen, image);
            // Mesos leaves ended ones there for hours.
            let is_old = one.driver == DriverKind::Marathon
                && (!one.running
                    || found.iter().any(|other: &Found| {
                        other.driver == DriverKind::Marathon && other.component == one.component
                    }));
            if !is_old {
                found.push(one);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// All containers of any stack: name, stack, definition, and whether it runs.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn all_ours(&self) -> Result<Vec<Found>, Error> {
        let filter = HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]);
        let mut found = Vec::new();
        for summary in self.list(filter).await? {
            if let Some(name) = name_of(&summary).filter(|name| !name.ends_with(ONCE))
                && let Some(seen) = self.look_at(&name).await?
            {
                found.push(body::found(&name, &seen, None));
            }
        }
        Ok(found)
    }

    /// The names of a component's containers, those that run first, of these the newest: Mesos gives names of its own.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn names(&self, stack: &str, component: &str) -> Result<Vec<String>, Error> {
        let labels = vec![format!("{LABEL}={stack}"), format!("{LABEL}.component={component}")];
        let mut list = self.list(HashMap::from([("label".to_owned(), labels)])).await?;
        let runs = |summary: &bollard::models::ContainerSummary| {
            summary.state == Some(bollard::models::ContainerSummaryStateEnum::RUNNING)
        };
        list.sort_by_key(|summary| std::cmp::Reverse((runs(summary), summary.created)));
        Ok(list.iter().filter_map(name_of).filter(|name| !name.ends_with(ONCE)).collect())
    }

    async fn list(
        &self,
        filters: HashMap<String, Vec<String>>,
    ) -> Result<Vec<bollard::models::ContainerSummary>, Error> {
        let options =
            options::ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        self.docker.list_containers(Some(options)).await.map_err(refused("list containers"))
    }

    /// A container, if it is there (still).
    async fn look_at(&self, name: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        match self.docker.inspect_container(name, None).await {
            Ok(seen) => Ok(Some(seen)),
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(refused("inspect a container")(error)),
        }
    }

    /// What the engine has under `reference`, if anything.
    pub async fn image(&self, reference: &str) -> Option<ImageFact> {
        let image = self.docker.inspect_image(reference).await.ok()?;
        Some(ImageFact { id: image.id?, arch: image.architecture.unwrap_or_default() })
    }

    /// Makes a container and starts it. What is there already, made from the same, is only started. `files` is where the
    /// container's files and secrets lie on the machine.
    ///
    /// # Errors
    /// [`Error::OtherReplica`], [`Error::Foreign`], or what the engine says.
    pub async fn create(
        &self,
        definition: &Definition,
        founding: &[String],
        members: &BTreeMap<String, u32>,
        keeps_id: &[String],
        files: &Path,
    ) -> Result<(), Error> {
        let name = definition.container_name();
        let image = self.prepare(definition, keeps_id).await?;
        let hash = definition.hash(&image.id);
        let body = body::create(definition, founding, members, &hash, &image.id, files);
        let wanted = options::CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        match self.docker.create_container(Some(wanted), body).await {
            Ok(_) => {}
            Err(DockerError::DockerResponseServerError { status_code: 409, .. }) => {
                // Made by an earlier run that was interrupted, or somebody else's. If it is gone again, the start says so.
                let seen = self.look_at(&name).await?;
                if seen.is_some_and(|seen| body::found(&name, &seen, None).hash != hash) {
                    return Err(Error::Foreign(name));
                }
            }
            Err(error) => return Err(refused("make a container")(error)),
        }
        self.start(&name).await
    }

    /// Sees that the image of a container is there, for this architecture, and makes its volumes.
    ///
    /// # Errors
    /// [`Error::WrongArch`], [`Error::OtherReplica`], [`Error::Foreign`], or what the engine says.
    pub async fn prepare(&self, definition: &Definition, keeps_id: &[String]) -> Result<ImageFact, Error> {
        let Some(image) = self.image(&definition.image).await else {
            let message = format!("{} is not on this node", definition.image);
            return Err(Error::Refused { action: "make a container", message });
        };
        if Arch::parse(&image.arch) != Some(definition.arch) {
            let (got, wanted) = (image.arch, definition.arch);
            return Err(Error::WrongArch { image: definition.image.clone(), got, wanted });
        }
        for (target, source) in &definition.volumes {
            match source {
                Source::Named(volume) => {
                    self.volume(volume, definition, keeps_id.contains(target)).await?;
                }
                Source::Path(path) => make_directory(path)?,
            }
        }
        for mount in definition.mounts.values().filter(|mount| mount.make) {
            make_directory(&mount.source)?;
        }
        Ok(image)
    }

    /// Sees that a volume is there, and that what is in it belongs to this replica.
    async fn volume(&self, volume: &str, definition: &Definition, keeps_id: bool) -> Result<(), Error> {
        let id = format!("{LABEL}.id");
        // Making one that is there would succeed, whosever it is.
        if let Some(there) = self.look_at_volume(volume).await? {
            match there.labels.get(LABEL) {
                Some(stack) if *stack != definition.stack => return Err(Error::Foreign(volume.to_owned())),
                Some(_) => {
                    let has = there.labels.get(&id).filter(|has| **has != definition.id.to_string());
                    return match has.filter(|_| keeps_id) {
                        Some(has) => {
                            let (volume, has, wanted) = (volume.to_owned(), has.clone(), definition.id);
                            Err(Error::OtherReplica { volume, has, wanted })
                        }
                        None => Ok(()),
                    };
                }
                // An engine that ends while it makes a volume leaves it without labels: nobody could tell later whose it is.
                None if is_bare(&there) => {
                    let none = None::<options::RemoveVolumeOptions>;
                    self.docker.remove_volume(volume, none).await.map_err(refused("make a volume anew"))?;
                }
                // Somebody made it for this component, with something in it.
                None => return Ok(()),
            }
        }
        let labels = HashMap::from([
            (LABEL.to_owned(), definition.stack.clone()),
            (format!("{LABEL}.component"), definition.component.clone()),
            (id, definition.id.to_string()),
        ]);
        let request =
            VolumeCreateRequest { name: Some(volume.to_owned()), labels: Some(labels), ..Default::default() };
        self.docker.create_volume(request).await.map(drop).map_err(refused("make a volume"))
    }

    /// Starts a container; one that runs is left alone.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn start(&self, name: &str) -> Result<(), Error> {
        self.docker.start_container(name, None).await.map_err(refused("start a container"))
    }

    /// Stops a container and removes it; one that is gone already is fine. Its volumes stay.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it is not of `stack`, or what the engine says.
    pub async fn remove(&self, stack: &str, name: &str, grace_s: u32) -> Result<(), Error> {
        let Some(seen) = self.look_at(name).await? else { return Ok(()) };
        let labels = seen.config.and_then(|config| config.labels).unwrap_or_default();
        if labels.get(LABEL).map(String::as_str) != Some(stack) {
            return Err(Error::Foreign(name.to_owned()));
        }
        let stop = options::StopContainerOptions { t: i32::try_from(grace_s).ok(), ..Default::default() };
        let gone = |error: &DockerError| {
            matches!(error, DockerError::DockerResponseServerError { status_code: 304 | 404, .. })
        };
        match self.docker.stop_container(name, Some(stop)).await {
            Err(error) if !gone(&error) => return Err(refused("stop a container")(error)),
            _ => {}
        }
        let options = options::RemoveContainerOptions { v: false, force: true, link: false };
        match self.docker.remove_container(name, Some(options)).await {
            Err(error) if !gone(&error) => Err(refused("remove a container")(error)),
            _ => Ok(()),
        }
    }

    /// Removes all volumes of a stack, and returns their names.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn remove_volumes(&self, stack: &str) -> Result<Vec<String>, Error> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL}={stack}")])]);
        let options = options::ListVolumesOptions { filters: Some(filters) };
        let list = self.docker.list_volumes(Some(options)).await.map_err(refused("list volumes"))?;
        let mut names = Vec::new();
        for volume in list.volumes.unwrap_or_default() {
            let none = None::<options::RemoveVolumeOptions>;
            self.docker.remove_volume(&volume.name, none).await.map_err(refused("remove a volume"))?;
            names.push(volume.name);
        }
        names.sort();
        Ok(names)
    }

    /// Where the data of a volume is on the machine; `None` if there is no such volume.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn data_path(&self, source: &Source) -> Result<Option<std::path::PathBuf>, Error> {
        Ok(match source {
            Source::Path(path) => Some(path.into()),
            Source::Named(name) => self.look_at_volume(name).await?.map(|volume| volume.mountpoint.into()),
        })
    }

    /// A volume, if it is there.
    async fn look_at_volume(&self, name: &str) -> Result<Option<bollard::models::Volume>, Error> {
        match self.docker.inspect_volume(name).await {
            Ok(volume) => Ok(Some(volume)),
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(refused("inspect a volume")(error)),
        }
    }
}

/// A directory of the machine that a container is to have: an engine does not make it.
fn make_directory(path: &str) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|error| Error::Refused {
        action: "make a directory for a container",
        message: format!("{path}: {error}"),
    })
}

/// Whether a volume has nothing in it and nothing said about it, so that another one is as good.
fn is_bare(volume: &bollard::models::Volume) -> bool {
    volume.driver == "local"
        && volume.labels.is_empty()
        && volume.options.is_empty()
        && std::fs::read_dir(&volume.mountpoint).is_ok_and(|mut entries| entries.next().is_none())
}

fn name_of(summary: &bollard::models::ContainerSummary) -> Option<String> {
    summary.names.iter().flatten().next().map(|name| name.trim_start_matches('/').to_owned())
}

fn refused(action: &'static str) -> impl Fn(DockerError) -> Error {
    move |error| match error {
        DockerError::HyperLegacyError { .. } => Error::NoEngine(None),
        error => Error::Refused { action, message: said(&error) },
    }
}

/// What the engine said, without the client's own words.
fn said(error: &DockerError) -> String {
    match error {
        DockerError::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        DockerError::DockerStreamError { error } => error.trim().to_owned(),
        other => other.to_string(),
    }
}
