//! `flint completions SHELL`: what a shell has to know to complete commands and options, from the table of help texts.

use super::help::{self, OptionHelp};
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

/// The script for a shell.
///
/// # Errors
/// `usage`, for a shell that is not known.
pub fn script(shell: &str) -> Result<String> {
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(format!(
            "#compdef flint\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash().trim_start_matches(BASH_HEAD)
        )),
        "fish" => Ok(fish()),
        other => Err(Error::new(Kind::Usage, format!("SHELL must be bash, zsh or fish, not `{}`", excerpt(other)))),
    }
}

const BASH_HEAD: &str = "# bash completion for flint; written by `flint completions bash`\n";

/// Words that complete the value of an option, where its help lists them; `None` where it takes a file.
fn values(option: &OptionHelp<'_>) -> Option<String> {
    match option.value {
        "DIR" | "FILE" | "NEWDIR" => None,
        "A" => Some(crate::limit::Algorithm::ALL.map(|algorithm| algorithm.name()).join(" ")),
        value if value.contains('|') => Some(value.replace('|', " ")),
        _ => Some(String::new()),
    }
}

fn bash() -> String {
    let mut values_of = String::new();
    let mut options_of = String::new();
    let mut seen = Vec::new();
    for (command, ..) in help::COMMANDS {
        let options: Vec<OptionHelp<'_>> = help::options(command).collect();
        let own: Vec<&str> = help::own_options(command).map(|option| option.name).collect();
        options_of += &format!("    '{command}') words='{}' ;;\n", own.join(" "));
        for option in options.iter().filter(|option| !option.value.is_empty() && !seen.contains(&option.name)) {
            values_of += &match values(option) {
                None => format!("    {}) COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n", option.name),
                Some(words) => {
                    format!("    {}) COMPREPLY=($(compgen -W '{words}' -- \"$current\")); return ;;\n", option.name)
                }
            };
        }
        seen.extend(options.iter().map(|option| option.name));
    }
    let groups = help::groups();
    let mut members_of = String::new();
    for group in groups.iter().filter(|group| !help::is_command(&[(**group).to_owned()])) {
        members_of += &format!("    {group}) words='{}' ;;\n", help::members(group).join(" "));
    }
    format!(
        "{BASH_HEAD}_flint() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words= command= word skip=
    COMPREPLY=()
    case $previous in
{values_of}    esac
    for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
        if [[ -n $skip ]]; then skip=; continue; fi
        case $word in
        --data-dir|--server|--token|--token-file) skip=1 ;;
        -*) ;;
        *) case $command in '') command=$word ;; *' '*) ;; *) command=\"$command $word\" ;; esac ;;
        esac
    done
    case $command in
    ''|help) words='{} help' ;;
{members_of}{options_of}    'run '*) words='--cost --wait --' ;;
    esac
    COMPREPLY=($(compgen -W \"$words {}\" -- \"$current\"))
}}
complete -F _flint flint
",
        groups.join(" "),
        help::global_names().join(" ")
    )
}

fn fish() -> String {
    let groups = help::groups();
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut out =
        String::from("# fish completion for flint; written by `flint completions fish`\ncomplete -c flint -f\n");
    let all = format!("{} help", groups.join(" "));
    for group in all.split(' ') {
        out += &format!("complete -c flint -n 'not __fish_seen_subcommand_from {all}' -a {group}\n");
    }
    for (command, _, about, _) in help::COMMANDS {
        let condition = match command.split_once(' ') {
            Some((group, member)) => {
                let members = help::members(group).join(" ");
                let seen = format!("__fish_seen_subcommand_from {group}");
                out += &format!(
                    "complete -c flint -n '{seen}; and not __fish_seen_subcommand_from {members}' -a {member} -d '{}'\n",
                    quoted(about)
                );
                format!("{seen}; and __fish_seen_subcommand_from {member}")
            }
            None => format!("__fish_seen_subcommand_from {command}"),
        };
        for option in help::own_options(command) {
            out += &fish_option(&option, &format!(" -n '{condition}'"), quoted);
        }
    }
    for option in help::global_options() {
        out += &fish_option(&option, "", quoted);
    }
    out
}

fn fish_option(option: &OptionHelp<'_>, condition: &str, quoted: impl Fn(&str) -> String) -> String {
    let value = match (option.value.is_empty(), values(option)) {
        (true, _) => String::new(),
        (false, None) => " -r -F".to_owned(),
        (false, Some(words)) => format!(" -x -a '{words}'"),
    };
    let name = option.name.trim_start_matches('-');
    format!("complete -c flint{condition} -l {name}{value} -d '{}'\n", quoted(option.about))
}
