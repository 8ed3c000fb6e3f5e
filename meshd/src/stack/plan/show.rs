//! A plan in words.

use std::fmt::{self, Write as _};

use super::{Action, Driver, Plan, Reason, Step};

/// Longest value of a changed field that is shown whole, in characters.
const MAX_VALUE_LEN: usize = 160;

impl Plan {
    /// What would be done, for people; each changed field is named.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let mut component = "";
        for step in self.steps.iter().filter(|step| step.action.changes()) {
            if step.component != component {
                component = &step.component;
                let _ = writeln!(text, "{component}");
            }
            let _ = writeln!(text, "  {:<14} {step}", step.node);
            for line in step.reason.details() {
                let _ = writeln!(text, "  {:<14}     {line}", "");
            }
        }
        for blocked in &self.blocked {
            let place = [blocked.component.as_str(), blocked.node.as_str()];
            let place: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
            let _ = writeln!(text, "cannot be done: {}: {}", place.join(" on "), blocked.why);
        }
        text
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Pull { image } => write!(f, "pull {image}")?,
            Action::Secret { name } => write!(f, "give the secret {name}")?,
            Action::Hold { others, least } => {
                write!(f, "wait until {least} of {} are ready", others.join(", "))?;
            }
            Action::Remove { .. } => f.write_str("stop and remove")?,
            Action::Create { definition, founding } => {
                f.write_str(match definition.driver {
                    Driver::Direct => "make and start",
                    Driver::Marathon => "have Marathon start it",
                })?;
                if !founding.is_empty() {
                    f.write_str(" as founder of the cluster")?;
                }
            }
            Action::Start { .. } => f.write_str("start")?,
            Action::Ready => f.write_str("wait until it is ready")?,
            Action::Promote => f.write_str("make it primary")?,
            Action::Recover { .. } => f.write_str("read how far its data goes")?,
        }
        let reason = self.reason.to_string();
        if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::New => f.write_str("it is not there"),
            Reason::NotRunning { exit_code: Some(code) } => write!(f, "it ended with {code}"),
            Reason::NotRunning { exit_code: None } => f.write_str("it does not run"),
            Reason::Changed { changes } => match &changes[..] {
                [one] => write!(f, "{} changes", one.field),
                many => write!(f, "{} fields change", many.len()),
            },
            Reason::Image { .. } => f.write_str("the image has other content"),
            Reason::Drift { .. } => f.write_str("it was changed by hand"),
            Reason::Schema => f.write_str("an earlier meshd made it in another way"),
            Reason::Left => f.write_str("the specification does not have it here"),
            Reason::Down => f.write_str("the stack is taken down"),
            Reason::Founded => f.write_str("the cluster lives; it becomes an ordinary member"),
            Reason::Unready { detail } if detail.is_empty() => f.write_str("it is not ready"),
            Reason::Unready { detail } => write!(f, "it is not ready: {detail}"),
            Reason::Recovery { why } => f.write_str(why),
            Reason::Needed => Ok(()),
        }
    }
}

impl Reason {
    /// The changed fields, one a line.
    fn details(&self) -> Vec<String> {
        match self {
            Reason::Changed { changes } => {
                changes.iter().map(|change| shorten(&change.to_string())).collect()
            }
            Reason::Image { before, after } => vec![format!("image content: {before} -> {after}")],
            Reason::Drift { fields } => fields.iter().map(|field| shorten(field)).collect(),
            _ => Vec::new(),
        }
    }
}

fn shorten(text: &str) -> String {
    let line = text.replace('\n', "\\n");
    match line.char_indices().nth(MAX_VALUE_LEN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
