//! Doing what was asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::net::tcp::OwnedWriteHalf;
use tracing::{info, warn};

use super::lines::send;
use super::secrets::{Vault, checked};
use super::{Answer, Request};
use crate::stack::actual::{Found, Report};
use crate::stack::definition::{Arch, Definition, DriverKind, Source};
use crate::stack::engine::probe::{self, Question};
use crate::stack::engine::{self, Engine};
use crate::stack::galera::Evidence;
use crate::state::atomic;

/// The audit log is set aside when it is longer.
const MAX_AUDIT_BYTES: u64 = 16 << 20;
/// Longest specification that is kept, in bytes.
const MAX_SPEC_BYTES: usize = 1 << 20;
/// The file with the architectures of nodes.
const ARCHITECTURES: &str = "architectures.json";
/// How often the progress of a pull is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How long a Galera replica may take to tell how far its data goes.
const RECOVER_LIMIT: Duration = Duration::from_secs(300);
/// How long a program in a container may run.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// The agent's hands.
pub(super) struct Worker {
    /// The engine's socket.
    pub(super) engine: String,
    /// The node's name.
    pub(super) node: String,
    /// Its overlay address, where replicas are asked how they are.
    pub(super) address: IpAddr,
    /// What must last.
    pub(super) directory: PathBuf,
    /// The secrets.
    pub(super) vault: Vault,
}

impl Worker {
    /// A connection for one request: an engine that was restarted in between is found again.
    fn engine(&self) -> Result<Engine, engine::Error> {
        Engine::connect(&self.engine)
    }

    /// Does what is asked. Long answers are sent in parts; the last part is returned.
    pub(super) async fn perform(&self, request: Request, writer: &mut OwnedWriteHalf) -> Answer {
        match self.attempt(request, writer).await {
            Ok(answer) => answer,
            Err(error) => {
                let mut why = error.to_string();
                for cause in error.chain().skip(1) {
                    let _ = write!(why, ": {cause}");
                }
                Answer::Refused { why }
            }
        }
    }

    async fn attempt(&self, request: Request, writer: &mut OwnedWriteHalf) -> anyhow::Result<Answer> {
        Ok(match request {
            Request::Hello => Answer::Hello {
                node: self.node.clone(),
                arch: Arch::parse(std::env::consts::ARCH),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            Request::Report { stack, questions, images, galera } => {
                Answer::Report(Box::new(self.report(&stack, &questions, &images, &galera).await?))
            }
            Request::Probe { question } => {
                Answer::Probe(probe::ask(&self.engine()?, self.address, &question).await)
            }
            Request::Pull { image, arch, login } => {
                let engine = self.engine()?;
                let login = match login {
                    Some(login) => {
                        Some((login.user, self.vault.get(&login.stack, &login.secret)?.value.clone()))
                    }
                    None => None,
                };
                let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
                let mut last = Instant::now();
                let pull = engine.pull(&image, arch, login, |done, total| {
                    if last.elapsed() >= PROGRESS_EVERY {
                        last = Instant::now();
                        // The receiver lives as long as the pull.
                        let _ = told.send((done, total));
                    }
                });
                tokio::pin!(pull);
                loop {
                    tokio::select! {
                        done = &mut pull => { done?; break }
                        Some((done, total)) = heard.recv() => {
                            send(writer, &Answer::Progress { done, total }).await?;
                        }
                    }
                }
                Answer::Done
            }
            Request::PutSecret { stack, name, secret } => {
                self.vault.put(&stack, &name, &secret)?;
                Answer::Done
            }
            Request::GetSecret { stack, name } => Answer::Secret(self.vault.get(&stack, &name)?),
            Request::Recover { definition } => {
                let files = self.vault.lay_down(&definition)?;
                let flag = ["--wsrep-recover".to_owned()];
                let text = self.engine()?.run_once(&definition, &flag, &files, RECOVER_LIMIT).await?;
                let position = text.lines().rev().find_map(|line| line.split_once("Recovered position:"));
                let position = position.map(|(_, position)| position.trim().to_owned());
                let Some(position) = position else {
                    anyhow::bail!("its server did not tell how far its data goes")
                };
                let name = self.recovered_name(&definition.stack, &definition.component)?;
                atomic::replace(&self.directory, &name, position.as_bytes(), 0o600)
                    .map_err(|(_, error)| error)?;
                Answer::Done
            }
            Request::Create { definition, founding, members, keeps_id } => {
                let name = self.recovered_name(&definition.stack, &definition.component)?;
                remove_if_there(&self.directory.join(name))?;
                let files = self.vault.lay_down(&definition)?;
                if !founding.is_empty() {
                    self.allow_founding(&definition).await?;
                }
                self.engine()?.create(&definition, &founding, &members, &keeps_id, &files).await?;
                Answer::Done
            }
            Request::Prepare { definition, founding, keeps_id } => {
                let name = self.recovered_name(&definition.stack, &definition.component)?;
                remove_if_there(&self.directory.join(name))?;
                let image = self.engine()?.prepare(&definition, &keeps_id).await?;
                let files = self.vault.lay_down(&definition)?;
                if founding {
                    self.allow_founding(&definition).await?;
                }
                self.remember(&definition)?;
                Answer::Prepared { image_id: image.id, files: files.to_string_lossy().into_owned() }
            }
            Request::Start { stack, container } => {
                let engine = self.engine()?;
                let there = engine.containers(&stack).await?;
                let found = there.iter().find(|found| found.name == container && !found.component.is_empty());
                match found.and_then(|found| found.definition.as_ref()) {
                    Some(definition) => {
                        let name = self.recovered_name(&stack, &definition.component)?;
                        remove_if_there(&self.directory.join(name))?;
                        self.vault.lay_down(definition)?;
                    }
                    None => anyhow::bail!("{container} is no container of {stack}"),
                }
                engine.start(&container).await?;
                Answer::Done
            }
            Request::Remove { stack, container, grace_s } => {
                let engine = self.engine()?;
                engine.remove(&stack, &container, grace_s).await?;
                if let Some(component) = container.strip_prefix(&format!("meshd-{stack}-")) {
                    // What Mesos started has other names.
                    for other in engine.names(&stack, component).await? {
                        engine.remove(&stack, &other, grace_s).await?;
                    }
                    remove_if_there(&self.prepared_path(&stack, component)?)?;
                    self.vault.forget_files(&self.vault.files_of(checked(&stack)?, checked(component)?))?;
                }
                Answer::Done
            }
            Request::Run { stack, container, command } => {
                let engine = self.engine()?;
                let container = self.ours(&engine, &stack, &container).await?;
                let (code, output) = engine.run_in(&container, &command, RUN_LIMIT).await?;
                Answer::Ran { code, output }
            }
            Request::Forget { stack } => {
                let volumes = self.engine()?.remove_volumes(checked(&stack)?).await?;
                info!(stack, ?volumes, "removed volumes");
                self.vault.forget(&stack)?;
                remove_if_there(&self.spec_path(&stack)?)?;
                Answer::Done
            }
            Request::Logs { stack, container, tail, follow } => {
                let engine = self.engine()?;
                let container = self.ours(&engine, &stack, &container).await?;
                let mut lines = Box::pin(engine.logs(&container, tail, follow));
                while let Some(text) = lines.next().await {
                    send(writer, &Answer::Line { text: text? }).await?;
                }
                Answer::Done
            }
            Request::PutSpec { stack, text, made_ms, architectures } => {
                anyhow::ensure!(text.len() <= MAX_SPEC_BYTES, "the specification is too long");
                let path = self.spec_path(&stack)?;
                let directory = path.parent().unwrap_or(&self.directory);
                std::fs::create_dir_all(directory)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let bytes = serde_json::to_vec(&(made_ms, text))?;
                atomic::replace(directory, &name, &bytes, 0o600).map_err(|(_, error)| error)?;
                let known = architectures.into_iter();
                let before = self.architectures();
                let known = before.clone().into_iter().chain(known).collect::<BTreeMap<_, _>>();
                if known != before {
                    let bytes = serde_json::to_vec(&known)?;
                    let replaced = atomic::replace(&self.directory, ARCHITECTURES, &bytes, 0o600);
                    replaced.map_err(|(_, error)| error)?;
                }
                Answer::Done
            }
            Request::GetSpecs => Answer::Specs { specs: self.specs(), architectures: self.architectures() },
            Request::Lock { .. } => anyhow::bail!("a lock belongs to a connection"),
        })
    }

    /// What the engine calls a container of the stack.
    async fn ours(&self, engine: &Engine, stack: &str, container: &str) -> anyhow::Result<String> {
        let names = match container.strip_prefix(&format!("meshd-{stack}-")) {
            Some(component) => engine.names(stack, component).await?,
            None => Vec::new(),
        };
        let name = names.into_iter().next();
        name.ok_or_else(|| anyhow::anyhow!("{container} is no container of {stack} on {}", self.node))
    }

    async fn report(
        &self,
        stack: &str,
        questions: &[Question],
        images: &[String],
        galera: &BTreeMap<String, Source>,
    ) -> anyhow::Result<Report> {
        let engine = self.engine()?;
        let (containers, version) = tokio::join!(engine.containers(stack), engine.version());
        let (mut containers, version) = (containers?, version?);
        let asked = questions.iter().filter_map(|question| {
            let is_it = |found: &&Found| found.running && found.component == question.component;
            let container = containers.iter().find(is_it)?.name.clone();
            Some(Question { container, ..question.clone() })
        });
        let probes = join_all(asked.map(async |question| {
            let probe = probe::ask_at(&engine, self.address, &question).await;
            (question.component, probe)
        }));
        let facts =
            join_all(images.iter().map(async |image| Some((image.clone(), engine.image(image).await?))));
        let (probes, facts) = tokio::join!(probes, facts);
        for (component, probe) in probes {
            if let Some(found) = containers.iter_mut().find(|found| found.component == component) {
                found.probe = Some(probe);
            }
        }
        let mut evidence = BTreeMap::new();
        for (component, source) in galera {
            // What cannot be read is not nothing: a cluster would be founded anew beside it.
            if let Some(path) = engine.data_path(source).await? {
                let said = Evidence::read(
                    read_if_there(&path.join("grastate.dat"))?.as_deref(),
                    read_if_there(&path.join("gvwstate.dat"))?.as_deref(),
                    self.recovered(stack, component).as_ref().map(|(uuid, seqno)| (uuid.as_str(), *seqno)),
                );
                evidence.insert(component.clone(), said);
            }
        }
        Ok(Report {
            arch: Arch::parse(std::env::consts::ARCH),
            engine: version,
            containers,
            images: facts.into_iter().flatten().collect(),
            secrets: self.vault.facts(stack),
            evidence,
        })
    }

    /// Lays down the files of all containers, and starts those that do not run.
    pub(super) async fn restore(&self) -> anyhow::Result<()> {
        // First those that Marathon starts: their files must be there before its agent is.
        for definition in self.prepared() {
            if let Err(error) = self.vault.lay_down(&definition) {
                warn!(component = definition.component, %error, "cannot lay down files");
            }
        }
        let engine = self.engine()?;
        for found in engine.all_ours().await? {
            let is_down = !found.running && found.driver == DriverKind::Direct;
            let Some(definition) = found.definition.as_ref().filter(|_| is_down) else { continue };
            self.vault.lay_down(definition)?;
            match engine.start(&found.name).await {
                Ok(()) => info!(container = found.name, "started again"),
                Err(error) => warn!(container = found.name, %error, "cannot start again"),
            }
        }
        Ok(())
    }

    /// Galera refuses to found a cluster on data that it did not mark itself. The plan has compared all replicas.
    async fn allow_founding(&self, definition: &Definition) -> anyhow::Result<()> {
        let engine = self.engine()?;
        for source in definition.volumes.values() {
            let Some(path) = engine.data_path(source).await?.map(|path| path.join("grastate.dat")) else {
                continue;
            };
            if let Some(text) = read_if_there(&path)? {
                // In place: the file belongs to the server's user.
                std::fs::write(&path, text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))?;
            }
        }
        Ok(())
    }

    /// Remembers what Marathon starts here, for after a start of the machine.
    fn remember(&self, definition: &Definition) -> anyhow::Result<()> {
        let path = self.prepared_path(&definition.stack, &definition.component)?;
        let directory = path.parent().unwrap_or(&self.directory);
        std::fs::create_dir_all(directory)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = serde_json::to_vec(definition)?;
        Ok(atomic::replace(directory, &name, &bytes, 0o600).map_err(|(_, error)| error)?)
    }

    fn prepared_path(&self, stack: &str, component: &str) -> io::Result<PathBuf> {
        let name = format!("{}.{}.json", checked(stack)?, checked(component)?);
        Ok(self.directory.join("prepared").join(name))
    }

    fn prepared(&self) -> Vec<Definition> {
        let entries = std::fs::read_dir(self.directory.join("prepared")).into_iter().flatten().flatten();
        entries.filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()).collect()
    }

    fn recovered_name(&self, stack: &str, component: &str) -> io::Result<String> {
        Ok(format!("{}.{}.recovered", checked(stack)?, checked(component)?))
    }

    /// What [`Request::Recover`] found; it is forgotten when the replica is started.
    fn recovered(&self, stack: &str, component: &str) -> Option<(String, i64)> {
        let text =
            std::fs::read_to_string(self.directory.join(self.recovered_name(stack, component).ok()?)).ok()?;
        let (uuid, seqno) = text.trim().rsplit_once(':')?;
        Some((uuid.to_owned(), seqno.parse().ok()?))
    }

    fn spec_path(&self, stack: &str) -> io::Result<PathBuf> {
        Ok(self.directory.join("specs").join(format!("{}.json", checked(stack)?)))
    }

    fn architectures(&self) -> BTreeMap<String, Arch> {
        let bytes = std::fs::read(self.directory.join(ARCHITECTURES)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn specs(&self) -> BTreeMap<String, (u64, String)> {
        let mut specs = BTreeMap::new();
        for entry in std::fs::read_dir(self.directory.join("specs")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read(entry.path()).ok();
            let spec = text.and_then(|text| serde_json::from_slice(&text).ok());
            if let (Some(stack), Some(spec)) = (name.strip_suffix(".json"), spec) {
                specs.insert(stack.to_owned(), spec);
            }
        }
        specs
    }

    /// Writes a line to the audit log: when, who, what, and how it ended.
    pub(super) fn audit(&self, who: &str, what: &str, outcome: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let line = serde_json::json!({ "at_s": at, "who": who, "what": what, "outcome": outcome });
        let path = self.directory.join("audit.log");
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_AUDIT_BYTES) {
            // One older log is kept.
            let _ = std::fs::rename(&path, self.directory.join("audit.log.1"));
        }
        let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            warn!(%error, "cannot write to {}", path.display());
        }
    }
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(anyhow::Error::new(error).context(format!("cannot read {}", path.display()))),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
