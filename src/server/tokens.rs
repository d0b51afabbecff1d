//! Bearer tokens: what one may be, what it may do, and the file that holds them.
//!
//! Owns: the syntax of the token file, roles and key prefixes, and the comparison. What is kept of a token is a keyed
//! hash. No message of this module holds a token.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

/// What a token may do. Some calls need none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decide and spend, also by limits that requests bring.
    Check,
    /// Look.
    Read,
    /// Everything.
    Admin,
}

impl Role {
    const ALL: [Role; 3] = [Role::Check, Role::Read, Role::Admin];

    /// `check`, `read` or `admin`.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Check => "check",
            Role::Read => "read",
            Role::Admin => "admin",
        }
    }
}

/// What a token with a role or a prefix may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    role: Role,
    /// Empty for all keys.
    prefix: String,
}

impl Grant {
    /// Refuses what needs another role. `what` is the method and path of a call.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check_role(&self, needed: Option<Role>, what: impl FnOnce() -> String) -> Result<()> {
        match needed {
            Some(needed) if self.role != needed && self.role != Role::Admin => {
                let (own, needed) = (self.role.name(), needed.name());
                Err(forbidden(format!("this token has the role `{own}`, and {} needs `{needed}`", what())))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what speaks of keys that this token does not reach.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check_all_keys(&self, what: impl FnOnce() -> String) -> Result<()> {
        match self.prefix.is_empty() {
            true => Ok(()),
            false => Err(forbidden(format!(
                "this token is only for keys with prefix `{}`, and {} needs a token for all keys",
                self.prefix,
                what()
            ))),
        }
    }

    /// Refuses a key that this token does not reach; of a pattern, its text is the key.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check_key(&self, key: &str) -> Result<()> {
        match self.reaches(key) {
            true => Ok(()),
            false => Err(forbidden(format!(
                "this token is only for keys with prefix `{}`, not for `{}`",
                self.prefix,
                excerpt(key)
            ))),
        }
    }

    /// Refuses the keys that begin so, where this token does not reach all of them.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check_prefix(&self, prefix: &str) -> Result<()> {
        match self.reaches(prefix) && (prefix.len() > self.prefix.len() || !self.ends_in_a_word()) {
            true => Ok(()),
            false => Err(forbidden(format!(
                "this token is only for keys with prefix `{}`, and prefix `{}` has other keys",
                self.prefix,
                excerpt(prefix)
            ))),
        }
    }

    /// A prefix that ends with a letter or digit ends a word: `app1` is not for the keys of `app10`. A `*` after it
    /// could be the rest of the word.
    fn reaches(&self, key: &str) -> bool {
        key.strip_prefix(&self.prefix).is_some_and(|rest| {
            let goes_on = rest.starts_with(|next: char| next.is_alphanumeric() || next == '*');
            !goes_on || !self.ends_in_a_word()
        })
    }

    fn ends_in_a_word(&self) -> bool {
        self.prefix.ends_with(char::is_alphanumeric)
    }
}

fn forbidden(message: String) -> Error {
    Error::new(Kind::Forbidden, message)
}

/// One token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    /// `None` if it may do everything.
    grant: Option<Grant>,
}

impl Token {
    /// A token that may do everything. `source` says where it was given.
    ///
    /// # Errors
    /// `usage`, for a token that no client may send.
    pub fn new(text: &str, source: &str) -> Result<Token> {
        let odd = |symbol: &char| !('!'..='~').contains(symbol);
        let what = match text.chars().find(odd) {
            None => return Ok(Token { text: text.to_owned(), grant: None }),
            Some('\u{feff}') => "a byte order mark",
            Some('\n' | '\r') => "a line break",
            Some(' ' | '\t') => "a blank",
            Some(symbol) if symbol.is_ascii() => "a control character",
            Some(_) => "a character that is not ASCII",
        };
        Err(usage(format!("{source} must be printable ASCII without blanks, and has {what}")))
    }

    /// Reads `TOKEN`, `ROLE: TOKEN` or `ROLE PREFIX: TOKEN`.
    fn of_line(line: &str, place: &str) -> Result<Token> {
        const SYNTAX: &str = "must be TOKEN, ROLE: TOKEN or ROLE PREFIX: TOKEN, with a role of check, read or admin";
        let Some((front, text)) = line.rsplit_once([' ', '\t']) else {
            // A blank was forgotten; it would be a token for everything.
            if Role::ALL.iter().any(|role| line.strip_prefix(role.name()).is_some_and(|rest| rest.starts_with(':'))) {
                return Err(usage(format!("{place} needs a blank before its token")));
            }
            return Token::new(line, &format!("the token in {place}"));
        };
        let front = front.trim_end_matches([' ', '\t']).strip_suffix(':');
        let parts = front.map(|front| front.split_once([' ', '\t']).unwrap_or((front, "")));
        let found = parts.and_then(|(name, prefix)| {
            Some((Role::ALL.into_iter().find(|role| role.name() == name)?, prefix.trim_matches([' ', '\t'])))
        });
        let Some((role, prefix)) = found else { return Err(usage(format!("{place} {SYNTAX}"))) };
        if prefix.contains('*') {
            return Err(usage(format!(
                "the prefix in {place} must not have a `*`: it is the text that keys begin with"
            )));
        }
        let mut token = Token::new(text, &format!("the token in {place}"))?;
        token.grant = (role != Role::Admin || !prefix.is_empty()).then(|| Grant { role, prefix: prefix.to_owned() });
        Ok(token)
    }

    /// The token itself, for a client to send.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// A file of tokens.
#[derive(Debug, Clone)]
pub struct TokenFile {
    pub path: PathBuf,
    /// The option or variable that named it.
    pub source: &'static str,
}

/// What a file of tokens holds.
pub struct TokensRead {
    /// At least one.
    pub tokens: Vec<Token>,
    /// What an operator should know.
    pub warning: Option<String>,
}

impl TokenFile {
    /// Reads it: one token a line; blank lines and lines that begin with `#` do not count.
    ///
    /// # Errors
    /// `usage`, for a file that can't be read or that others can write, one without a token, and a line that is none.
    pub fn read(&self) -> Result<TokensRead> {
        let name = format!("{} {}", self.source, self.path.display());
        let unreadable = |error: std::io::Error| usage(format!("{name} cannot be read: {error}"));
        let mode = std::fs::metadata(&self.path).map_err(unreadable)?.permissions().mode();
        if mode & 0o002 != 0 {
            return Err(usage(format!("{name} can be written by others; run chmod o-w on it")));
        }
        let bytes = std::fs::read(&self.path).map_err(unreadable)?;
        let text =
            String::from_utf8(bytes).map_err(|_| usage(format!("{name} must be plain text in ASCII or UTF-8")))?;
        if text.starts_with('\u{feff}') {
            return Err(usage(format!("{name} must not begin with a byte order mark")));
        }
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if !line.is_empty() && !line.starts_with('#') {
                tokens.push(Token::of_line(line, &format!("line {} of {name}", index + 1))?);
            }
        }
        if tokens.is_empty() {
            return Err(usage(format!("{name} has no token")));
        }
        let warning = (mode & 0o004 != 0).then(|| format!("{name} can be read by others"));
        Ok(TokensRead { tokens, warning })
    }
}

fn usage(message: String) -> Error {
    Error::new(Kind::Usage, message)
}

/// The tokens that are accepted. What is kept and compared is a keyed hash of fixed length, so that neither the time a
/// comparison takes nor a memory dump reveals a token.
pub struct Tokens {
    keys: (RandomState, RandomState),
    digests: Vec<(u64, u64)>,
    grants: Vec<Option<Arc<Grant>>>,
}

impl Tokens {
    /// A set of tokens; empty ones do not count. If a token is given twice, the last line counts.
    pub fn new(tokens: impl IntoIterator<Item = Token>) -> Tokens {
        let keys = (RandomState::new(), RandomState::new());
        let tokens = tokens.into_iter().filter(|token| !token.text.is_empty());
        let (digests, grants) = tokens
            .map(|Token { text, grant }| {
                ((keys.0.hash_one(text.as_bytes()), keys.1.hash_one(text.as_bytes())), grant.map(Arc::new))
            })
            .unzip();
        Tokens { keys, digests, grants }
    }

    /// Whether no token is configured: then everybody may ask.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// What the token in the value of an `Authorization` header may do: `Some(None)` for everything; `None` if it
    /// is none of these.
    pub fn accept(&self, authorization: Option<&str>) -> Option<Option<&Arc<Grant>>> {
        let (scheme, token) = authorization.and_then(|value| value.split_once(' '))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let token = token.trim().as_bytes();
        let digest = (self.keys.0.hash_one(token), self.keys.1.hash_one(token));
        // All are compared, without a branch on the outcome: the place of the token that matches, from 1.
        let found = self.digests.iter().zip(1_usize..).fold(0, |found, (known, place)| {
            let fits = usize::from(((known.0 ^ digest.0) | (known.1 ^ digest.1)) == 0);
            found * (1 - fits) + place * fits
        });
        self.grants.get(found.checked_sub(1)?).map(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Token> {
        Token::of_line(text, "line 1 of F")
    }

    fn grant(text: &str) -> Grant {
        line(text).unwrap().grant.unwrap()
    }

    #[test]
    fn tokens() {
        let token = |text| Token::new(text, "--token").unwrap();
        let tokens = Tokens::new([token("one"), token(""), token("two"), line("read app: three").unwrap()]);
        assert!(!tokens.is_empty() && Tokens::new([token("")]).is_empty());
        for good in ["Bearer one", "bearer two", "BEARER  one "] {
            assert_eq!(tokens.accept(Some(good)), Some(None), "{good}");
        }
        assert_eq!(tokens.accept(Some("Bearer three")), Some(Some(&Arc::new(grant("read app: x")))));
        for bad in ["Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one", "one", "", "Bearer read app: three"] {
            assert_eq!(tokens.accept(Some(bad)), None, "{bad}");
        }
        assert_eq!(tokens.accept(None), None);
    }

    #[test]
    fn lines() {
        for (text, token, granted) in [
            ("secret", "secret", None),
            ("a:b=/+~", "a:b=/+~", None),
            ("admin: secret", "secret", None),
            ("check: secret", "secret", Some((Role::Check, ""))),
            ("read app1: secret", "secret", Some((Role::Read, "app1"))),
            ("check app1:: secret", "secret", Some((Role::Check, "app1:"))),
            ("admin\ta b :\t secret", "secret", Some((Role::Admin, "a b "))),
        ] {
            let found = line(text).unwrap();
            let granted = granted.map(|(role, prefix)| Grant { role, prefix: prefix.trim().to_owned() });
            assert_eq!((found.text.as_str(), found.grant), (token, granted), "{text}");
        }
        for (text, complaint) in [
            ("check:secret", "line 1 of F needs a blank before its token"),
            ("two words", "line 1 of F must be TOKEN, ROLE: TOKEN or"),
            ("Check: secret", "line 1 of F must be TOKEN"),
            ("write app: secret", "line 1 of F must be TOKEN"),
            ("check app*: secret", "the prefix in line 1 of F must not have a `*`"),
            ("check: ключ", "the token in line 1 of F must be printable ASCII without blanks, and has a character"),
            ("\u{a0}secret", "the token in line 1 of F must be"),
        ] {
            let error = line(text).err().unwrap();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.message().starts_with(complaint) && !error.message().contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn what_no_client_may_send() {
        for (text, what) in [
            ("\u{feff}abc", "a byte order mark"),
            ("abc\n", "a line break"),
            ("abc\r", "a line break"),
            (" abc", "a blank"),
            ("a b", "a blank"),
            ("a\tb", "a blank"),
            ("a\u{7f}", "a control character"),
            ("a\0", "a control character"),
            ("\u{a0}", "a character that is not ASCII"),
        ] {
            let error = Token::new(text, "--token").err().unwrap();
            assert_eq!(error.message(), format!("--token must be printable ASCII without blanks, and has {what}"));
        }
    }

    #[test]
    fn roles() {
        let what = || "POST /v1/x".to_owned();
        for (has, check, read, admin) in
            [("check: t", true, false, false), ("read: t", false, true, false), ("admin a: t", true, true, true)]
        {
            let grant = grant(has);
            let may = |role| grant.check_role(Some(role), what).is_ok();
            assert_eq!((may(Role::Check), may(Role::Read), may(Role::Admin)), (check, read, admin), "{has}");
            assert!(grant.check_role(None, what).is_ok());
        }
        let error = grant("check: t").check_role(Some(Role::Read), what).unwrap_err();
        assert_eq!(error.message(), "this token has the role `check`, and POST /v1/x needs `read`");
    }

    #[test]
    fn prefixes() {
        let keys = |text: &str, key: &str| (grant(text).check_key(key).is_ok(), grant(text).check_prefix(key).is_ok());
        for (key, as_key, as_prefix) in [
            ("app1", true, false),
            ("app1:", true, true),
            ("app1:user-4", true, true),
            ("app1/x", true, true),
            ("app1:*", true, true),
            ("app1*", false, false),
            ("app10", false, false),
            ("app1é", false, false),
            ("app", false, false),
            ("", false, false),
            ("other", false, false),
            ("*", false, false),
        ] {
            assert_eq!(keys("check app1: t", key), (as_key, as_prefix), "{key}");
        }
        for (key, as_key) in [("app1:", true), ("app1:x", true), ("app1:*", true), ("app1", false), ("app1/", false)] {
            assert_eq!(keys("check app1:: t", key), (as_key, as_key), "{key}");
        }
        assert_eq!(keys("check: t", "anything"), (true, true));
        assert!(grant("check: t").check_all_keys(String::new).is_ok());
        assert!(grant("admin a: t").check_all_keys(String::new).is_err());
    }
}
