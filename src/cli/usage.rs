//! What is wrong with a command line, in one line that says what to write instead.

use clap::Command;
use clap::error::{ContextKind, ContextValue};

/// The parser's words in the form that every other message has: what is wrong, `hint` where there
/// is one, and whose `--help` tells more.
pub fn message(command: &Command, error: &clap::Error, hint: Option<&str>) -> String {
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
    let said = words.join(" ").replace(" tip: ", ": ");
    let said = said.strip_prefix(&positional(error)).unwrap_or(&said).trim_end_matches('.');
    let name = command.get_name();
    let known = subcommands(command);
    let given = std::env::args().skip(1).find(|arg| known.contains(arg));
    let asked = given.map_or_else(|| name.to_owned(), |sub| format!("{name} {sub}"));
    format!("{name}: {said}{}; try '{asked} --help'", hint.unwrap_or_default())
}

/// How the parser begins what a value's own type says clearly enough, where the value stands by
/// itself and not behind a flag.
fn positional(error: &clap::Error) -> String {
    match argument(error) {
        Some(name) if !name.starts_with('-') => {
            format!("invalid value '{}' for '{name}': ", value(error).unwrap_or_default())
        }
        _ => "\0".to_owned(),
    }
}

/// Which argument is wrong, as usage has it: `[TARGET]...`, `--rate <RATE>`.
pub fn argument(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => Some(arg),
        _ => None,
    }
}

/// The value that is wrong.
pub fn value(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => Some(value),
        _ => None,
    }
}

/// The subcommands that a command has.
pub fn subcommands(command: &Command) -> Vec<String> {
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    shown.map(|sub| sub.get_name().to_owned()).collect()
}
