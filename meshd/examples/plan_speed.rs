//! How long it takes to plan a stack of 100 nodes and 1,000 containers: from the text of the file to the steps, with nothing
//! there, with everything there, and with everything to be changed. `cargo run --release -p meshd --example plan_speed`

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use meshd::stack::actual::{Actual, Found, ImageFact, Probe, Report};
use meshd::stack::components::Catalogue;
use meshd::stack::definition::Arch;
use meshd::stack::desired::{self, Ids};
use meshd::stack::plan::{self, Wishes};
use meshd::stack::spec::{self, Member, Stack};

const NODES: usize = 100;
const COMPONENTS: usize = 10;
const ROUNDS: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("plan_speed-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let made = components(&directory);
    let mut catalogue = Catalogue::built_in();
    let added = made
        .map_err(|error| error.to_string())
        .and_then(|()| catalogue.add_directory(&directory).map_err(|error| error.to_string()));
    std::fs::remove_dir_all(&directory)?;
    added?;

    let members: Vec<Member> = (0..NODES).map(member).collect();
    let (before, after) = (text("256m"), text("512m"));
    let stack = resolve(&before, &catalogue, &members)?;
    let (nothing, everything) = (seen(&members, None)?, seen(&members, Some(&stack))?);
    for (what, text, actual, expected) in [
        ("with nothing there", &before, &nothing, 2 * NODES * COMPONENTS),
        ("with everything there", &before, &everything, 0),
        ("with everything to be changed", &after, &everything, 2 * NODES * COMPONENTS),
    ] {
        let mut times = Vec::new();
        let mut changes = 0;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let stack = resolve(text, &catalogue, &members)?;
            let plan = plan::plan(&stack, actual, &BTreeMap::new(), Wishes::default())?;
            times.push(started.elapsed());
            changes = plan.changes().count();
        }
        assert_eq!(changes, expected, "{what}");
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{NODES} nodes, {} containers, {what}: {:.0} ms (median of {ROUNDS}; {:.0} to {:.0}), {changes} changes",
            NODES * COMPONENTS,
            ms(times[ROUNDS / 2]),
            ms(times[0]),
            ms(times[ROUNDS - 1])
        );
    }
    Ok(())
}

/// Each one's arguments name all of its replicas, as those of real components do.
fn components(directory: &Path) -> std::io::Result<()> {
    for number in 0..COMPONENTS {
        let name = format!("worker{number}");
        let component = format!(
            "name = \"{name}\"\ndescription = \"w\"\nlayer = \"base\"\nkind = \"each\"\nimages.amd64 = \"w:{number}\"\nports.p = {}\n\
             settings.memory.help = \"m\"\nsettings.memory.default = \"1m\"\nhealth = {{ kind = \"tcp\", port = \"p\" }}\n\
             ready = {{ kind = \"tcp\", port = \"p\" }}\n[container]\n\
             command = [\"--all={{{{ endpoints('{name}', 'p') }}}}\", \"--memory={{{{ settings.memory }}}}\"]\n",
            7000 + number
        );
        std::fs::write(directory.join(format!("{name}.toml")), component)?;
    }
    Ok(())
}

fn text(memory: &str) -> String {
    let component =
        |number| format!("[components.worker{number}]\nnodes = \"all\"\nsettings.memory = \"{memory}\"\n");
    "name = \"big\"\n".to_owned() + &(0..COMPONENTS).map(component).collect::<String>()
}

fn member(number: usize) -> Member {
    Member {
        name: format!("n{number:03}"),
        address: std::net::IpAddr::from([10, 66, (number / 250) as u8, (number % 250 + 1) as u8]),
        datacenter: Some(format!("dc{}", number % 3)),
        arch: Some(Arch::Amd64),
        reachable: true,
    }
}

fn resolve(text: &str, catalogue: &Catalogue, members: &[Member]) -> Result<Stack, String> {
    spec::resolve(Path::new("stack.toml"), text, catalogue, members).map_err(|error| error.to_string())
}

/// What agents would report: nothing, or all containers of a stack, as they should be.
fn seen(members: &[Member], stack: Option<&Stack>) -> Result<Actual, String> {
    let mut actual = Actual::default();
    for member in members {
        let report = Report {
            arch: member.arch,
            engine: "20.10".into(),
            containers: Vec::new(),
            images: BTreeMap::new(),
            secrets: BTreeMap::new(),
            evidence: BTreeMap::new(),
        };
        actual.nodes.insert(member.name.clone(), Ok(report));
    }
    let Some(stack) = stack else { return Ok(actual) };
    let ids = desired::assign(stack, &Ids::new());
    for replica in desired::replicas(stack, &ids, &BTreeMap::new())? {
        let Some(Ok(report)) = actual.nodes.get_mut(&replica.node) else { continue };
        let definition = replica.definition;
        let id = format!("sha256:{}", definition.image);
        report.images.insert(definition.image.clone(), ImageFact { id: id.clone(), arch: "amd64".into() });
        report.containers.push(Found {
            name: definition.container_name(),
            component: definition.component.clone(),
            hash: definition.hash(&id),
            members: ids.get(&definition.component).cloned().unwrap_or_default(),
            definition: Some(definition),
            image_id: id,
            running: true,
            probe: Some(Probe { alive: true, ready: true, ..Probe::default() }),
            ..Found::default()
        });
    }
    Ok(actual)
}
