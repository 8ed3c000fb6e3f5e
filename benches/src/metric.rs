//! What is measured, in which unit, and which way is better.

use serde::{Deserialize, Serialize};

/// One figure of a system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// One TCP stream from the first node to the last, Gbit/s at the receiver.
    TcpThere,
    /// One TCP stream from the last node to the first.
    TcpBack,
    /// Four TCP streams from the first node to the last, together.
    TcpFour,
    /// One TCP stream from each of eight nodes to a ninth, together.
    TcpFanIn,
    /// Processor time of all daemons per gigabyte (10^9 bytes) of one TCP stream.
    CpuPerGb,
    /// The sending node's share of it.
    CpuSender,
    /// The receiving node's share of it.
    CpuReceiver,
    /// Resident memory of the larger daemon after the streams, in MB (10^6 bytes).
    Resident,
    /// Most UDP packets of 64 bytes payload a second with at most 0.1 % lost, in thousands.
    Udp64,
    /// The same with 1,400 bytes of payload.
    Udp1400,
    /// Median round trip of ICMP echoes with nothing else under way, in microseconds.
    RttIdleP50,
    /// 99th percentile of the same.
    RttIdleP99,
    /// Median round trip of ICMP echoes beside one TCP stream, in microseconds.
    RttLoadP50,
    /// 99th percentile of the same.
    RttLoadP99,
    /// One TCP stream with 1 % of the underlay's packets lost on the data's way.
    TcpLoss,
    /// One TCP stream over an underlay with an MTU of 9000.
    TcpJumbo,
    /// One TCP stream between nodes that reach each other only through one relay.
    TcpRelayed,
    /// Processor time of the relay's daemon per gigabyte of that stream.
    CpuRelay,
    /// One TCP stream through two relays.
    TcpRelayedTwice,
    /// From the start of all daemons to the first echo answered, in milliseconds.
    Start,
}

/// Which values are better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// Rates.
    Higher,
    /// Costs.
    Lower,
}

impl Metric {
    /// Every metric, in the order of reports.
    pub const ALL: [Metric; 20] = [
        Metric::TcpThere,
        Metric::TcpBack,
        Metric::TcpFour,
        Metric::TcpFanIn,
        Metric::CpuPerGb,
        Metric::CpuSender,
        Metric::CpuReceiver,
        Metric::Resident,
        Metric::Udp64,
        Metric::Udp1400,
        Metric::RttIdleP50,
        Metric::RttIdleP99,
        Metric::RttLoadP50,
        Metric::RttLoadP99,
        Metric::TcpLoss,
        Metric::TcpJumbo,
        Metric::TcpRelayed,
        Metric::CpuRelay,
        Metric::TcpRelayedTwice,
        Metric::Start,
    ];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Metric::TcpThere => "TCP, one stream",
            Metric::TcpBack => "TCP, one stream back",
            Metric::TcpFour => "TCP, four streams",
            Metric::TcpFanIn => "TCP, eight peers to one",
            Metric::CpuPerGb => "Daemons' CPU, TCP",
            Metric::CpuSender => "CPU of the sender's daemon",
            Metric::CpuReceiver => "CPU of the receiver's daemon",
            Metric::Resident => "Resident memory",
            Metric::Udp64 => "UDP, 64 bytes",
            Metric::Udp1400 => "UDP, 1,400 bytes",
            Metric::RttIdleP50 => "RTT idle, p50",
            Metric::RttIdleP99 => "RTT idle, p99",
            Metric::RttLoadP50 => "RTT beside TCP, p50",
            Metric::RttLoadP99 => "RTT beside TCP, p99",
            Metric::TcpLoss => "TCP, 1 % loss",
            Metric::TcpJumbo => "TCP, 9000-byte underlay",
            Metric::TcpRelayed => "TCP through one relay",
            Metric::CpuRelay => "CPU of the relay's daemon",
            Metric::TcpRelayedTwice => "TCP through two relays",
            Metric::Start => "Start to first packet",
        }
    }

    /// The unit.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::TcpThere
            | Metric::TcpBack
            | Metric::TcpFour
            | Metric::TcpFanIn
            | Metric::TcpLoss
            | Metric::TcpJumbo
            | Metric::TcpRelayed
            | Metric::TcpRelayedTwice => "Gbit/s",
            Metric::CpuPerGb | Metric::CpuSender | Metric::CpuReceiver | Metric::CpuRelay => "s/GB",
            Metric::Resident => "MB",
            Metric::Udp64 | Metric::Udp1400 => "kpps",
            Metric::RttIdleP50 | Metric::RttIdleP99 | Metric::RttLoadP50 | Metric::RttLoadP99 => "us",
            Metric::Start => "ms",
        }
    }

    /// Which values are better.
    pub fn better(self) -> Better {
        match self.unit() {
            "Gbit/s" | "kpps" => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// A spread (see [`crate::stats::Rounds::spread`]) above this makes the figure one that is not quoted. Queues
    /// under load, tails, and throughput under random loss scatter by nature.
    pub fn scatter_limit(self) -> f64 {
        match self {
            Metric::RttIdleP99 | Metric::RttLoadP99 => 2.0,
            Metric::RttLoadP50 | Metric::TcpLoss | Metric::Start => 1.0,
            Metric::Udp64 | Metric::Udp1400 | Metric::RttIdleP50 => 0.5,
            Metric::TcpThere
            | Metric::TcpBack
            | Metric::TcpFour
            | Metric::TcpFanIn
            | Metric::CpuPerGb
            | Metric::CpuSender
            | Metric::CpuReceiver
            | Metric::Resident
            | Metric::TcpJumbo
            | Metric::TcpRelayed
            | Metric::CpuRelay
            | Metric::TcpRelayedTwice => 0.3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_listed_once_in_order() {
        assert!(Metric::ALL.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn rates_are_better_high_and_costs_low() {
        assert_eq!(Metric::TcpRelayed.better(), Better::Higher);
        assert_eq!(Metric::RttLoadP50.better(), Better::Lower);
        assert_eq!(Metric::CpuPerGb.better(), Better::Lower);
    }
}
