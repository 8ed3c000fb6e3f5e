//! The containers that a stack consists of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::components::render::{self, Scene, Seat};
use super::definition::DriverKind;
use super::definition::{Definition, SecretRef, Source};
use super::spec::{Placed, Stack};

/// The numbers of replicas: by component, then by node. A number belongs to its node for as long as the replica lives
/// and is not given to another one: ZooKeeper writes it into its data.
pub type Ids = BTreeMap<String, BTreeMap<String, u32>>;

/// One replica as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The node that runs it.
    pub node: String,
    /// The container.
    pub definition: Definition,
}

/// Numbers for all replicas of `stack`: those that are `known` stay, others get the lowest that was never seen.
pub fn assign(stack: &Stack, known: &Ids) -> Ids {
    let none = BTreeMap::new();
    let number = |placed: &Placed| {
        let known = known.get(&placed.component.name).unwrap_or(&none);
        let mut taken: BTreeSet<u32> = known.values().copied().collect();
        let mut ids = BTreeMap::new();
        for node in &placed.nodes {
            let id = known.get(node).copied().unwrap_or_else(|| {
                let free = (1..).find(|id| !taken.contains(id)).unwrap_or(u32::MAX);
                taken.insert(free);
                free
            });
            ids.insert(node.clone(), id);
        }
        (placed.component.name.clone(), ids)
    };
    stack.placed.iter().map(number).collect()
}

/// All containers of `stack`, in the order of its components and then of their numbers. `versions` are the secrets'.
///
/// # Errors
/// Which template cannot be rendered, and why.
pub fn replicas(
    stack: &Stack,
    ids: &Ids,
    versions: &BTreeMap<String, String>,
) -> Result<Vec<Replica>, String> {
    let scene = Arc::new(scene(stack, ids));
    let mut replicas = Vec::new();
    for placed in &stack.placed {
        for seat in scene.members.get(&placed.component.name).map(Vec::as_slice).unwrap_or_default() {
            let definition = define(stack, placed, seat, &scene, versions)?;
            replicas.push(Replica { node: seat.node.clone(), definition });
        }
    }
    Ok(replicas)
}

/// The name of an engine's volume.
pub fn volume_name(stack: &str, component: &str, volume: &str) -> String {
    format!("meshd-{stack}-{component}-{volume}")
}

fn scene(stack: &Stack, ids: &Ids) -> Scene {
    let datacenters: BTreeSet<&str> = stack.nodes.values().map(|node| node.datacenter.as_str()).collect();
    let seat = |name: &String, id: u32| {
        let node = &stack.nodes[name];
        Seat {
            id,
            node: name.clone(),
            address: node.address.to_string(),
            datacenter: node.datacenter.clone(),
            datacenter_number: datacenters.iter().position(|known| **known == node.datacenter).unwrap_or(0),
            arch: node.arch,
        }
    };
    let mut scene = Scene { stack: stack.name.clone(), ..Scene::default() };
    scene.nodes = stack.nodes.keys().zip(1..).map(|(name, number)| seat(name, number)).collect();
    for placed in &stack.placed {
        let name = placed.component.name.clone();
        let given = ids.get(&name);
        let id = |node: &String| given.and_then(|ids| ids.get(node)).copied().unwrap_or(0);
        let mut seats: Vec<Seat> = placed.nodes.iter().map(|node| seat(node, id(node))).collect();
        seats.sort_by_key(|seat| seat.id);
        scene.members.insert(name.clone(), seats);
        scene.ports.insert(name.clone(), placed.ports.clone());
        scene.settings.insert(name, placed.settings.clone());
    }
    scene
}

fn define(
    stack: &Stack,
    placed: &Placed,
    seat: &Seat,
    scene: &Arc<Scene>,
    versions: &BTreeMap<String, String>,
) -> Result<Definition, String> {
    let component = &placed.component;
    let mut rendered = render::render(component, seat, scene)?;
    rendered.command.extend(placed.arguments.iter().cloned());
    rendered.environment.extend(placed.environment.clone());
    let mut volumes = BTreeMap::new();
    for (name, volume) in &component.volumes {
        let source = match placed.volumes.get(name) {
            Some(path) => Source::Path(path.clone()),
            None => Source::Named(volume_name(&stack.name, &component.name, name)),
        };
        volumes.insert(volume.path.clone(), source);
    }
    let mut secrets = BTreeMap::new();
    for (name, wanted) in &component.secrets {
        let version = versions.get(name).cloned().unwrap_or_default();
        // A secret that is only mentioned in files counts all the same: its change changes them.
        let path = wanted.path.clone().unwrap_or_else(|| format!("@{name}"));
        secrets.insert(path, SecretRef { name: name.clone(), version });
    }
    Ok(Definition {
        stack: stack.name.clone(),
        component: component.name.clone(),
        id: seat.id,
        driver: placed.driver,
        image: placed.images.get(&seat.arch).cloned().unwrap_or_default(),
        arch: seat.arch,
        entrypoint: rendered.entrypoint,
        command: rendered.command,
        environment: rendered.environment,
        user: component.container.user.clone(),
        volumes,
        mounts: rendered.mounts,
        files: rendered.files,
        secrets,
        ports: placed.ports.clone(),
        labels: if placed.driver == DriverKind::Marathon { rendered.labels } else { BTreeMap::new() },
        privileged: component.container.privileged,
        pid_host: component.container.pid_host,
        capabilities: component.container.capabilities.clone(),
        memory_mb: placed.memory_mb,
        cpus_milli: placed.cpus_milli,
        stop_grace_s: component.container.stop_grace_s,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::stack::components::Catalogue;
    use crate::stack::definition::Arch::{self, Amd64, Arm, Arm64};
    use crate::stack::spec::{self, Member, propose, tests::mesh};

    fn stack(text: &str, members: &[Member]) -> Stack {
        spec::resolve(Path::new("stack.toml"), text, &Catalogue::built_in(), members).unwrap()
    }

    fn compare(name: &str, sites: &[(&str, &[Arch])]) {
        let members = mesh(sites);
        let stack = stack(&propose::propose("golden", &members).text, &members);
        let versions =
            stack.secrets.keys().map(|name| (name.clone(), "0123456789abcdef".to_owned())).collect();
        let replicas = replicas(&stack, &assign(&stack, &Ids::new()), &versions).unwrap();
        let of = |node: &str| {
            let of_node = replicas.iter().filter(|replica| replica.node == node);
            of_node
                .map(|replica| (replica.definition.component.clone(), replica.definition.clone()))
                .collect()
        };
        let by_node: BTreeMap<&str, BTreeMap<String, Definition>> =
            stack.nodes.keys().map(|node| (node.as_str(), of(node))).collect();
        let made = serde_json::to_string_pretty(&by_node).unwrap() + "\n";
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/stack/components/golden/{name}.json"));
        if std::env::var_os("MESHD_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        let first = made.lines().zip(golden.lines()).position(|(made, golden)| made != golden);
        assert!(
            made == golden,
            "{} differs, first in line {first:?}; MESHD_WRITE_GOLDEN=1 writes it anew",
            path.display()
        );
    }

    #[test]
    fn three_nodes_in_three_datacentres_are_as_they_were() {
        compare("three-sites-3", &[("ams", &[Amd64]), ("fra", &[Amd64]), ("par", &[Amd64])]);
    }

    #[test]
    fn five_nodes_in_three_datacentres_are_as_they_were() {
        compare("three-sites-5", &[("ams", &[Amd64, Amd64]), ("fra", &[Amd64, Amd64]), ("par", &[Amd64])]);
    }

    #[test]
    fn a_mixed_mesh_in_two_datacentres_is_as_it_was() {
        compare("two-sites-mixed", &[("ams", &[Amd64, Arm64]), ("home", &[Arm64, Arm])]);
    }

    #[test]
    fn a_number_stays_with_its_node_and_is_never_given_twice() {
        let members = mesh(&[("a", &[Amd64]), ("b", &[Amd64]), ("c", &[Amd64]), ("d", &[Amd64])]);
        let of = |nodes: &str| {
            stack(&format!("name = \"s\"\n[components.zookeeper]\nnodes = [{nodes}]\n"), &members)
        };
        let first = assign(&of("\"a1\", \"b1\", \"c1\""), &Ids::new());
        assert_eq!(first["zookeeper"], [("a1".into(), 1), ("b1".into(), 2), ("c1".into(), 3)].into());
        let replaced = assign(&of("\"d1\", \"b1\", \"c1\""), &first);
        assert_eq!(replaced["zookeeper"], [("d1".into(), 4), ("b1".into(), 2), ("c1".into(), 3)].into());
        assert_eq!(assign(&of("\"c1\", \"a1\", \"b1\""), &first)["zookeeper"], first["zookeeper"]);
    }

    #[test]
    fn no_definition_holds_more_of_a_secret_than_its_name_and_version() {
        let members = mesh(&[("a", &[Amd64]), ("b", &[Amd64]), ("c", &[Amd64])]);
        let stack = stack("name = \"s\"\n[components.mariadb]\nnodes = [\"a1\", \"b1\", \"c1\"]\n", &members);
        let versions = [("mariadb-root".to_owned(), "v7".to_owned())].into();
        let replica = &replicas(&stack, &assign(&stack, &Ids::new()), &versions).unwrap()[0];
        assert!(
            replica.definition.files["/run/meshd/client.cnf"].contains("password = @secret(mariadb-root)@")
        );
        assert_eq!(replica.definition.secrets["/run/secrets/mariadb-root"].version, "v7");
        assert!(!replica.definition.command.join(" ").contains("@secret"));
    }
}
