//! What the demo writes: a table that is drawn over on a terminal, plain lines elsewhere, JSON on request.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use netlab::mesh::PathStatus;
use serde_json::{Value, json};

use super::DemoArgs;
use super::promise::Promise;
use super::scene::{Echoes, Node, Paths};

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";

/// The longest line that is drawn over.
const LINE_CHARS: usize = 70;

/// A cell of the table of pairs.
const CELL_CHARS: usize = 11;

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A terminal: colours unless `NO_COLOR` is set, and a part that is drawn over.
    Live {
        /// Whether to use colours.
        colour: bool,
    },
    /// One line after the other.
    Plain,
    /// One JSON value a line.
    Json,
}

/// The demo's output.
#[derive(Debug)]
pub(super) struct Screen {
    mode: Mode,
    start: Instant,
    live_lines: usize,
}

/// The state of the numbered traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Packets sent.
    pub(super) sent: u64,
    /// Packets that arrived.
    pub(super) received: u64,
    /// The silence at the receiver.
    pub(super) silent: Duration,
}

impl Mode {
    /// What the arguments and standard output call for.
    pub(super) fn of(args: &DemoArgs) -> Mode {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match (args.json, args.plain || !io::stdout().is_terminal()) {
            (true, _) => Mode::Json,
            (false, true) => Mode::Plain,
            (false, false) => Mode::Live { colour: !refused },
        }
    }
}

impl Screen {
    /// An empty screen; its clock starts.
    pub(super) fn new(mode: Mode) -> Screen {
        Screen { mode, start: Instant::now(), live_lines: 0 }
    }

    /// The title of an act.
    pub(super) fn act(&mut self, title: &str) {
        match self.mode {
            Mode::Json => self.json(json!({ "event": "act", "title": title })),
            Mode::Plain | Mode::Live { .. } => {
                let title = self.paint(BOLD, title);
                self.keep(&format!("\n{title}\n"));
            }
        }
    }

    /// Something that was done.
    pub(super) fn step(&mut self, text: &str) {
        match self.mode {
            Mode::Json => self.json(json!({ "event": "step", "at_s": self.at_s(), "text": text })),
            Mode::Plain | Mode::Live { .. } => {
                let at = self.paint(DIM, &format!("{:5.1} s", self.at_s()));
                self.keep(&format!("{at}  {text}\n"));
            }
        }
    }

    /// Whether something promised was seen.
    pub(super) fn promise(&mut self, promise: &Promise) {
        match self.mode {
            Mode::Json => self.json(json!({ "event": "promise", "at_s": self.at_s(), "promise": promise })),
            Mode::Plain | Mode::Live { .. } => {
                let (colour, word) = if promise.kept { (GREEN, "seen    ") } else { (RED, "NOT SEEN") };
                let word = self.paint(colour, word);
                self.keep(&format!("{word} {}: {}\n", promise.promise, promise.seen));
            }
        }
    }

    /// The table of pairs as it is now; drawn over by the next one. Only a terminal shows it.
    pub(super) fn pairs_now(&mut self, nodes: &[Node], paths: &Paths, echoes: &Echoes) {
        if let Mode::Live { .. } = self.mode {
            let text = self.pairs_text(nodes, paths, echoes);
            self.draw(&text);
        }
    }

    /// The table of pairs as it stays.
    pub(super) fn pairs(&mut self, nodes: &[Node], paths: &Paths, echoes: &Echoes) {
        if self.mode == Mode::Json {
            let pairs: Vec<Value> =
                upper(nodes).map(|(from, to)| pair_json(from, to, paths, echoes)).collect();
            return self.json(json!({ "event": "pairs", "at_s": self.at_s(), "pairs": pairs }));
        }
        let text = self.pairs_text(nodes, paths, echoes);
        self.keep(&text);
    }

    /// The numbered traffic as it is now; a terminal only.
    pub(super) fn traffic_now(&mut self, traffic: Traffic, path: Option<&PathStatus>) {
        if let Mode::Live { .. } = self.mode {
            let (sent, received) = (traffic.sent, traffic.received);
            let silent_ms = traffic.silent.as_millis();
            let silence = format!("silent for {silent_ms} ms");
            let silence = if silent_ms > 50 { self.paint(RED, &silence) } else { self.paint(DIM, &silence) };
            let way = path.map_or_else(|| "no path".to_owned(), describe);
            let at = self.paint(DIM, &format!("{:5.1} s", self.at_s()));
            self.draw(&format!("{at}  sent {sent:6}  received {received:6}  {silence}, {way}\n"));
        }
    }

    /// What goes on now, in a line; a terminal only.
    pub(super) fn line_now(&mut self, text: &str) {
        if let Mode::Live { .. } = self.mode {
            let at = self.paint(DIM, &format!("{:5.1} s", self.at_s()));
            // One line: what is longer would not be drawn over.
            let text: String = text.chars().take(LINE_CHARS).collect();
            self.draw(&format!("{at}  {text}\n"));
        }
    }

    /// Text that stays, as it is (not in JSON).
    pub(super) fn text(&mut self, text: &str) {
        match self.mode {
            Mode::Json => self.json(json!({ "event": "text", "text": text })),
            Mode::Plain | Mode::Live { .. } => self.keep(text),
        }
    }

    fn pairs_text(&self, nodes: &[Node], paths: &Paths, echoes: &Echoes) -> String {
        let mut text = format!("{:>6}", "");
        for to in &nodes[1..] {
            let _ = write!(text, " {}", self.paint(BOLD, &format!("{:^CELL_CHARS$}", to.name)));
        }
        for (row, from) in nodes[..nodes.len() - 1].iter().enumerate() {
            let _ = write!(text, "\n{}", self.paint(BOLD, &format!("{:>6}", from.name)));
            for (column, to) in nodes.iter().enumerate().skip(1) {
                let cell =
                    if column > row { self.cell(*from, *to, paths, echoes) } else { " ".repeat(CELL_CHARS) };
                let _ = write!(text, " {cell}");
            }
        }
        text.push('\n');
        let legend = "direct: straight to the node; via X: through relay X, sealed end to end; then the round trip in ms";
        let _ = writeln!(text, "{}", self.paint(DIM, legend));
        text
    }

    /// One pair: how it talks and its round trip, padded to the cell's width.
    fn cell(&self, from: Node, to: Node, paths: &Paths, echoes: &Echoes) -> String {
        let key = (from.name, to.name);
        let path = paths.get(&key).and_then(Option::as_ref);
        let echo = echoes.get(&key).copied().flatten();
        let (colour, way) = match path {
            None => (DIM, "...".to_owned()),
            Some(path) if path.is_direct() => (GREEN, "direct".to_owned()),
            Some(path) if path.is_relayed() => (YELLOW, format!("via {}", path.via.join("+"))),
            Some(path) => (YELLOW, path.kind.clone()),
        };
        let text = match echo {
            Some(time) => format!("{way} {}", round_trip(time)),
            None if echoes.contains_key(&key) => format!("{way} -"),
            None => way,
        };
        // The pad is counted before the colour is put on.
        self.paint(colour, &format!("{:^CELL_CHARS$}", text.chars().take(CELL_CHARS).collect::<String>()))
    }

    fn at_s(&self) -> f64 {
        (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0
    }

    fn paint(&self, style: &str, text: &str) -> String {
        match self.mode {
            Mode::Live { colour: true } => format!("{style}{text}{RESET}"),
            Mode::Live { colour: false } | Mode::Plain | Mode::Json => text.to_owned(),
        }
    }

    fn json(&mut self, value: Value) {
        self.write(&format!("{value}\n"));
    }

    /// Writes text that stays, in the place of the part that is drawn over.
    fn keep(&mut self, text: &str) {
        let erase = self.erase();
        self.write(&format!("{erase}{text}"));
    }

    /// Writes text that the next text takes the place of.
    fn draw(&mut self, text: &str) {
        let erase = self.erase();
        self.write(&format!("{erase}{text}"));
        self.live_lines = text.lines().count();
    }

    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.live_lines) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// A reader that has gone away must not keep the demo from cleaning up.
    fn write(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// A path in words.
pub(super) fn describe(path: &PathStatus) -> String {
    match path.via.as_slice() {
        [] => path.kind.clone(),
        via => format!("via {}", via.join(", ")),
    }
}

/// All unordered pairs.
pub(super) fn upper(nodes: &[Node]) -> impl Iterator<Item = (Node, Node)> {
    nodes.iter().enumerate().flat_map(|(row, from)| nodes[row + 1..].iter().map(|to| (*from, *to)))
}

/// Milliseconds in at most four characters.
fn round_trip(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 9.95 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

fn pair_json(from: Node, to: Node, paths: &Paths, echoes: &Echoes) -> Value {
    let path = paths.get(&(from.name, to.name)).and_then(Option::as_ref);
    let echo = echoes.get(&(from.name, to.name)).copied().flatten();
    json!({
        "from": from.name,
        "to": to.name,
        "kind": path.map(|path| path.kind.as_str()),
        "via": path.map(|path| path.via.as_slice()),
        "rtt_ms": echo.map(|time| (time.as_secs_f64() * 1e5).round() / 100.0),
    })
}

/// The number of ordered pairs among so many nodes.
pub(super) fn ordered_pairs(nodes: usize) -> usize {
    nodes * nodes.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::super::scene::NODES;
    use super::*;

    #[test]
    fn the_table_fits_a_terminal_of_80_columns() {
        let path = PathStatus { kind: "relay".into(), via: vec!["ra".into()], ..Default::default() };
        let paths: Paths =
            upper(&NODES).map(|(from, to)| ((from.name, to.name), Some(path.clone()))).collect();
        let echoes: Echoes = upper(&NODES)
            .map(|(from, to)| ((from.name, to.name), Some(Duration::from_millis(123))))
            .collect();
        let screen = Screen::new(Mode::Plain);
        let text = screen.pairs_text(&NODES, &paths, &echoes);
        let table: Vec<&str> = text.lines().take(NODES.len()).collect();
        assert_eq!(table.len(), 7);
        assert!(table.iter().all(|line| line.len() < 80), "{text}");
        assert_eq!(text.matches("via ra 123").count(), 21, "{text}");
    }

    #[test]
    fn round_trips_stay_short() {
        for (us, text) in [(340, "0.3"), (9_940, "9.9"), (9_960, "10"), (123_400, "123")] {
            assert_eq!(round_trip(Duration::from_micros(us)), text);
        }
    }
}
