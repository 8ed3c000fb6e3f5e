//! Programs in containers, beside them, and what they print.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters as options;
use futures_util::StreamExt;

use super::{Engine, Error, ONCE, body, refused};
use crate::stack::definition::Definition;

/// Most output of a program that is kept, in bytes.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

impl Engine {
    /// Runs a program in a container: how it ended, and what it printed.
    ///
    /// # Errors
    /// What the engine says, or if it takes longer than `limit`.
    pub async fn run_in(
        &self,
        name: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<(i64, String), Error> {
        let run = async {
            let options = CreateExecOptions {
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                cmd: Some(command.to_vec()),
                ..Default::default()
            };
            let exec = self.docker.create_exec(name, options).await?;
            let mut text = Vec::new();
            if let StartExecResults::Attached { mut output, .. } =
                self.docker.start_exec(&exec.id, None).await?
            {
                while let Some(chunk) = output.next().await {
                    let chunk = chunk?.into_bytes();
                    text.extend_from_slice(&chunk[..chunk.len().min(MAX_OUTPUT_BYTES - text.len())]);
                }
            }
            let code = self.docker.inspect_exec(&exec.id).await?.exit_code.unwrap_or(-1);
            Ok((code, String::from_utf8_lossy(&text).into_owned()))
        };
        match tokio::time::timeout(limit, run).await {
            Ok(done) => done.map_err(refused("run a program in a container")),
            Err(_) => {
                let message = format!("no end after {} s", limit.as_secs());
                Err(Error::Refused { action: "run a program in a container", message })
            }
        }
    }

    /// The last lines that a container printed, and with `follow` those to come.
    pub fn logs(
        &self,
        name: &str,
        tail: u32,
        follow: bool,
    ) -> impl futures_util::Stream<Item = Result<String, Error>> + use<> {
        let options = options::LogsOptions {
            stdout: true,
            stderr: true,
            follow,
            timestamps: true,
            tail: tail.to_string(),
            ..Default::default()
        };
        let docker = self.docker.clone();
        let name = name.to_owned();
        async_lines(docker, name, options)
    }

    /// Runs a container of `definition` with more arguments beside its data until it ends, and returns what it printed. The
    /// container itself must not run.
    ///
    /// # Errors
    /// What the engine says, or if it does not end within `limit`.
    pub async fn run_once(
        &self,
        definition: &Definition,
        arguments: &[String],
        files: &Path,
        limit: Duration,
    ) -> Result<String, Error> {
        let name = format!("{}{ONCE}", definition.container_name());
        let image = self.image(&definition.image).await.map(|image| image.id).unwrap_or_default();
        let mut body = body::create(definition, arguments, &BTreeMap::new(), "", &image, files);
        if let Some(host) = &mut body.host_config {
            host.restart_policy = None;
        }
        let force = || Some(options::RemoveContainerOptions { v: false, force: true, link: false });
        // What an interrupted run left behind.
        let _ = self.docker.remove_container(&name, force()).await;
        let wanted = options::CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        self.docker.create_container(Some(wanted), body).await.map_err(refused("make a container"))?;
        let ran = async {
            self.start(&name).await?;
            let mut end = Box::pin(self.docker.wait_container(&name, None));
            // A non-zero end is an error value; it has printed what there is all the same.
            while let Some(Ok(_)) = end.next().await {}
            let mut text = String::new();
            let mut lines = Box::pin(self.logs(&name, 1_000, false));
            while let Some(part) = lines.next().await {
                text.push_str(&part?);
            }
            Ok(text)
        };
        let result = tokio::time::timeout(limit, ran).await;
        let _ = self.docker.remove_container(&name, force()).await;
        result.unwrap_or_else(|_| {
            let message = format!("no end after {} s", limit.as_secs());
            Err(Error::Refused { action: "run a container", message })
        })
    }
}

fn async_lines(
    docker: Docker,
    name: String,
    options: options::LogsOptions,
) -> impl futures_util::Stream<Item = Result<String, Error>> {
    // The stream borrows neither: it owns the request from the first call on.
    docker.logs(&name, Some(options)).map(|chunk| match chunk {
        Ok(LogOutput::StdIn { .. }) => Ok(String::new()),
        Ok(chunk) => Ok(String::from_utf8_lossy(&chunk.into_bytes()).into_owned()),
        Err(error) => Err(refused("read the log")(error)),
    })
}
