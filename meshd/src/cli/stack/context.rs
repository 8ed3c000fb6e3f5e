//! What most verbs of `meshd stack` begin with: the mesh, its agents, the specification.

use std::path::{Path, PathBuf};

use crate::api::Request;
use crate::cli::{Global, expect_answer};
use crate::exit::Failure;
use crate::stack::components::Catalogue;
use crate::stack::fleet::{self, Fleet};
use crate::stack::spec::{self, Member, Stack};

/// Where a specification comes from.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct Source {
    /// The specification [default: stack.toml, or where there is none, the one that the mesh keeps]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Which of the stacks that the mesh keeps
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    stack: Option<String>,
}

/// The mesh as `meshd stack` sees it.
pub(super) struct Context {
    pub(super) fleet: Fleet,
    pub(super) members: Vec<Member>,
}

/// A specification, read.
pub(super) struct Specified {
    pub(super) stack: Stack,
    pub(super) text: String,
}

/// The file that is read where none is named.
const DEFAULT_FILE: &str = "stack.toml";

impl Context {
    /// Asks the daemon for the members, and the members' agents for themselves.
    ///
    /// # Errors
    /// If the daemon does not answer, or the node's identity cannot be read.
    pub(super) async fn new(global: &Global) -> anyhow::Result<Context> {
        let mut client = global.client()?;
        let status = expect_answer!(client, Request::Status, Status(status) => status)?;
        let caller = fleet::caller(&global.state_path()?)?;
        let fleet = Fleet::new(&status, caller);
        let members = fleet.members().await.map_err(|error| Failure::NotPermitted(error.to_string()))?;
        Ok(Context { fleet, members })
    }

    /// Reads and resolves the specification.
    ///
    /// # Errors
    /// If there is none, or it is wrong.
    pub(super) async fn specified(
        &self,
        source: &Source,
        catalogue: &Catalogue,
    ) -> anyhow::Result<Specified> {
        let default = Path::new(DEFAULT_FILE);
        let file = match &source.file {
            Some(file) => Some(file.as_path()),
            None => Some(default).filter(|file| source.stack.is_none() && file.exists()),
        };
        let (path, text) = match file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
                (file, text)
            }
            None => {
                let kept = self.fleet.kept_spec(source.stack.as_deref()).await;
                (Path::new("the mesh's stack.toml"), kept.map_err(Failure::Usage)?)
            }
        };
        let stack = spec::resolve(path, &text, catalogue, &self.members)?;
        Ok(Specified { stack, text })
    }
}

/// Runs `work` to its end on a runtime of its own.
///
/// # Errors
/// Those of `work`.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
