//! `flint completions SHELL`: what a shell has to know to complete commands and options, from the table of them.
//!
//! Each shell gets its own script, in three steps: read the words so far into a command; complete the value of the
//! option before the cursor; else offer the next word of the command, or its options. After the `--` of `run` the shell
//! completes the program as it would without flint.

use super::table::{
    COMMANDS, Command, CommandOption, OPTIONS, Value, distinct_options, global_options, groups, members, or,
};
use crate::cli::answer::usage;
use crate::error::Result;
use crate::limit::excerpt;

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The script for a shell.
///
/// # Errors
/// `usage`, for a shell that is not known.
pub fn script(shell: &str) -> Result<String> {
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(zsh()),
        "fish" => Ok(fish()),
        other => Err(usage(format!("SHELL must be {}, not `{}`", or(&SHELLS), excerpt(other)))),
    }
}

/// First words that need a second one.
fn pairs() -> impl Iterator<Item = &'static str> {
    groups().into_iter().filter(|group| !members(group).is_empty())
}

/// Whether its operand is the name of a file.
fn takes_file(command: &Command) -> bool {
    command.operands.starts_with("FILE")
}

/// What a first word is about.
fn about(word: &str) -> String {
    Command::find(word).map_or_else(|| members(word).join(", "), |command| command.about.to_owned())
}

/// What completes the value of an option in bash, zsh and fish. `None` for a flag.
fn completion(option: &CommandOption) -> Option<[String; 3]> {
    let words = option.words().join(" ");
    Some(match option.value {
        Value::Flag => return None,
        Value::Directory(_) => {
            ["_flint_names -d", "_files -/", "-x -a '(__fish_complete_directories)'"].map(str::to_owned)
        }
        Value::File(_) => ["_flint_names -f", "_files", "-r -F"].map(str::to_owned),
        Value::Text(what) | Value::Number(what, ..) => {
            [":".to_owned(), format!("_message {}", quoted(what)), "-x".to_owned()]
        }
        Value::Word(_) | Value::Algorithm => [
            format!("mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$current\")"),
            format!("compadd -- {words}"),
            format!("-x -a '{words}'"),
        ],
    })
}

/// The branches of a `case` that complete the value of the option before the cursor: in bash (0) or zsh (1).
fn values(shell: usize) -> String {
    let branch = |name: &str, action: &str| format!("        {name}) {action}; return 0 ;;\n");
    let options = distinct_options().into_iter();
    options.filter_map(|option| Some(branch(option.name, &completion(option)?[shell]))).collect()
}

fn names<'a>(options: impl Iterator<Item = &'a CommandOption>) -> String {
    options.map(|option| option.name).collect::<Vec<_>>().join(" ")
}

/// The names of the options that take a value.
fn with_value() -> String {
    names(distinct_options().into_iter().filter(|option| option.takes_value()))
}

/// Text in single quotes, which end where the text has one.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

const BASH: &str = r#"# bash completion for flint; written by `flint completions bash`
_flint() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} IFS=$' \t\n'
    local words= command= word= skip= helping= dashes= files= at
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        # bash splits --option=value into three.
        if [[ $word == '=' ]]; then continue; fi
        if [[ -n $skip ]]; then skip=; continue; fi
        case $command$dashes$word in
        'run '*--) _flint_program $((at + 1)); return ;;
        esac
        if [[ -z $dashes ]]; then
            case $word in
            --) dashes=-; continue ;;
            @WITH_VALUE@) skip=1; continue ;;
            -*) continue ;;
            esac
        fi
        case $command in
        '') if [[ $word == help && -z $helping ]]; then helping=1; else command=$word; fi ;;
        *' '*) ;;
        *) command="$command $word" ;;
        esac
    done
    if [[ $current == '=' ]]; then
        current=
    elif [[ $previous == '=' ]]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi
    if [[ -z $dashes ]]; then
        case $previous in
@VALUES@        esac
    fi
    case $command in
    '') words='@FIRST@' ;;
@MEMBERS@    *)
        case $helping$dashes$command in
        -run*) words=-- ;;
        1*|-*) ;;
@OPTIONS@        esac
        ;;
    esac
    [[ -n $helping || -n $dashes ]] || words+=' @GLOBAL@'
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    [[ -z $files || $current == -* ]] || _flint_names -f
}
_flint_names() { # names of files (-f) or directories (-d)
    compopt -o filenames 2>/dev/null || :
    mapfile -t COMPREPLY < <(compgen "$1" -- "$current")
}
_flint_program() { # a command line that begins at word $1
    if declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        mapfile -t COMPREPLY < <(compgen -c -- "$current")
    else
        _flint_names -f
    fi
}
complete -F _flint flint
"#;

fn bash() -> String {
    let of_group = |group| format!("    {group}) words='{}' ;;\n", members(group).join(" "));
    let of_command = |command: &Command| {
        let (pattern, more) = match command.name {
            "run" => ("run*".to_owned(), " --".to_owned()),
            "completions" => ("completions".to_owned(), SHELLS.join(" ")),
            name => (format!("'{name}'"), String::new()),
        };
        let files = if takes_file(command) { " files=1" } else { "" };
        format!("        {pattern}) words='{}{more}'{files} ;;\n", names(command.own_options()))
    };
    BASH.replace("@WITH_VALUE@", &with_value().replace(' ', "|"))
        .replace("@VALUES@", &values(0))
        .replace("@FIRST@", &groups().join(" "))
        .replace("@MEMBERS@", &pairs().map(of_group).collect::<String>())
        .replace("@OPTIONS@", &COMMANDS.iter().map(of_command).collect::<String>())
        .replace("@GLOBAL@", &names(global_options()))
}

const ZSH: &str = r#"#compdef flint
# zsh completion for flint; written by `flint completions zsh`
_flint() {
    local previous=$words[CURRENT-1] command= word= skip= helping= dashes= at
    local -a offered
    for (( at = 2; at < CURRENT; at++ )); do
        word=$words[at]
        if [[ -n $skip ]]; then skip=; continue; fi
        if [[ $command == 'run '* && $word == -- ]]; then
            shift at words
            (( CURRENT -= at ))
            _normal
            return
        fi
        if [[ -z $dashes ]]; then
            case $word in
            --) dashes=-; continue ;;
            @WITH_VALUE@) skip=1; continue ;;
            -*) continue ;;
            esac
        fi
        case $command in
        '') if [[ $word == help && -z $helping ]]; then helping=1; else command=$word; fi ;;
        *' '*) ;;
        *) command="$command $word" ;;
        esac
    done
    if [[ -z $dashes ]]; then
        if [[ $words[CURRENT] == --*=* ]]; then
            previous=${words[CURRENT]%%=*}
            compset -P '*='
        fi
        case $previous in
@VALUES@        esac
    fi
    case $command in
    '') offered=(@FIRST@) ;;
@MEMBERS@    completions) offered=(@SHELLS@) ;;
    esac
    (( ! $#offered )) || _describe -t commands command offered
    [[ -z $helping && -z $dashes ]] || return 0
    offered=()
    case $command in
@OPTIONS@    esac
    offered+=(@GLOBAL@)
    _describe -o -t options option offered
}
if [[ $funcstack[1] == _flint ]]; then _flint "$@"; else compdef _flint flint; fi
"#;

fn zsh() -> String {
    let item = |name: &str, about: &str| quoted(&format!("{name}:{about}"));
    let items = |options: &mut dyn Iterator<Item = &'static CommandOption>| {
        options.map(|option| item(option.name, &option.sentence())).collect::<Vec<_>>().join(" ")
    };
    let of_group = |group| {
        let offered = members(group).into_iter().map(|member| item(member, &about(&format!("{group} {member}"))));
        format!("    {group}) offered=({}) ;;\n", offered.collect::<Vec<_>>().join(" "))
    };
    let of_command = |command: &Command| {
        let pattern = if command.name == "run" { "run*".to_owned() } else { quoted(command.name) };
        let files = if takes_file(command) { "; _files" } else { "" };
        format!("    {pattern}) offered=({}){files} ;;\n", items(&mut command.own_options()))
    };
    let first: Vec<String> = groups().iter().map(|word| item(word, &about(word))).collect();
    ZSH.replace("@WITH_VALUE@", &with_value().replace(' ', "|"))
        .replace("@VALUES@", &values(1))
        .replace("@FIRST@", &first.join(" "))
        .replace("@MEMBERS@", &pairs().map(of_group).collect::<String>())
        .replace("@SHELLS@", &SHELLS.join(" "))
        .replace("@OPTIONS@", &COMMANDS.iter().map(of_command).collect::<String>())
        .replace("@GLOBAL@", &items(&mut global_options()))
}

const FISH: &str = r#"# fish completion for flint; written by `flint completions fish`
# The words of the command line that are no options: the command, then its operands; a -- where it is of run.
function __flint_words
    set -l skip
    set -l dashes
    set -l found
    set -l all (commandline -opc)
    for word in $all[2..]
        if test -n "$skip"
            set skip
        else if test -z "$dashes"
            switch $word
                case --
                    set dashes 1
                    test "$found[1]" = run -a (count $found) -gt 1; and set -a found --
                case @WITH_VALUE@
                    set skip 1
                case '-*'
                case '*'
                    set -a found $word
            end
        else
            set -a found $word
        end
    end
    test (count $found) -gt 0; and printf '%s\n' $found
end
# Whether the command so far is one of the arguments.
function __flint_at
    set -l found (__flint_words)
    set -l most 1
    contains -- "$found[1]" help @GROUPS@; and set most 2
    contains -- (string join ' ' -- $found[1..$most] | string collect --allow-empty) $argv
end
# Completions of the program of run.
function __flint_program
    set -l found (__flint_words)
    test "$found[1]" = run; or return 1
    set -l at (contains -i -- -- $found); or return 1
    set -l line (string escape -- $found[(math $at + 1)..])
    set -a line (commandline -ct)
    complete -C "$line"
end
complete -c flint -f
complete -c flint -n '__flint_at run' -a '(__flint_program)'
"#;

fn fish() -> String {
    let escaped = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut out = FISH.replace("@WITH_VALUE@", &with_value());
    out = out.replace("@GROUPS@", &pairs().collect::<Vec<_>>().join(" "));
    for word in groups() {
        out += &format!("complete -c flint -n '__flint_at \"\" help' -a {word} -d {}\n", escaped(&about(word)));
    }
    out += &format!("complete -c flint -n '__flint_at completions' -a '{}'\n", SHELLS.join(" "));
    for command in &COMMANDS {
        if let Some((group, member)) = command.name.split_once(' ') {
            let condition = format!("__flint_at {group} \"help {group}\"");
            out += &format!("complete -c flint -n '{condition}' -a {member} -d {}\n", escaped(command.about));
        }
        if takes_file(command) {
            out += &format!("complete -c flint -n '__flint_at \"{}\"' -F\n", command.name);
        }
    }
    for option in &OPTIONS {
        let at: Vec<String> = option.commands.iter().map(|command| format!("\"{command}\"")).collect();
        let condition = if at.is_empty() { String::new() } else { format!(" -n '__flint_at {}'", at.join(" ")) };
        let value = completion(option).map_or_else(String::new, |[.., fish]| format!(" {fish}"));
        let name = option.name.trim_start_matches('-');
        out += &format!("complete -c flint{condition} -l {name}{value} -d {}\n", escaped(&option.sentence()));
    }
    out
}
