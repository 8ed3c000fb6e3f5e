//! Showing what goes on: bars on a terminal, lines elsewhere, JSON lines where asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::stack::plan::Step;
use crate::stack::progress::{Observer, Progress};

/// How often a bar moves by itself.
const TICK: Duration = Duration::from_millis(120);

/// Where progress is shown.
pub(super) struct Screen {
    how: How,
}

enum How {
    Bars { all: MultiProgress, total: ProgressBar, bars: RefCell<BTreeMap<usize, ProgressBar>> },
    Lines,
    Json,
}

impl Screen {
    pub(super) fn new(json: bool) -> Screen {
        if json {
            return Screen { how: How::Json };
        }
        if !std::io::stderr().is_terminal() {
            return Screen { how: How::Lines };
        }
        let all = MultiProgress::new();
        let total = all.add(ProgressBar::new(0));
        total.set_style(style("{elapsed_precise} [{bar:30}] {pos}/{len} steps"));
        Screen { how: How::Bars { all, total, bars: RefCell::default() } }
    }

    /// So many more steps.
    pub(super) fn total(&self, steps: usize) {
        if let How::Bars { total, .. } = &self.how {
            total.inc_length(steps as u64);
            total.enable_steady_tick(TICK);
        }
    }

    /// Says something beside the progress.
    pub(super) fn say(&self, text: &str) {
        match &self.how {
            // A terminal that is gone is no reason to stop.
            How::Bars { all, .. } => drop(all.println(text)),
            How::Lines => eprintln!("{text}"),
            How::Json => {}
        }
    }

    /// Takes the bars away.
    pub(super) fn finish(&self) {
        if let How::Bars { total, all, .. } = &self.how {
            total.finish_and_clear();
            let _ = all.clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn print_json(value: &serde_json::Value) {
    // A reader that has gone away ends the program; nothing else can go wrong here that the next line does not show.
    let _ = crate::output::print(&format!("{value}\n"));
}

fn title(step: &Step) -> String {
    format!("{:<14} {:<14} {step}", step.component, step.node)
}

impl Observer for Screen {
    fn begins(&self, step: &Step) {
        match &self.how {
            How::Bars { all, bars, .. } => {
                let bar = all.add(ProgressBar::new_spinner());
                bar.set_style(style("  {spinner} {elapsed:>4} {prefix} {wide_msg}"));
                bar.set_prefix(title(step));
                bar.enable_steady_tick(TICK);
                bars.borrow_mut().insert(step.id, bar);
            }
            How::Lines => {}
            How::Json => print_json(&serde_json::json!({ "begins": step.id, "step": step })),
        }
    }

    fn goes_on(&self, step: &Step, how: &Progress) {
        let How::Bars { bars, .. } = &self.how else { return };
        let bars = bars.borrow();
        let Some(bar) = bars.get(&step.id) else { return };
        match how {
            Progress::Bytes { done, total } => {
                bar.set_style(style("  {spinner} {elapsed:>4} {prefix} [{bar:20}] {bytes}/{total_bytes}"));
                bar.set_length(*total);
                bar.set_position(*done);
            }
            Progress::Waits(why) => bar.set_message(why.clone()),
        }
    }

    fn done(&self, step: &Step, took: Duration) {
        let line = format!("{} ({:.1} s)", title(step), took.as_secs_f64());
        match &self.how {
            How::Bars { all, total, bars } => {
                if let Some(bar) = bars.borrow_mut().remove(&step.id) {
                    bar.finish_and_clear();
                }
                let _ = all.println(format!("  {line}"));
                total.inc(1);
            }
            How::Lines => eprintln!("{line}"),
            How::Json => print_json(&serde_json::json!({ "done": step.id, "took_s": took.as_secs_f64() })),
        }
    }
}
