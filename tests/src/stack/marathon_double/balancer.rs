//! In the place of marathon-lb: a real HAProxy whose configuration follows Marathon's applications.

use std::fmt::Write as _;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use super::http::get;
use super::words::{address, words};

/// Where HAProxy's configuration is written.
const CONFIGURATION: &str = "/tmp/haproxy.cfg";

pub(super) fn play(arguments: &[String]) {
    let servers: Vec<_> = arguments.iter().filter_map(|one| address(one.strip_prefix("http://")?)).collect();
    let group = arguments.iter().skip_while(|one| *one != "--group").nth(1).cloned().unwrap_or_default();
    let ports = std::env::var("PORTS").expect("the ports to listen on");
    let ports: Vec<&str> = ports.split(',').collect();
    // Its own templates, made for this node, say where it listens.
    let head =
        std::fs::read_to_string("/marathon-lb/templates/HAPROXY_HTTP_FRONTEND_HEAD").expect("a template");
    let own = head.lines().find_map(|line| line.trim().strip_prefix("bind ")).expect("an address");
    let own = own.rsplit_once(':').map(|(ip, _)| ip.to_owned()).unwrap_or_default();
    let mut written = String::new();
    let mut process: Option<Child> = None;
    loop {
        let apps = servers.iter().find_map(|at| {
            let answer = get(*at, "/v2/apps").ok().filter(|answer| answer.status == 200)?;
            serde_json::from_slice::<Value>(&answer.body).ok()
        });
        if let Some(apps) = apps {
            let text = configuration(&own, &ports, &head, &group, &apps);
            if text != written {
                std::fs::write(CONFIGURATION, &text).expect("its configuration can be written");
                written = text;
                if let Some(old) = &mut process {
                    let _ = old.kill();
                    let _ = old.wait();
                }
                let mut command = Command::new("haproxy");
                process = Some(command.args(["-db", "-f", CONFIGURATION]).spawn().expect("haproxy"));
            }
        }
        if process.as_mut().is_some_and(|process| !matches!(process.try_wait(), Ok(None))) {
            std::process::exit(1);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn configuration(own: &str, ports: &[&str], head: &str, group: &str, apps: &Value) -> String {
    let mut text =
        "defaults\n  mode http\n  timeout connect 3s\n  timeout client 30s\n  timeout server 30s\n"
            .to_owned();
    let _ = writeln!(
        text,
        "frontend status\n  bind {own}:{}\n  monitor-uri /_haproxy_health_check\n{head}",
        ports[2]
    );
    let mut backends = String::new();
    for app in apps["apps"].as_array().into_iter().flatten() {
        let label = |name: &str| words(&app["labels"][name]);
        let (host, port) = (label("HAPROXY_0_VHOST"), &app["portDefinitions"][0]["port"]);
        if label("HAPROXY_GROUP") != group || host.is_empty() {
            continue;
        }
        let name = words(&app["id"]).trim_start_matches('/').replace('/', "_");
        let _ = writeln!(text, "  use_backend {name} if {{ hdr(host) -i {host} }}");
        let begin = label("HAPROXY_0_BACKEND_HEAD");
        let begin =
            begin.replace("{backend}", &name).replace("{mode}", "http").replace("{balance}", "roundrobin");
        let begin = if begin.is_empty() { format!("backend {name}") } else { begin };
        let node = words(&app["constraints"][0][2]);
        let _ = writeln!(backends, "{begin}\n  server own {node}:{port} check");
    }
    text + &backends
}
