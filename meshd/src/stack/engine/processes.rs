//! The processes of a container: which came of which, as in proc_pid_children(5).

use std::fs;

use bollard::query_parameters as options;

use super::Engine;

/// Most processes of one container that are looked at.
const MAX_PROCESSES: usize = 4_096;

impl Engine {
    /// Processes of a container, by the machine's numbers: those that came of its first one. The engine would run `ps` over
    /// all processes of the machine, for each container.
    pub async fn processes(&self, name: &str) -> Vec<u32> {
        let Ok(Some(seen)) = self.look_at(name).await else { return Vec::new() };
        let first = seen.state.and_then(|state| u32::try_from(state.pid?).ok()).filter(|pid| *pid > 0);
        match first.and_then(descendants) {
            Some(found) => found,
            None => self.listed(name).await,
        }
    }

    /// The same, as the engine lists them: where the kernel does not tell whose child is whose.
    async fn listed(&self, name: &str) -> Vec<u32> {
        let options = options::TopOptions { ps_args: "-eo pid".into() };
        let Ok(top) = self.docker.top_processes(name, Some(options)).await else { return Vec::new() };
        let lines = top.processes.unwrap_or_default();
        lines.iter().filter_map(|line| line.first()?.trim().parse().ok()).collect()
    }
}

/// A process and all that came of it, the first one first; `None` where there is no such process, or the kernel does not
/// tell. What was started beside them in the same container, as by `docker exec`, is not among them.
fn descendants(first: u32) -> Option<Vec<u32>> {
    let mut found = vec![first];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        match children(pid) {
            Some(more) => found.extend(more),
            None if next == 0 => return None,
            // It has ended meanwhile.
            None => {}
        }
        found.truncate(MAX_PROCESSES);
        next += 1;
    }
    Some(found)
}

/// Each thread has children of its own.
fn children(pid: u32) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    let mut told = false;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread may end meanwhile.
        if let Ok(text) = fs::read_to_string(thread.path().join("children")) {
            told = true;
            found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    told.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn children_and_their_children_are_found_those_of_threads_too() {
        if children(std::process::id()).is_none() {
            eprintln!("this kernel does not tell whose child is whose");
            return;
        }
        let started = std::thread::spawn(|| {
            let script = "sleep 60 & echo $!; read wait; kill $!";
            let mut shell = Command::new("sh");
            shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        });
        let own = std::process::id();
        let mut shell = started.join().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let sleeper: u32 = line.trim().parse().unwrap();
        let found = descendants(own).unwrap();
        assert!(found[0] == own && found.contains(&shell.id()) && found.contains(&sleeper), "{found:?}");
        assert_eq!(descendants(shell.id()).unwrap(), [shell.id(), sleeper]);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(descendants(u32::MAX), None);
    }
}
