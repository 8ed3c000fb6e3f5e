//! `bench`: meshnet beside other mesh VPNs on this machine.

use anyhow::Context;
use clap::{Parser, Subcommand};
use meshnet_benches::facts::Facts;
use meshnet_benches::faults::{Fault, Outcomes};
use meshnet_benches::metric::Metric;
use meshnet_benches::report::{Entry, Report, chart, page, table};
use meshnet_benches::suite::{self, Figures, Plan};
use meshnet_benches::system::{self, Cipher, Meshnet, Nebula, Peer, Raw, System, Tinc, WireGuard};
use meshnet_benches::{facts, micro};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The exit code of a run that must not be quoted.
const NOT_QUOTABLE: u8 = 3;

/// Peers of which the short form has a faster or better known one of the same kind.
const LEFT_OUT_OF_SHORT: [&str; 3] = ["boringtun-cli", "gotatun", "tinc-1.1"];

/// Measures meshnet beside tinc, WireGuard in user space, Nebula, and no tunnel at all, in network namespaces of this
/// machine.
#[derive(Parser, Debug)]
#[command(
    name = "bench",
    after_help = "\
Exit code 3: the rounds scatter too much for the run to be quoted; nothing was written.

Examples:
  bench --short                                      five minutes
  bench --only meshnet,tinc --only tcp_there         two systems, one figure
  bench --peer wireguard=/opt/gotatun                one more system"
)]
struct Args {
    /// Two or three rounds of short works, at most five minutes; without boringtun, GotaTun, and tinc 1.1 unless named
    #[arg(long)]
    short: bool,
    /// Only these systems and figures (names as in the tables and the JSON), separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// So many rounds, however long they take
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// One system more: tinc, tincr, wireguard, or nebula, and the daemon's program; may be given several times
    #[arg(long, value_name = "KIND=PATH")]
    peer: Vec<Peer>,
    /// Where meshd is, if it is not beside this program
    #[arg(long, value_name = "PATH", env = netlab::mesh::BINARY)]
    meshd: Option<PathBuf>,
    /// A directory with further programs of peers
    #[arg(long, value_name = "DIR")]
    programs: Vec<PathBuf>,
    /// Where to write the JSON file and the charts; nowhere without it
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where to write the figures so far as each round ends, as JSON: a run that is killed is not lost (`bench report` reads
    /// it)
    #[arg(long, value_name = "FILE")]
    so_far: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Write tables and charts anew from the JSON file of a run
    Report {
        /// The run; tables and charts are written beside it
        #[arg(default_value = "docs/benchmarks/results.json")]
        json: PathBuf,
        /// Also put them between the marks in this page
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
    },
    /// Make the same faults happen to each system, and compare what they cost a flow
    Faults {
        /// How often each fault is made
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        runs: u16,
        /// Where meshd is, if it is not beside this program
        #[arg(long, value_name = "PATH", env = netlab::mesh::BINARY)]
        meshd: Option<PathBuf>,
        /// Only these systems and faults, separated by commas
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Vec<String>,
        /// A file of outcomes, which new ones are added to: a long comparison can be made in parts
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
    },
    /// Run the micro-benchmarks and compare them with the committed figures
    Micro {
        /// Put the new figures in the place of the committed ones
        #[arg(long)]
        save: bool,
        /// Take what `cargo bench` measured last instead of measuring
        #[arg(long)]
        measured: bool,
        /// The committed figures
        #[arg(long, value_name = "FILE", default_value = "docs/benchmarks/micro.json")]
        baseline: PathBuf,
        /// Where cargo builds
        #[arg(long, value_name = "DIR", env = "CARGO_TARGET_DIR", default_value = "target")]
        target: PathBuf,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.verb {
        Some(Verb::Report { json, into }) => report_again(json, into.as_deref()),
        Some(Verb::Micro { save, measured, baseline, target }) => {
            compare_micro(*save, *measured, baseline, target)
        }
        Some(Verb::Faults { runs, meshd, only, into }) => {
            faults(&args, usize::from(*runs), meshd.as_deref(), only, into.as_deref())
        }
        None => run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    netlab::access::acquire()?;
    anyhow::ensure!(
        system::find("iperf3", &[]).is_some(),
        "`iperf3` is not installed: apt-get install iperf3"
    );
    let scratch = Scratch::new()?;
    let (mut systems, mut absent) = gather(args, &scratch.0)?;
    let names: Vec<String> = systems.iter().map(|system| system.name().to_owned()).collect();
    let only = Only::new(&args.only, &names)?;
    systems.retain(|system| only.system(system.name()));
    if args.short && only.all_systems() {
        let left_out = |name: &str| LEFT_OUT_OF_SHORT.contains(&name);
        for system in systems.iter().filter(|system| left_out(system.name())) {
            absent.insert(system.name().to_owned(), "left out of the short form; --only names it".to_owned());
        }
        systems.retain(|system| !left_out(system.name()));
    }
    if !only.all_systems() {
        absent.clear();
    }
    let mut plan = if args.short { Plan::SHORT } else { Plan::FULL };
    if let Some(rounds) = args.rounds {
        plan = Plan { rounds: usize::from(rounds), limit: None, ..plan };
    }
    let machine = Facts::gather();
    let report = |rounds: usize, figures: &[Figures]| {
        let entries = systems.iter().zip(figures).map(|(system, figures)| {
            Entry::new(system.name(), system.description(), system.is_chacha(), figures)
        });
        Report {
            machine: machine.clone(),
            rounds,
            plan: if args.short { "short" } else { "full" }.to_owned(),
            systems: entries.collect(),
            absent: absent.clone(),
        }
    };
    let (mut kept, mut ended) = (Ok(()), 0);
    let progress = |what: &str| eprintln!("{:5.1}  {what}", facts::load());
    let figures = suite::run(&systems, plan, &|metric| only.metric(metric), progress, |rounds, figures| {
        ended = rounds;
        kept = args.so_far.as_deref().map_or(Ok(()), |path| write_so_far(path, &report(rounds, figures)));
    });
    if let Err(error) = kept {
        eprintln!("the rounds were not kept: {error:#}");
    }
    let report = report(ended.max(1), &figures);
    println!(
        "{}\n\n{}\n\n{}",
        table::figures(&report, false),
        table::ratios(&report, false),
        table::notes(&report)
    );
    if let Some(reason) = report.refusal() {
        eprintln!("not to be quoted: {reason}");
        return Ok(ExitCode::from(NOT_QUOTABLE));
    }
    match &args.out {
        Some(directory) if args.only.is_empty() => write(&report, directory)?,
        Some(directory) => println!("\na part only: nothing was written to {}", directory.display()),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Peers that cannot be had here, with the reason.
type Absent = BTreeMap<String, String>;

/// All systems that can be had here, and those that cannot, with the reason.
fn gather(args: &Args, scratch: &Path) -> anyhow::Result<(Vec<Box<dyn System>>, Absent)> {
    let meshd = match &args.meshd {
        Some(path) => path.clone(),
        None => netlab::mesh::binary()?,
    };
    let own = |cipher| Box::new(Meshnet::new(meshd.clone(), cipher));
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(Raw), own(Cipher::Auto), own(Cipher::ChaCha)];
    let mut absent = BTreeMap::new();
    let mut add = |name: &str, program: &str, make: &dyn Fn(&Path) -> anyhow::Result<Box<dyn System>>| {
        let found = system::find(program, &args.programs).with_context(|| format!("no `{program}` here"));
        match found.and_then(|path| make(&path)) {
            Ok(system) => systems.push(system),
            Err(reason) => {
                absent.insert(name.to_owned(), format!("{reason:#}"));
            }
        }
    };
    add("tinc", "tincd", &|path| Ok(Box::new(Tinc::new("tinc", path, scratch)?)));
    add("tinc-1.1", "tinc-1.1/tincd", &|path| Ok(Box::new(Tinc::new("tinc-1.1", path, scratch)?)));
    for name in ["wireguard-go", "gotatun", "boringtun-cli"] {
        add(name, name, &|path| Ok(Box::new(WireGuard::new(name, path, scratch)?)));
    }
    add("nebula", "nebula", &|path| Ok(Box::new(Nebula::new("nebula", path, scratch)?)));
    for peer in &args.peer {
        let named = peer.systems(scratch).with_context(|| format!("--peer {}", peer.path.display()))?;
        systems.extend(named);
    }
    Ok((systems, absent))
}

/// What `--only` chooses: of systems and metrics each, all where none is named.
struct Only {
    systems: Vec<String>,
    metrics: Vec<Metric>,
}

impl Only {
    fn new(words: &[String], systems: &[String]) -> anyhow::Result<Only> {
        let mut only = Only { systems: Vec::new(), metrics: Vec::new() };
        for word in words {
            let as_metric = serde_json::from_value(serde_json::Value::String(word.clone()));
            if systems.contains(word) {
                only.systems.push(word.clone());
            } else if word == "raw" {
                only.systems.push("raw veth".to_owned());
            } else if let Ok(metric) = as_metric {
                only.metrics.push(metric);
            } else {
                let metrics = serde_json::to_string(&Metric::ALL)?;
                anyhow::bail!("--only: {word:?} is neither one of {systems:?} nor one of {metrics}");
            }
        }
        Ok(only)
    }

    fn all_systems(&self) -> bool {
        self.systems.is_empty()
    }

    fn system(&self, name: &str) -> bool {
        self.all_systems() || self.systems.iter().any(|chosen| chosen == name)
    }

    fn metric(&self, metric: Metric) -> bool {
        self.metrics.is_empty() || self.metrics.contains(&metric)
    }
}

fn write_so_far(path: &Path, report: &Report) -> anyhow::Result<()> {
    let partial = path.with_extension("new");
    fs::write(&partial, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| partial.display().to_string())?;
    fs::rename(&partial, path).with_context(|| path.display().to_string())
}

fn write(report: &Report, directory: &Path) -> anyhow::Result<()> {
    let put = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())
    };
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    put("results.json", &(serde_json::to_string_pretty(report)? + "\n"))?;
    if let Some(svg) = chart::overview(report) {
        put("overview.svg", &svg)?;
    }
    for metric in Metric::ALL {
        let name = serde_json::to_value(metric)?;
        if let (Some(name), Some(svg)) = (name.as_str(), chart::bars(report, metric)) {
            put(&format!("{name}.svg"), &svg)?;
        }
    }
    println!("\nwritten to {}", directory.display());
    Ok(())
}

fn report_again(json: &Path, into: Option<&Path>) -> anyhow::Result<ExitCode> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
    let report: Report = serde_json::from_str(&read(json)?).with_context(|| json.display().to_string())?;
    write(&report, json.parent().unwrap_or(Path::new("")))?;
    if let Some(path) = into {
        let text = page::replace(&read(path)?, &page::section(&report)).with_context(|| {
            format!("{} has no marks `{}` and `{}`", path.display(), page::BEGIN, page::END)
        })?;
        fs::write(path, text).with_context(|| path.display().to_string())?;
        println!("and into {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn faults(
    args: &Args,
    runs: usize,
    meshd: Option<&Path>,
    only: &[String],
    into: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    netlab::access::acquire()?;
    let scratch = Scratch::new()?;
    let mut systems: Vec<Box<dyn System>> = Vec::new();
    let binary = match meshd {
        Some(path) => path.to_owned(),
        None => netlab::mesh::binary()?,
    };
    systems.push(Box::new(Meshnet::new(binary, Cipher::Auto)));
    let found = |program: &str| system::find(program, &args.programs);
    if let Some(path) = found("tincd") {
        systems.push(Box::new(Tinc::new("tinc", &path, &scratch.0)?));
    }
    if let Some(path) = found("nebula") {
        systems.push(Box::new(Nebula::new("nebula", &path, &scratch.0)?));
    }
    let wants = |name: &str, all: &[&str]| {
        !only.iter().any(|word| all.contains(&word.as_str())) || only.iter().any(|word| word == name)
    };
    let names: Vec<String> = systems.iter().map(|system| system.name().to_owned()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let all: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    if let Some(word) =
        only.iter().find(|word| !names.contains(&word.as_str()) && !all.contains(&word.as_str()))
    {
        anyhow::bail!("--only: {word:?} is none of {names:?} or {all:?}");
    }
    let mut outcomes: Outcomes = match into {
        Some(path) if path.exists() => serde_json::from_str(&fs::read_to_string(path)?)?,
        _ => Outcomes::default(),
    };
    for fault in Fault::ALL.into_iter().filter(|fault| wants(fault.name(), &all)) {
        for system in systems.iter().filter(|system| wants(system.name(), &names)) {
            for run in 1..=runs {
                let cost = fault.cost(system.as_ref());
                match &cost {
                    Ok(cost) => eprintln!("{}, {}, run {run}: {cost:?}", fault.name(), system.name()),
                    Err(error) => eprintln!("{}, {}, run {run}: {error:#}", fault.name(), system.name()),
                }
                outcomes.add(fault, system.as_ref(), cost?);
                if let Some(path) = into {
                    fs::write(path, serde_json::to_string_pretty(&outcomes)? + "\n")?;
                }
            }
        }
    }
    println!("{}", outcomes.table());
    Ok(ExitCode::SUCCESS)
}

fn compare_micro(save: bool, measured: bool, baseline: &Path, target: &Path) -> anyhow::Result<ExitCode> {
    if !measured {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo).args(["bench", "--package", "meshnet-benches"]).status()?;
        anyhow::ensure!(status.success(), "cargo bench failed");
    }
    let now = micro::measured(&target.join("criterion"))?;
    let before = micro::baseline(baseline)?;
    if let Some(before) = &before {
        println!("committed figures: {}, {}", before.machine.processor, before.machine.date);
    }
    println!("{}", micro::comparison(&before.map(|it| it.ns).unwrap_or_default(), &now));
    if save {
        let new = micro::Baseline { machine: Facts::gather(), ns: now };
        fs::write(baseline, serde_json::to_string_pretty(&new)? + "\n")
            .with_context(|| baseline.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A directory for keys and certificates, gone in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("meshnet-bench-{}", std::process::id()));
        // Of an earlier process with the same id that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
