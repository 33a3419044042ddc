//! Mistakes of the command line, said as every other problem is.

use clap::Parser;

use super::say;
use crate::preflight::{Code, Exit, Problem};

/// The command line of this process. Help and version are printed, and a mistake is told; either is an exit code.
pub fn parse<T: Parser>() -> Result<T, Exit> {
    T::try_parse().map_err(|error| {
        if !error.use_stderr() {
            // A reader that has gone away (`--help | head`) is no failure.
            let _ = error.print();
            return Exit::Ok;
        }
        let command = T::command();
        let subcommand =
            std::env::args_os().nth(1).and_then(|word| command.find_subcommand(word).map(|c| c.get_name().to_owned()));
        let help = [Some(command.get_name()), subcommand.as_deref(), Some("--help")];
        let help = help.into_iter().flatten().collect::<Vec<_>>().join(" ");
        super::report(command.get_name(), &problem(&error, help))
    })
}

/// What clap says in paragraphs, as one sentence. The usage line at its end is left to the help.
fn problem(error: &clap::Error, help: String) -> Problem {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        say(format_args!("{}", error.render()));
        return Problem::new(Code::Usage, "no command given", help);
    }
    let text = error.render().to_string();
    let end = ["\nUsage:", "\nFor more information"].iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    let paragraphs = text[..end].split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    // Who mistypes an option does not mean a directory of that name.
    let said = paragraphs.filter(|p| !p.is_empty() && !p.starts_with("tip: to pass")).collect::<Vec<_>>().join("; ");
    Problem::new(Code::Usage, said.trim_start_matches("error: ").replace("; tip: ", "; "), help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{MountArgs, RelayfileArgs};

    fn said<T: Parser + std::fmt::Debug>(line: &[&str]) -> String {
        problem(&T::try_parse_from(line).unwrap_err(), "the help".into()).to_string()
    }

    #[test]
    fn a_mistake_is_one_sentence_with_a_code_and_a_remedy() {
        assert_eq!(
            said::<MountArgs>(&["relayfile-mount", "--setle=1s", "/m"]),
            "unexpected argument '--setle' found; a similar argument exists: '--settle' [USAGE]\n  try: the help"
        );
        assert_eq!(
            said::<MountArgs>(&["relayfile-mount", "--nonsense", "/m"]),
            "unexpected argument '--nonsense' found [USAGE]\n  try: the help"
        );
        assert_eq!(
            said::<RelayfileArgs>(&["relayfile", "unmount"]),
            "the following required arguments were not provided: <MOUNTPOINT> [USAGE]\n  try: the help"
        );
        assert!(said::<MountArgs>(&["relayfile-mount", "--settle=soon"]).contains("number of seconds) [USAGE]"));
    }
}
