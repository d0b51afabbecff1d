# shellcheck shell=sh
# Functions for sh that use curl. Source this file (. flint.sh), then, for instance,
#
#     flint_limit login 5 1m
#     if flint_check login >/dev/null; then echo welcome; fi
#
# flint_limit KEY RATE PER [ALGORITHM] [BURST]   configure a limit
# flint_limit KEY RATE/PER...                    the same; of several, such as 10/1s 5000/day, all must allow
# flint_check KEY [COST] [LIMIT]                 spend COST units (1) if the limit allows it
# flint_check_all [[--cost N] KEY]...            spend units of all or of none; --cost applies to the next key
# flint_take KEY [COST] [LIMIT]                  as flint_check; prints "ok REMAINING" or "denied RETRY_AFTER_MS"
# flint_hold KEY [COST] [LIMIT] [TTL]            hold COST units or slots (1) for TTL (1m); prints the hold's id
# flint_settle HOLD [COST]                       report what a hold has cost (as held), and give back its slots
# flint_status KEY, flint_list [PREFIX], flint_top [denied|allowed] [N]
# flint_reset KEY, flint_remove KEY
# flint_flush, flint_compact, flint_doctor, flint_health
#
# A configured KEY with * is a pattern: every key that matches has its own limit with these values. Quote it: 'user:*'.
# LIMIT is the RATE/PER that applies if no limit is configured for KEY, such as 100/1m.
#
# They print the server's answer, which is JSON except for flint_take and flint_hold. Exit statuses: 0 done, allowed,
# healthy; 1 the answer is no; 2 wrong usage; 3 it could not be done. An error is one line on stderr.
#
# FLINT_SERVER        http://HOST:PORT (default http://127.0.0.1:7878), https://HOST:PORT of a proxy, or unix:PATH
# FLINT_TOKEN_FILE    file whose first token is sent to the server; others must not be able to write it
# FLINT_SERVER_TOKEN  the token, if no file is named
#
# The token is never put on a command line. Each function is a subshell: it changes nothing in the shell that calls it,
# except that it defines names that begin with flint_ and _flint_.

# _flint_fail STATUS MESSAGE
_flint_fail() {
    printf 'flint: %s\n' "$2" >&2
    exit "$1"
}

# _flint_key KEY: refuses what can't be a key, before it is put into a line of anything.
_flint_key() {
    case $1 in
    '') _flint_fail 2 "KEY is missing or empty" ;;
    *[[:cntrl:]]*) _flint_fail 2 "KEY must not contain a control character" ;;
    esac
}

# _flint_number NAME TEXT
_flint_number() {
    case $2 in
    '' | *[!0-9]*) _flint_fail 2 "$1 must be an integer" ;;
    esac
}

# _flint_quote TEXT: its backslashes and quotes escaped, for JSON and for curl's configuration alike.
_flint_quote() {
    # Most texts need no process of their own.
    case $1 in
    *[\\\"]*) printf '%s' "$1" | LC_ALL=C sed 's/[\\"]/\\&/g' ;;
    *) printf '%s' "$1" ;;
    esac
}

# _flint_json TEXT: a JSON string.
_flint_json() {
    case $1 in
    *[[:cntrl:]]*) _flint_fail 2 "an argument must not contain a control character" ;;
    esac
    printf '"%s"' "$(_flint_quote "$1")"
}

# _flint_percent TEXT: every byte percent-encoded.
_flint_percent() {
    printf '%s' "$1" | LC_ALL=C od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g'
}

# _flint_token: the token, or nothing.
_flint_token() {
    if [ -z "${FLINT_TOKEN_FILE:-}" ]; then
        printf '%s' "${FLINT_SERVER_TOKEN:-}"
        return 0
    fi
    [ -r "$FLINT_TOKEN_FILE" ] || _flint_fail 2 "FLINT_TOKEN_FILE $FLINT_TOKEN_FILE cannot be read"
    case $(LC_ALL=C ls -Lld -- "$FLINT_TOKEN_FILE") in
    ????????-*) ;;
    *) _flint_fail 2 "FLINT_TOKEN_FILE $FLINT_TOKEN_FILE can be written by others; run chmod o-w on it" ;;
    esac
    LC_ALL=C sed -n -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//' -e '/^#/d' -e '/./{s/.*[[:space:]]//;p;q;}' <"$FLINT_TOKEN_FILE"
}

# _flint_ask METHOD PATH [BODY]: sets _flint_status and _flint_body.
_flint_ask() {
    command -v curl >/dev/null 2>&1 || _flint_fail 3 "curl is needed and not installed"
    _flint_server=${FLINT_SERVER:-http://127.0.0.1:7878}
    _flint_token=$(_flint_token) || exit "$?"
    case $_flint_token in
    *[![:graph:]]*) _flint_fail 2 "the token must be printable ASCII without blanks" ;;
    esac
    case $_flint_server in
    unix:?*) _flint_url=http://localhost ;;
    http://?* | https://?*) _flint_url=${_flint_server%/} ;;
    *) _flint_fail 2 "FLINT_SERVER must be http://HOST:PORT, https://HOST:PORT or unix:PATH, not $_flint_server" ;;
    esac
    _flint_config=$(
        printf 'url = "%s%s"\nrequest = "%s"\n' "$(_flint_quote "$_flint_url")" "$2" "$1"
        case $_flint_server in
        unix:*) printf 'unix-socket = "%s"\n' "$(_flint_quote "${_flint_server#unix:}")" ;;
        esac
        [ -z "$_flint_token" ] || printf 'header = "Authorization: Bearer %s"\n' "$(_flint_quote "$_flint_token")"
        [ -z "${3:-}" ] || printf 'data-binary = "@-"\n'
    )
    # The body has a separate stream: a line of curl's configuration ends at 100 KiB.
    _flint_reply=$(
        printf '%s' "${3:-}" |
            command curl -q -s -g --noproxy '*' --connect-timeout 5 --max-time 600 -w '\n%{http_code}' -K /dev/fd/3 3<<CONFIG
$_flint_config
CONFIG
    ) || _flint_fail 3 "cannot reach the server at $_flint_server (curl exit status $?); is it running?"
    _flint_status=${_flint_reply##*"
"}
    _flint_body=${_flint_reply%"
"*}
    _flint_body=${_flint_body%"
"}
}

# _flint_done: prints the answer, or says what went wrong.
_flint_done() {
    case $_flint_status in
    200)
        printf '%s\n' "$_flint_body"
        return 0
        ;;
    401) _flint_fail 3 "the server at $_flint_server does not accept this token; set FLINT_TOKEN_FILE or FLINT_SERVER_TOKEN" ;;
    esac
    _flint_message=$(printf '%s\n' "$_flint_body" |
        LC_ALL=C sed -n 's/^{"error":"\(.*\)","code":"[a-z_]*"}$/\1/p' | LC_ALL=C sed 's/\\\(["\\]\)/\1/g')
    [ -n "$_flint_message" ] ||
        _flint_fail 3 "the server at $_flint_server answered HTTP status $_flint_status; is it a flint server?"
    case $_flint_status in
    400) _flint_fail 2 "$_flint_message" ;;
    *) _flint_fail 3 "$_flint_message" ;;
    esac
}

# _flint_says NAME TEXT: the exit status that follows from a field of the answer. A key can't imitate one: its quotes are
# escaped.
_flint_says() {
    case $2 in
    *"\"$1\":true"*) exit 0 ;;
    *"\"$1\":false"*) exit 1 ;;
    *) _flint_fail 3 "the answer of $_flint_server has no $1; is it a flint server?" ;;
    esac
}

flint_limit() (
    _flint_key "${1:-}"
    case ${2:-} in
    */*)
        _flint_json_body=
        _flint_name=$1
        shift
        for _flint_window; do
            _flint_json_body="$_flint_json_body${_flint_json_body:+,}$(_flint_json "$_flint_window")"
        done
        _flint_ask POST /v1/limits "{\"key\":$(_flint_json "$_flint_name"),\"windows\":[$_flint_json_body]}"
        _flint_done
        exit 0
        ;;
    esac
    _flint_number RATE "${2:-}"
    [ -n "${3:-}" ] || _flint_fail 2 "PER is missing, such as 1m"
    _flint_json_body="{\"key\":$(_flint_json "$1"),\"rate\":$2,\"per\":$(_flint_json "$3")"
    [ -z "${4:-}" ] || _flint_json_body="$_flint_json_body,\"algorithm\":$(_flint_json "$4")"
    if [ -n "${5:-}" ]; then
        _flint_number BURST "$5"
        _flint_json_body="$_flint_json_body,\"burst\":$5"
    fi
    _flint_ask POST /v1/limits "$_flint_json_body}"
    _flint_done
)

flint_check() (
    _flint_key "${1:-}"
    _flint_number COST "${2:-1}"
    _flint_json_body="{\"key\":$(_flint_json "$1"),\"cost\":${2:-1}"
    [ -z "${3:-}" ] || _flint_json_body="$_flint_json_body,\"limit\":$(_flint_json "$3")"
    _flint_ask POST /v1/check "$_flint_json_body}"
    _flint_done
    _flint_says allowed "$_flint_body"
)

flint_check_all() (
    _flint_items=
    while [ "$#" -gt 0 ]; do
        _flint_cost=1
        if [ "$1" = --cost ]; then
            _flint_number --cost "${2:-}"
            _flint_cost=$2
            shift 2
        fi
        _flint_key "${1:-}"
        _flint_items="$_flint_items${_flint_items:+,}[$(_flint_json "$1"),$_flint_cost]"
        shift
    done
    [ -n "$_flint_items" ] || _flint_fail 2 "KEY is missing"
    _flint_ask POST /v1/check-all "{\"items\":[$_flint_items]}"
    _flint_done
    # The first field is the answer to all.
    _flint_says allowed "${_flint_body%%,*}"
)

flint_take() (
    _flint_key "${1:-}"
    _flint_number COST "${2:-1}"
    _flint_query="cost=${2:-1}"
    [ -z "${3:-}" ] || _flint_query="$_flint_query&limit=$(_flint_percent "$3")"
    _flint_ask POST "/v1/take/$(_flint_percent "$1")?$_flint_query"
    case $_flint_status in
    429)
        printf '%s\n' "$_flint_body"
        exit 1
        ;;
    esac
    _flint_done
)

flint_hold() (
    _flint_key "${1:-}"
    _flint_number COST "${2:-1}"
    _flint_json_body="{\"key\":$(_flint_json "$1"),\"cost\":${2:-1},\"ttl\":$(_flint_json "${4:-1m}")"
    [ -z "${3:-}" ] || _flint_json_body="$_flint_json_body,\"limit\":$(_flint_json "$3")"
    _flint_ask POST /v1/hold "$_flint_json_body}"
    case $_flint_status$_flint_body in
    200*'"hold":"'*)
        _flint_hold=${_flint_body##*'"hold":"'}
        printf '%s\n' "${_flint_hold%%'"'*}"
        exit 0
        ;;
    200*'"allowed":false'*) exit 1 ;;
    200*) _flint_fail 3 "the answer of $_flint_server has no a hold; is it a flint server?" ;;
    esac
    _flint_done
)

flint_settle() (
    [ -n "${1:-}" ] || _flint_fail 2 "HOLD is missing or empty"
    _flint_json_body="{\"hold\":$(_flint_json "$1")"
    if [ -n "${2:-}" ]; then
        _flint_number COST "$2"
        _flint_json_body="$_flint_json_body,\"cost\":$2"
    fi
    _flint_ask POST /v1/settle "$_flint_json_body}"
    _flint_done
)

flint_status() (
    _flint_key "${1:-}"
    _flint_ask GET "/v1/limits/$(_flint_percent "$1")"
    _flint_done
)

flint_list() (
    _flint_ask GET "/v1/limits?prefix=$(_flint_percent "${1:-}")"
    _flint_done
)

flint_top() (
    _flint_number N "${2:-10}"
    _flint_ask GET "/v1/top?by=$(_flint_percent "${1:-denied}")&limit=${2:-10}"
    _flint_done
)

flint_reset() (
    _flint_key "${1:-}"
    _flint_ask POST /v1/reset "{\"key\":$(_flint_json "$1")}"
    _flint_done
)

flint_remove() (
    _flint_key "${1:-}"
    _flint_ask DELETE "/v1/limits/$(_flint_percent "$1")"
    _flint_done
)

flint_flush() (
    _flint_ask POST /v1/log/flush
    _flint_done
)

flint_compact() (
    _flint_ask POST /v1/log/compact
    _flint_done
)

flint_doctor() (
    _flint_ask GET /v1/doctor
    _flint_done
    _flint_says ok "${_flint_body%%,*}"
)

flint_health() (
    _flint_ask GET /v1/health
    case $_flint_status$_flint_body in
    503'{"ok":false'*)
        printf '%s\n' "$_flint_body"
        exit 1
        ;;
    esac
    _flint_done
)
