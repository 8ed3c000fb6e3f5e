//! Asking Marathon. Any of its servers takes a request and hands it to the one that leads, answers with a redirection, or
//! says that none leads at this moment: the client asks them in turn and follows, but only to servers of the stack.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::stack::http::{self, Ask};

/// How long one server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest part of an answer that is quoted, in characters.
const MAX_QUOTE_LEN: usize = 400;

/// The Marathon servers of a stack.
#[derive(Debug)]
pub struct Client {
    servers: Vec<SocketAddr>,
    /// The one that answered last.
    last: Cell<usize>,
}

/// Why Marathon did not do what it was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// None of its servers takes requests: they start, change their leader, or are away.
    #[error("no server of Marathon takes requests: {0}")]
    NoLeader(String),
    /// Deployments have what was to be changed.
    #[error("{message}")]
    Locked {
        /// What it said.
        message: String,
        /// The deployments' ids.
        deployments: Vec<String>,
    },
    /// There is no such thing.
    #[error("there is no {0}")]
    Absent(String),
    /// It says no, and will say so again.
    #[error("Marathon refuses {what}: {status} {message}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its status.
        status: u16,
        /// What it said.
        message: String,
    },
}

impl Error {
    /// Whether it may be another answer in a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::NoLeader(_))
    }
}

/// A deployment under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// The applications that it changes.
    pub apps: Vec<String>,
    /// What it does at this moment, and how far it is.
    pub now: String,
}

impl Client {
    /// A client of these servers.
    pub fn new(servers: Vec<SocketAddr>) -> Client {
        Client { servers, last: Cell::new(0) }
    }

    /// Whether there is any server.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// An application; `None` if there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn app(&self, id: &str) -> Result<Option<Value>, Error> {
        let path = format!("/v2/apps/{id}?embed=app.lastTaskFailure&embed=app.counts&embed=app.deployments");
        match self.ask(Method::GET, &path, None).await {
            Ok(answer) => Ok(Some(answer["app"].clone())),
            Err(Error::Absent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The applications whose id contains `part`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn apps(&self, part: &str) -> Result<Vec<Value>, Error> {
        let path = format!("/v2/apps?id={part}&embed=apps.lastTaskFailure&embed=apps.counts");
        let answer = self.ask(Method::GET, &path, None).await?;
        Ok(answer["apps"].as_array().cloned().unwrap_or_default())
    }

    /// Makes or changes an application; whole: what `app` does not name is Marathon's default again. With `force` also where
    /// a deployment has it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn put_app(&self, id: &str, app: &Value, force: bool) -> Result<(), Error> {
        let path = format!("/v2/apps/{id}?partialUpdate=false{}", if force { "&force=true" } else { "" });
        self.ask(Method::PUT, &path, Some(app)).await.map(drop)
    }

    /// Removes an application; one that is gone already is fine.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete_app(&self, id: &str, force: bool) -> Result<(), Error> {
        let path = format!("/v2/apps/{id}{}", if force { "?force=true" } else { "" });
        match self.ask(Method::DELETE, &path, None).await {
            Ok(_) | Err(Error::Absent(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has Marathon look at a group without changing anything.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Refused`] if it would not take it.
    pub async fn try_group(&self, id: &str, group: &Value) -> Result<Value, Error> {
        self.ask(Method::PUT, &format!("/v2/groups/{id}?dryRun=true"), Some(group)).await
    }

    /// The deployments under way.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn deployments(&self) -> Result<Vec<Deployment>, Error> {
        let answer = self.ask(Method::GET, "/v2/deployments", None).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let read = |one: &Value| Deployment {
            id: text(&one["id"]),
            apps: one["affectedApps"].as_array().into_iter().flatten().map(text).collect(),
            now: {
                let actions = one["currentActions"].as_array().into_iter().flatten();
                let actions: Vec<String> = actions.map(|action| text(&action["action"])).collect();
                let step = format!("step {} of {}", one["currentStep"], one["totalSteps"]);
                if actions.is_empty() { step } else { format!("{step}: {}", actions.join(", ")) }
            },
        };
        Ok(answer.as_array().into_iter().flatten().map(read).collect())
    }

    /// Why an application is not started: what the launch queue says of it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn queued(&self, id: &str) -> Result<Option<String>, Error> {
        let answer = self.ask(Method::GET, "/v2/queue", None).await?;
        let mut items = answer["queue"].as_array().into_iter().flatten();
        Ok(items.find(|item| item["app"]["id"] == id).map(queue_words))
    }

    /// Has Marathon start an application now that it would start later.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn forget_delay(&self, id: &str) -> Result<(), Error> {
        match self.ask(Method::DELETE, &format!("/v2/queue/{id}/delay"), None).await {
            Ok(_) | Err(Error::Absent(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let path = path.replace("//", "/");
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut whys = Vec::new();
        for turn in 0..self.servers.len() {
            let number = (self.last.get() + turn) % self.servers.len();
            let mut at = self.servers[number];
            // The one that is asked, and the one that it names.
            for _ in 0..2 {
                let ask = Ask { method: method.clone(), path: &path, body: body.as_bytes(), limit: PATIENCE };
                let answer = match http::ask(at, &ask).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        whys.push(error.to_string());
                        break;
                    }
                };
                match answer.status {
                    301 | 302 | 307 | 308 => {
                        match answer.location.as_deref().and_then(|to| self.server(to)) {
                            Some(leader) => at = leader,
                            None => {
                                whys.push(format!("{at} sends elsewhere"));
                                break;
                            }
                        }
                    }
                    // It starts, has no leader, or lost it while it asked it.
                    500 | 502..=504 => {
                        whys.push(format!("{at}: {} {}", answer.status, quote(&answer.body)));
                        break;
                    }
                    status => {
                        self.last.set(number);
                        return read(&method, &path, status, &answer.body);
                    }
                }
            }
        }
        if self.servers.is_empty() {
            whys.push("the stack has none".into());
        }
        Err(Error::NoLeader(whys.join("; ")))
    }

    /// The server that a redirection names, if it is one of the stack's.
    fn server(&self, location: &str) -> Option<SocketAddr> {
        let rest = location.strip_prefix("http://")?;
        let at = rest.split('/').next()?.parse().ok()?;
        self.servers.contains(&at).then_some(at)
    }
}

fn read(method: &Method, path: &str, status: u16, body: &[u8]) -> Result<Value, Error> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let what = || format!("{method} {}", path.split('?').next().unwrap_or_default());
    match status {
        200..=299 => Ok(value),
        404 => Err(Error::Absent(what())),
        409 => {
            let ids = value["deployments"].as_array().into_iter().flatten();
            let deployments = ids.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
            Err(Error::Locked { message: message(&value, body), deployments })
        }
        _ => Err(Error::Refused { what: what(), status, message: message(&value, body) }),
    }
}

/// Its message, with the details that it gives for each field.
fn message(value: &Value, body: &[u8]) -> String {
    let Some(message) = value["message"].as_str() else { return quote(body) };
    let mut text = message.to_owned();
    for detail in value["details"].as_array().into_iter().flatten() {
        let errors: Vec<&str> =
            detail["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        text.push_str(&format!("; {}: {}", detail["path"].as_str().unwrap_or("?"), errors.join(", ")));
    }
    text
}

fn quote(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim().chars().take(MAX_QUOTE_LEN).collect()
}

/// What an entry of the launch queue says, for people.
fn queue_words(item: &Value) -> String {
    let mut words = Vec::new();
    if let Some(seconds) = item["delay"]["timeLeftSeconds"].as_u64().filter(|seconds| *seconds > 0) {
        words.push(format!("it ended at once; Marathon starts it again in {seconds} s"));
    }
    let offers = &item["processedOffersSummary"];
    for reason in offers["rejectSummaryLastOffers"].as_array().into_iter().flatten() {
        let declined = reason["declined"].as_u64().unwrap_or(0);
        if declined > 0 {
            let name = reason["reason"].as_str().unwrap_or("?");
            words.push(format!("{declined} of {} offers do not fit: {}", reason["processed"], reject(name)));
        }
    }
    if words.is_empty() {
        words.push("no agent has offered anything yet".into());
    }
    words.join("; ")
}

/// Marathon's word for why an offer does not fit, with what it means here.
fn reject(name: &str) -> String {
    let meaning = match name {
        "UnfulfilledConstraint" => "it is another node, or the node's Mesos agent is not registered",
        "InsufficientPorts" => {
            "a port is taken, or not among those that the agent offers (components.mesos-agent.settings.ports)"
        }
        "InsufficientMemory" | "InsufficientCpus" | "InsufficientDisk" => "the node has too little left",
        "UnfulfilledRole" => "the agent's resources are reserved for another role",
        "AgentMaintenance" => "the node is being drained",
        _ => return name.to_owned(),
    };
    format!("{name} ({meaning})")
}

#[cfg(test)]
mod tests;
