//! TCP throughput with iperf3.

use super::{done, overlay};
use netlab::mesh::Member;
use std::process::Command;
use std::time::Duration;

/// What iperf3 measured.
#[derive(Clone, Debug)]
pub struct Throughput {
    /// The mean over the whole run, at the receiver.
    pub mean_mbit_s: f64,
    /// Each second's.
    pub seconds_mbit_s: Vec<f64>,
    /// TCP retransmissions of the sender.
    pub retransmits: u64,
}

/// Sends TCP from one member to another for so many seconds.
///
/// # Panics
/// When iperf3 cannot run, or does not get through.
pub fn iperf(from: &Member, to: &Member, seconds: u32) -> Throughput {
    measure(from, to, seconds, None)
}

/// As [`iperf`], at a steady rate.
///
/// # Panics
/// When iperf3 cannot run, or does not get through.
pub fn iperf_at(from: &Member, to: &Member, seconds: u32, mbit_s: u32) -> Throughput {
    measure(from, to, seconds, Some(mbit_s))
}

fn measure(from: &Member, to: &Member, seconds: u32, mbit_s: Option<u32>) -> Throughput {
    let target = overlay(to).to_string();
    let mut server = Command::new("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--bind", &target]);
    let server = done(to.machine().spawn(server));
    done(netlab::wait::until_true("the iperf3 server to listen", Duration::from_secs(5), || {
        server.log_text().contains("listening")
    }));
    let mut client = Command::new("iperf3");
    client.args(["--client", &target, "--json", "--time", &seconds.to_string()]);
    if let Some(rate) = mbit_s {
        client.args(["--bitrate", &format!("{rate}M")]);
    }
    let finished = done(from.machine().run(client, Duration::from_secs(u64::from(seconds) + 20)));
    let report: serde_json::Value = done(serde_json::from_str(&finished.stdout));
    if let Some(error) = report["error"].as_str() {
        panic!("iperf3: {error}");
    }
    let rate = |sum: &serde_json::Value| sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
    let intervals = report["intervals"].as_array().map_or(&[][..], Vec::as_slice);
    Throughput {
        mean_mbit_s: rate(&report["end"]["sum_received"]),
        seconds_mbit_s: intervals.iter().map(|interval| rate(&interval["sum"])).collect(),
        retransmits: report["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
    }
}

impl Throughput {
    /// The slowest second.
    pub fn slowest_mbit_s(&self) -> f64 {
        self.seconds_mbit_s.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

impl std::fmt::Display for Throughput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mean, slowest, retransmits) = (self.mean_mbit_s, self.slowest_mbit_s(), self.retransmits);
        write!(f, "{mean:.0} Mbit/s, slowest second {slowest:.0}, {retransmits} retransmissions")
    }
}
