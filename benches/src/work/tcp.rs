//! TCP streams, by iperf3.

use anyhow::{Context, bail};
use netlab::{Machine, Process};
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

/// An iperf3 server on a machine.
#[derive(Debug)]
pub struct Server {
    address: IpAddr,
    // Ended with it.
    _process: Process,
}

/// What to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Streams {
    /// How many.
    pub count: u32,
    /// From the server to the client.
    pub back: bool,
    /// For how long.
    pub seconds: u32,
}

/// What arrived.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Received {
    /// Payload at the receiver.
    pub bytes: f64,
    /// Payload at the receiver per time.
    pub gbit_s: f64,
}

impl Server {
    /// Starts one that listens on this address of the machine.
    ///
    /// # Errors
    /// When iperf3 is missing, or does not come up.
    pub fn start(machine: &Machine, address: IpAddr) -> anyhow::Result<Server> {
        let mut command = Command::new("iperf3");
        command.args(["--server", "--forceflush", "--bind", &address.to_string()]);
        let process = machine.spawn(command)?;
        netlab::wait::until_true("the iperf3 server to listen", Duration::from_secs(5), || {
            process.log_text().contains("listening")
        })
        .with_context(|| process.log_text())?;
        Ok(Server { address, _process: process })
    }

    /// Runs streams from a machine.
    ///
    /// # Errors
    /// When they do not get through.
    pub fn run(&self, from: &Machine, streams: Streams) -> anyhow::Result<Received> {
        for _ in 0..20 {
            let mut command = Command::new("iperf3");
            command.args(["--client", &self.address.to_string(), "--json"]);
            command.args(["--time", &streams.seconds.to_string(), "--parallel", &streams.count.to_string()]);
            if streams.back {
                command.arg("--reverse");
            }
            let finished = from.run(command, Duration::from_secs(u64::from(streams.seconds) + 15))?;
            match parse(&finished.stdout)? {
                Ok(received) => return Ok(received),
                // The server takes a moment between two clients.
                Err(busy) if busy.contains("busy") => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => bail!("iperf3: {error}"),
            }
        }
        bail!("the iperf3 server stays busy")
    }
}

/// Reads iperf3's report; the inner error is what iperf3 says went wrong.
fn parse(json: &str) -> anyhow::Result<Result<Received, String>> {
    let report: serde_json::Value =
        serde_json::from_str(json).with_context(|| format!("iperf3 printed {json:?}"))?;
    if let Some(error) = report["error"].as_str() {
        return Ok(Err(error.to_owned()));
    }
    let sum = &report["end"]["sum_received"];
    let number = |field: &str| sum[field].as_f64().with_context(|| format!("no {field} in iperf3's report"));
    Ok(Ok(Received { bytes: number("bytes")?, gbit_s: number("bits_per_second")? / 1e9 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_sum_counts_and_errors_are_told() {
        let report = r#"{"end": {"sum_sent": {"bytes": 9, "bits_per_second": 9},
            "sum_received": {"bytes": 2500000000, "bits_per_second": 2.0e10}}}"#;
        assert_eq!(parse(report).expect("a report"), Ok(Received { bytes: 2.5e9, gbit_s: 20.0 }));
        let error = parse(r#"{"error": "the server is busy"}"#).expect("a report").expect_err("an error");
        assert!(error.contains("busy"));
        assert!(parse("no json").is_err() && parse(r#"{"end": {}}"#).is_err());
    }
}
