use std::path::Path;
use std::time::{Duration, Instant};

use super::job::{Happened, Job, NameText, Outcome, PathKind, Ran, Setup};
use super::*;
use proto::id::Name;

fn name(text: &str) -> NameText {
    NameText(Name::new(text).unwrap())
}

fn setup(config: Config) -> Setup {
    Setup {
        config,
        nat: None,
        name: name("a"),
        mesh: name("home"),
        interface: "mesh0".into(),
        state: "/var/lib/meshd".into(),
        configuration: "/etc/meshd.toml".into(),
    }
}

fn shell(on: On, text: &str) -> Config {
    Config { commands: [(on, Command::Shell(text.into()))].into(), ..Config::default() }
}

/// Runs the helper over these jobs to its end.
fn run(config: Config, jobs: &[(On, Happened)]) -> Vec<Ran> {
    let mut input = serde_json::to_string(&setup(config)).unwrap() + "\n";
    for (at, (on, happened)) in jobs.iter().enumerate() {
        let job = Job { number: at as u64 + 1, on: *on, happened: happened.clone() };
        input += &(serde_json::to_string(&job).unwrap() + "\n");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut output = Vec::new();
    runtime.block_on(runner::serve(input.as_bytes(), &mut output)).unwrap();
    let text = String::from_utf8(output).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Those that were commands.
fn commands(ran: Vec<Ran>) -> Vec<Ran> {
    ran.into_iter().filter(|ran| ran.outcome.is_some()).collect()
}

fn of_a_subnet() -> Happened {
    Happened {
        node: Some(name("b")),
        remote: Some("[2001:db8::1]:4655".parse().unwrap()),
        subnet: Some("10.1.0.0/16".parse().unwrap()),
        weight: Some(7),
        ..Happened::default()
    }
}

#[test]
fn a_command_gets_tincs_variables_and_its_output_comes_back() {
    let config = shell(
        On::SubnetUp,
        "echo $NETNAME $NAME $DEVICE $INTERFACE $NODE; echo $REMOTEADDRESS $REMOTEPORT $SUBNET $WEIGHT >&2; echo $MESHD_EVENT-$MESHD_PATH",
    );
    let ran = run(config, &[(On::SubnetUp, of_a_subnet())]);
    assert_eq!(ran.len(), 2, "the command and the end of the job: {ran:?}");
    assert_eq!(ran[0].outcome, Some(Outcome::Done));
    let mut output = ran[0].output.clone();
    output.sort();
    assert_eq!(output, ["2001:db8::1 4655 10.1.0.0/16 7", "home a /dev/net/tun mesh0 b", "subnet_up-"]);
    assert_eq!((ran[1].number, &ran[1].outcome), (1, &None));
}

#[test]
fn a_change_of_path_says_from_what_to_what() {
    let config = shell(On::PathChange, "echo $NODE $MESHD_PATH_BEFORE $MESHD_PATH ${MESHD_VIA-none}");
    let happened = Happened {
        node: Some(name("b")),
        path: Some(PathKind::Relay),
        via: Some(name("r")),
        before: Some(PathKind::Direct),
        ..Happened::default()
    };
    let ran = commands(run(config, &[(On::PathChange, happened)]));
    assert_eq!(ran[0].output, ["b direct relay r"]);
}

#[test]
fn commands_run_one_after_the_other_and_what_nobody_wants_runs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut config = shell(On::NodeUp, &format!("sleep 0.05; echo $NODE >> {}", log.display()));
    config.commands.insert(On::Down, Command::Program(vec!["/bin/cat".into(), log.display().to_string()]));
    let member = |text| Happened { node: Some(name(text)), ..Happened::default() };
    let jobs = [
        (On::NodeUp, member("b")),
        (On::NodeDown, member("b")),
        (On::NodeUp, member("c")),
        (On::Down, Happened::default()),
    ];
    let ran = commands(run(config, &jobs));
    assert_eq!(ran.len(), 3);
    assert_eq!(ran[2].output, ["b", "c"]);
}

#[test]
fn tincs_scripts_run_in_its_order_and_what_may_not_be_run_is_no_script() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("hosts")).unwrap();
    let script = |file: &str, mode: u32| {
        let path = directory.path().join(file);
        // Not by this process: a child of another test could hold the new file open for writing (ETXTBSY).
        let text = "#!/bin/sh\necho ${0##*/} $NODE; pwd\n";
        let mut write = std::process::Command::new("sh");
        write.args(["-c", "printf %s \"$1\" > \"$2\"", "sh", text]).arg(&path);
        assert!(write.status().unwrap().success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    script("host-up", 0o700);
    script("hosts/b-up", 0o700);
    script("hosts/c-up", 0o700);
    script("host-down", 0o600);
    let config = Config { tinc: Some(directory.path().to_owned()), ..Config::default() };
    let member = Happened { node: Some(name("b")), ..Happened::default() };
    let ran = commands(run(config, &[(On::NodeUp, member.clone()), (On::NodeDown, member)]));
    let here = directory.path().canonicalize().unwrap().display().to_string();
    let printed: Vec<&str> = ran.iter().flat_map(|ran| ran.output.iter().map(String::as_str)).collect();
    assert_eq!(printed, ["host-up b", &here, "b-up b", &here]);
}

#[test]
fn a_command_that_hangs_is_killed_with_what_it_started_and_the_next_one_runs() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let mut config = shell(On::Up, &format!("(sleep 8; touch {}) & echo begun; sleep 60", mark.display()));
    config.commands.insert(On::Down, Command::Shell("echo after".into()));
    // A shell has to be there in this time, on a busy machine, too.
    config.timeout = Duration::from_secs(2);
    let start = Instant::now();
    let ran = commands(run(config, &[(On::Up, Happened::default()), (On::Down, Happened::default())]));
    assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());
    assert_eq!((&ran[0].outcome, &ran[0].output[..]), (&Some(Outcome::Killed), &["begun".to_owned()][..]));
    assert_eq!(ran[1].output, ["after"]);
    std::thread::sleep(Duration::from_secs(9).saturating_sub(start.elapsed()));
    assert!(!Path::new(&mark).exists(), "what it had started in the background still ran");
}

#[test]
fn what_stays_in_the_background_does_not_hold_up_the_next_one() {
    let mut config = shell(On::Up, "sleep 10 & echo begun");
    config.commands.insert(On::Down, Command::Shell("echo after".into()));
    let start = Instant::now();
    let ran = commands(run(config, &[(On::Up, Happened::default()), (On::Down, Happened::default())]));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!((ran[0].outcome.as_ref(), ran[1].output[0].as_str()), (Some(&Outcome::Done), "after"));
}

#[test]
fn failures_are_told_and_output_is_bounded() {
    let config = shell(On::Up, "seq 1 200; head -c 5000 /dev/zero | tr '\\0' x; exit 3");
    let ran = commands(run(config, &[(On::Up, Happened::default())]));
    assert_eq!(ran[0].outcome, Some(Outcome::Failed("exit code 3".into())));
    assert_eq!((ran[0].output.len(), ran[0].more), (runner::LINES_MAX, 200 + 1 - runner::LINES_MAX));
    let config = shell(On::Up, "head -c 5000 /dev/zero | tr '\\0' x; printf '\\033[2J'; kill -9 $$");
    let ran = commands(run(config, &[(On::Up, Happened::default())]));
    assert_eq!(ran[0].outcome, Some(Outcome::Failed("signal 9".into())));
    assert_eq!(ran[0].output, ["x".repeat(runner::LINE_BYTES_MAX)], "cut, and without what moves a terminal");
    let missing = Config {
        commands: [(On::Up, Command::Program(vec!["/nowhere/x".into()]))].into(),
        ..Config::default()
    };
    let ran = commands(run(missing, &[(On::Up, Happened::default())]));
    assert!(matches!(&ran[0].outcome, Some(Outcome::NotStarted(why)) if why.contains("No such file")));
}

#[test]
fn a_daemon_that_was_taken_over_can_set_nothing_but_what_a_job_has() {
    let good = r#"{"number":1,"on":"node_up","node":"b","remote":null,"subnet":null,"weight":null,"path":null,"via":null,"before":null}"#;
    let job: Job = serde_json::from_str(good).unwrap();
    assert_eq!(job.happened.node, Some(name("b")));
    for (old, new) in [
        (r#""node":"b""#, r#""node":"$(reboot)""#),
        (r#""subnet":null"#, r#""subnet":"; reboot""#),
        (r#""remote":null"#, r#""remote":"LD_PRELOAD=x""#),
        (r#""path":null"#, r#""path":"x""#),
        (r#""on":"node_up""#, r#""on":"other""#),
    ] {
        assert!(serde_json::from_str::<Job>(&good.replace(old, new)).is_err(), "{new}");
    }
    let job: Job =
        serde_json::from_str(&good.replace("\"number\"", "\"LD_PRELOAD\":\"x\",\"number\"")).unwrap();
    let keys: Vec<&str> =
        job::environment(&setup(Config::default()), &job).iter().map(|pair| pair.0).collect();
    assert!(keys.iter().all(|key| job::VARIABLES.contains(key)), "{keys:?}");
}

#[test]
fn every_event_is_named_as_its_key() {
    for (on, key) in On::ALL {
        assert_eq!(on.name(), key);
        assert_eq!(serde_json::to_string(&on).unwrap(), format!("\"{key}\""));
    }
}
