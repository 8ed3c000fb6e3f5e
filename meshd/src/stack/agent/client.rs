//! Asking an agent.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use meshnet::membership::IdentitySecret;
use proto::id::MemberId;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{Answer, Greeting, MAX_LINE_BYTES, Proof, Request, VERSION, proof};

/// How long an agent may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long what was sent may go unacknowledged by the other end's kernel before the connection counts as broken: longer than
/// a change of path in the mesh takes.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent may think about a request before its kernel is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error(
        "its agent does not answer at {0}: is meshd running there, and is `engine` set in its meshd.toml?"
    )]
    Unreachable(SocketAddr),
    /// It went away in between.
    #[error("its agent went away")]
    Broken(#[source] io::Error),
    /// It is of another version.
    #[error("its agent speaks another version: upgrade meshd there or here")]
    Version,
    /// It says no.
    #[error("{0}")]
    Refused(String),
}

/// Who asks.
pub struct Caller {
    /// The own member id.
    pub member: MemberId,
    /// The own identity.
    pub identity: IdentitySecret,
}

/// A connection to an agent.
pub struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Client {
    /// Connects to the agent of the member `agent` and proves who asks.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Refused`] if the caller may not.
    pub async fn connect(at: SocketAddr, agent: MemberId, caller: &Caller) -> Result<Client, Error> {
        let begin = async {
            let stream = TcpStream::connect(at).await.map_err(|_| Error::Unreachable(at))?;
            stream.set_nodelay(true).map_err(Error::Broken)?;
            let socket = socket2::SockRef::from(&stream);
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
            socket.set_tcp_keepalive(&keepalive).map_err(Error::Broken)?;
            socket.set_tcp_user_timeout(Some(SILENCE_LIMIT)).map_err(Error::Broken)?;
            let (reader, writer) = stream.into_split();
            let mut client = Client { reader: BufReader::new(reader), writer };
            let greeting: Greeting = client.read().await?;
            if greeting.v != VERSION {
                return Err(Error::Version);
            }
            let proof = proof::prove(&caller.identity, &greeting.challenge, agent, caller.member);
            client.write(&Proof { proof }).await?;
            match client.read().await? {
                Answer::Done => Ok(client),
                Answer::Refused { why } => Err(Error::Refused(why)),
                _ => Err(Error::Version),
            }
        };
        tokio::time::timeout(CONNECT_LIMIT, begin).await.unwrap_or(Err(Error::Unreachable(at)))
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ask(&mut self, request: &Request) -> Result<Answer, Error> {
        self.ask_with(request, |_| ()).await
    }

    /// Asks; parts of the answer go to `part` as they come.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ask_with(
        &mut self,
        request: &Request,
        mut part: impl FnMut(Answer),
    ) -> Result<Answer, Error> {
        self.write(request).await?;
        loop {
            match self.read().await? {
                answer @ (Answer::Progress { .. } | Answer::Line { .. }) => part(answer),
                Answer::Refused { why } => return Err(Error::Refused(why)),
                answer => return Ok(answer),
            }
        }
    }

    async fn write(&mut self, value: &impl serde::Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(value).map_err(|error| Error::Broken(error.into()))?;
        line.push(b'\n');
        self.writer.write_all(&line).await.map_err(Error::Broken)
    }

    async fn read<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Error> {
        let mut line = Vec::new();
        (&mut self.reader)
            .take(MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut line)
            .await
            .map_err(Error::Broken)?;
        if line.is_empty() {
            return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|_| Error::Version)
    }
}
