//! What is wrong with a command line, in one line that says what to write instead.

use crate::NAME;
use crate::args::Cli;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue};

/// The parser's words in the form that every other message has.
pub(crate) fn message(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let mut words = Vec::new();
    for line in rendered.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        // that an option can be passed as a value is never what was meant here
        if !line.is_empty() && !line.starts_with("tip: to pass") {
            words.push(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    let said = words.join(" ");
    let said = said.strip_prefix(&about_target(error)).unwrap_or(&said).trim_end_matches('.');
    let commands = names();
    let given = std::env::args().skip(1).find(|arg| commands.contains(arg));
    let command = given.map_or_else(|| NAME.to_owned(), |name| format!("{NAME} {name}"));
    format!("{NAME}: {said}{}; try '{command} --help'", misplaced(error, &commands))
}

/// How the parser begins what `base::target` says clearly enough by itself.
fn about_target(error: &clap::Error) -> String {
    format!("invalid value '{}' for '[TARGET]...': ", value(error))
}

/// A word without a colon where a target is wanted may be a subcommand, misspelt or in the wrong
/// place.
fn misplaced(error: &clap::Error, commands: &[String]) -> String {
    let value = value(error);
    let target = matches!(error.get(ContextKind::InvalidArg),
        Some(ContextValue::String(arg)) if arg.contains("TARGET"));
    if !target || value.contains(':') || value.chars().all(|c| c.is_ascii_digit()) {
        return String::new();
    }
    if commands.contains(&value) {
        return format!("; a subcommand comes first: '{NAME} {value} …'");
    }
    format!(", or one of the subcommands {}", commands.join(", "))
}

fn value(error: &clap::Error) -> String {
    match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.clone(),
        _ => String::new(),
    }
}

fn names() -> Vec<String> {
    let command = Cli::command();
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    shown.map(|sub| sub.get_name().to_owned()).collect()
}
