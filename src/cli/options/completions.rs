//! `flint completions SHELL`: what a shell has to know to complete commands and options, from the table of help texts.
//!
//! Each shell gets a script of its own, in three steps: read the words so far into a command; complete the value of the
//! option before the cursor; else offer the next word of the command, or its options. Behind the `--` of `run` the shell
//! completes the program as it would without flint.

use super::help::{self, OptionHelp};
use crate::error::{Error, Kind, Result};
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
        other => Err(Error::new(Kind::Usage, format!("SHELL must be bash, zsh or fish, not `{}`", excerpt(other)))),
    }
}

/// What the value of an option may be, as its help says.
enum Value {
    Flag,
    Directory,
    File,
    OneOf(String),
    /// Anything, and what it stands for.
    Other(&'static str),
}

fn value(option: &OptionHelp) -> Value {
    match option.value {
        "" => Value::Flag,
        "DIR" | "NEWDIR" => Value::Directory,
        "FILE" => Value::File,
        "A" => Value::OneOf(crate::limit::Algorithm::ALL.map(|algorithm| algorithm.name()).join(" ")),
        value if value.contains('|') => Value::OneOf(value.replace('|', " ")),
        value => Value::Other(value),
    }
}

/// Every option once, whatever commands have it. Where two have one of the same name, it takes the same.
fn all_options() -> Vec<OptionHelp> {
    let mut all: Vec<OptionHelp> = help::global_options().collect();
    for (command, ..) in help::COMMANDS {
        for option in help::own_options(command) {
            if !all.iter().any(|other| other.name == option.name) {
                all.push(option);
            }
        }
    }
    all
}

/// The names of those that take a value, with something between them.
fn with_value(between: &str) -> String {
    let options = all_options().into_iter().filter(|option| !option.value.is_empty());
    options.map(|option| option.name).collect::<Vec<_>>().join(between)
}

/// First words that need a second one.
fn groups() -> impl Iterator<Item = &'static str> {
    help::groups().into_iter().filter(|group| !help::is_command(&[(*group).to_owned()]))
}

/// What a first word is about.
fn about(word: &str) -> String {
    match help::COMMANDS.iter().find(|(name, ..)| *name == word) {
        Some((_, _, about, _)) => (*about).to_owned(),
        None => help::members(word).join(", "),
    }
}

/// Text in single quotes, which end where the text has one.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

const BASH: &str = r#"# bash completion for flint; written by `flint completions bash`
_flint() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} IFS=$' \t\n'
    local words= command= word= skip= helping= dashes= at
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
    '') words='@FIRST@'; [[ -n $helping ]] || words+=' help' ;;
@MEMBERS@    *)
        case $helping$dashes$command in
        -run*) words=-- ;;
        1*|-*) ;;
@OPTIONS@        esac
        ;;
    esac
    [[ -n $helping || -n $dashes ]] || words+=' @GLOBAL@'
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
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
    let mut values = String::new();
    for option in all_options() {
        let action = match value(&option) {
            Value::Flag => continue,
            Value::Directory => "_flint_names -d".to_owned(),
            Value::File => "_flint_names -f".to_owned(),
            Value::OneOf(words) => format!("mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$current\")"),
            Value::Other(_) => ":".to_owned(),
        };
        values += &format!("        {}) {action}; return 0 ;;\n", option.name);
    }
    let members: String =
        groups().map(|group| format!("    {group}) words='{}' ;;\n", help::members(group).join(" "))).collect();
    let mut options = String::new();
    for (command, ..) in help::COMMANDS {
        let own: Vec<&str> = help::own_options(command).map(|option| option.name).collect();
        let (pattern, more) = match command {
            "run" => ("run*".to_owned(), " --".to_owned()),
            "completions" => (command.to_owned(), SHELLS.join(" ")),
            _ => (format!("'{command}'"), String::new()),
        };
        options += &format!("        {pattern}) words='{}{more}' ;;\n", own.join(" "));
    }
    BASH.replace("@WITH_VALUE@", &with_value("|"))
        .replace("@VALUES@", &values)
        .replace("@FIRST@", &help::groups().join(" "))
        .replace("@MEMBERS@", &members)
        .replace("@OPTIONS@", &options)
        .replace("@GLOBAL@", &help::global_names().join(" "))
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
    '')
        offered=(@FIRST@)
        [[ -n $helping ]] || offered+=('help:Show the options of a command.')
        ;;
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
    let items = |options: &mut dyn Iterator<Item = OptionHelp>| {
        options.map(|option| item(option.name, &option.about)).collect::<Vec<_>>().join(" ")
    };
    let mut values = String::new();
    for option in all_options() {
        let action = match value(&option) {
            Value::Flag => continue,
            Value::Directory => "_files -/".to_owned(),
            Value::File => "_files".to_owned(),
            Value::OneOf(words) => format!("compadd -- {words}"),
            Value::Other(what) => format!("_message {}", quoted(what)),
        };
        values += &format!("        {}) {action}; return ;;\n", option.name);
    }
    let mut members = String::new();
    for group in groups() {
        let of_group: Vec<String> =
            help::members(group).iter().map(|member| item(member, &about(&format!("{group} {member}")))).collect();
        members += &format!("    {group}) offered=({}) ;;\n", of_group.join(" "));
    }
    let mut options = String::new();
    for (command, ..) in help::COMMANDS {
        let pattern = if command == "run" { "run*".to_owned() } else { quoted(command) };
        options += &format!("    {pattern}) offered=({}) ;;\n", items(&mut help::own_options(command)));
    }
    let first: Vec<String> = help::groups().iter().map(|word| item(word, &about(word))).collect();
    ZSH.replace("@WITH_VALUE@", &with_value("|"))
        .replace("@VALUES@", &values)
        .replace("@FIRST@", &first.join(" "))
        .replace("@MEMBERS@", &members)
        .replace("@SHELLS@", &SHELLS.join(" "))
        .replace("@OPTIONS@", &options)
        .replace("@GLOBAL@", &items(&mut help::global_options()))
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
    let groups: Vec<&str> = groups().collect();
    let mut out = FISH.replace("@WITH_VALUE@", &with_value(" ")).replace("@GROUPS@", &groups.join(" "));
    for word in help::groups() {
        out += &format!("complete -c flint -n '__flint_at \"\" help' -a {word} -d {}\n", escaped(&about(word)));
    }
    out += "complete -c flint -n '__flint_at \"\"' -a help -d 'Show the options of a command.'\n";
    out += &format!("complete -c flint -n '__flint_at completions' -a '{}'\n", SHELLS.join(" "));
    for (command, _, about, _) in help::COMMANDS {
        if let Some((group, member)) = command.split_once(' ') {
            let condition = format!("__flint_at {group} \"help {group}\"");
            out += &format!("complete -c flint -n '{condition}' -a {member} -d {}\n", escaped(about));
        }
        for option in help::own_options(command) {
            out += &fish_option(&option, &format!(" -n '__flint_at \"{command}\"'"), escaped);
        }
    }
    for option in help::global_options() {
        out += &fish_option(&option, "", escaped);
    }
    out
}

fn fish_option(option: &OptionHelp, condition: &str, escaped: impl Fn(&str) -> String) -> String {
    let value = match value(option) {
        Value::Flag => String::new(),
        Value::Directory => " -x -a '(__fish_complete_directories)'".to_owned(),
        Value::File => " -r -F".to_owned(),
        Value::OneOf(words) => format!(" -x -a '{words}'"),
        Value::Other(_) => " -x".to_owned(),
    };
    let name = option.name.trim_start_matches('-');
    format!("complete -c flint{condition} -l {name}{value} -d {}\n", escaped(&option.about))
}
