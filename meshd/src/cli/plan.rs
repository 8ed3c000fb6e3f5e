//! `meshd keys rotate --all`, `meshd keys plan`, `meshd keys abort`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;

use super::follow::{LOOK_EVERY, again};
use super::{Global, expect_answer};
use crate::api::Request;
use crate::api::client::{Client, Error};
use crate::api::keys::Plan;
use crate::output::{self, Style, units};

/// Begins a plan or goes on with it, and follows it for `timeout_s` seconds unless `detach`.
///
/// # Errors
/// If the daemon does not answer, may not, or the plan is not done in time.
pub(super) fn rotate_all(
    global: &Global,
    without: Vec<String>,
    detach: bool,
    timeout_s: u64,
) -> anyhow::Result<ExitCode> {
    let mut client = global.client()?;
    let begun = expect_answer!(client, Request::PlanKeys { without }, Plan { plan } => plan)?;
    if detach {
        return show_once(global, begun.as_deref());
    }
    let started = Instant::now();
    let mut screen = output::Progress::new(global.json);
    loop {
        match ask(&mut client) {
            Ok(None) => bail!("the plan was called off"),
            Ok(Some(plan)) => {
                let text = match global.json {
                    true => output::json_line(&plan)?,
                    false => output::plan(&plan, Style::of_stdout()),
                };
                screen.show(&text)?;
                if plan.done {
                    return Ok(ExitCode::SUCCESS);
                }
                if started.elapsed().as_secs() >= timeout_s {
                    bail!(
                        "the plan is not done after {}, waiting for {}; it goes on: meshd keys plan. To go on without a \
                         node: meshd keys rotate --all --without NODE",
                        units::span(timeout_s),
                        plan.waiting_for.join(", ")
                    );
                }
            }
            Err(Error::Refused(refusal)) => return Err(refusal.into()),
            // The daemon goes on after its restart.
            Err(error) => client = again(global, error)?,
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Shows the plan under way.
///
/// # Errors
/// If the daemon does not answer.
pub(super) fn show(global: &Global, watch: bool) -> anyhow::Result<ExitCode> {
    let mut client = global.client()?;
    output::show(watch, global.json, || {
        let plan = ask(&mut client)?;
        text_of(global, plan.as_ref())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Calls the plan under way off.
///
/// # Errors
/// If the daemon does not answer, may not, or there is none.
pub(super) fn abort(global: &Global) -> anyhow::Result<ExitCode> {
    let mut client = global.client()?;
    expect_answer!(client, Request::AbortPlan, Plan { plan } => plan)?;
    if !global.json {
        output::print(
            "called off: who has not begun does not; who has replaces its key as with a plain rotate\n",
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_once(global: &Global, plan: Option<&Plan>) -> anyhow::Result<ExitCode> {
    output::print(&text_of(global, plan)?)?;
    Ok(ExitCode::SUCCESS)
}

fn text_of(global: &Global, plan: Option<&Plan>) -> anyhow::Result<String> {
    match plan {
        plan if global.json => output::json_line(&serde_json::json!({ "plan": plan })),
        Some(plan) => Ok(output::plan(plan, Style::of_stdout())),
        None => Ok("no plan is under way\n".into()),
    }
}

fn ask(client: &mut Client) -> Result<Option<Plan>, Error> {
    expect_answer!(client, Request::KeyPlan, Plan { plan } => plan.map(|plan| *plan))
}
