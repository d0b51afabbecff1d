//! Reads the modules of src/ as far as tests/it/ladder.rs needs it: which there are, which names each one uses, and in
//! which module each of those names is defined. It knows as much of Rust as the source uses, and no macros.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A path of names, without `crate`: `["store", "Disk"]`. A module's own path is empty for lib.rs.
pub type Names = Vec<String>;

/// A module that has its own file, with the modules that are written out in that file.
pub struct Module {
    pub path: Names,
    pub file: PathBuf,
    /// Whether it is compiled for tests only.
    pub test: bool,
    /// Modules with their own files that it declares, and whether each is for tests only.
    pub children: BTreeMap<String, bool>,
    pub uses: Vec<Use>,
    /// What its `use` items make known under which name, relative to the module.
    imports: BTreeMap<String, Names>,
}

/// A place where a module names something of this crate.
pub struct Use {
    pub line: usize,
    /// Whether the place is compiled for tests only.
    pub test: bool,
    /// From the crate's root; a glob ends with `*`.
    pub path: Names,
}

/// All modules of the library.
pub struct Modules(BTreeMap<Names, Module>);

impl Modules {
    /// Reads `src/lib.rs` and every file that it leads to.
    pub fn read(src: &Path) -> Modules {
        let mut modules = Modules(BTreeMap::new());
        modules.add(src, Vec::new(), false);
        modules
    }

    fn add(&mut self, src: &Path, path: Names, test: bool) {
        let base = src.join(path.join("/"));
        let candidates = [src.join("lib.rs"), base.with_extension("rs"), base.join("mod.rs")];
        let file =
            if path.is_empty() { &candidates[0] } else { candidates[1..].iter().find(|file| file.exists()).unwrap() };
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let module = Reader::new(&text, path.clone(), test).read(file);
        for (child, test_only) in &module.children {
            self.add(src, [&path[..], std::slice::from_ref(child)].concat(), test || *test_only);
        }
        self.0.insert(path, module);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Module> {
        self.0.values()
    }

    pub fn get(&self, path: &[String]) -> Option<&Module> {
        self.0.get(path)
    }

    /// The module in which what this path names is defined. `None` if it is of another crate.
    pub fn home(&self, path: &[String]) -> Option<Names> {
        let mut at = Vec::new();
        for (index, name) in path.iter().enumerate() {
            let module = &self.0[&at];
            if module.children.contains_key(name) {
                at.push(name.clone());
            } else if let Some(import) = module.imports.get(name) {
                let mut target = self.absolute(module, import)?;
                target.extend_from_slice(&path[index + 1..]);
                assert!(target != path, "{path:?} imports itself");
                return self.home(&target);
            } else {
                break;
            }
        }
        Some(at)
    }

    /// The path of a `use` item from the crate's root. `None` if it begins with another crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Names> {
        match path[0].as_str() {
            "crate" | "self" | "super" => Some(from_root(&module.path, path)),
            name if module.children.contains_key(name) => Some([&module.path[..], path].concat()),
            name => {
                let import = module.imports.get(name).filter(|import| import[0] != name)?;
                self.absolute(module, &[import, &path[1..]].concat())
            }
        }
    }
}

/// A path that begins with `crate`, `self` or `super`, from the crate's root.
fn from_root(module: &[String], path: &[String]) -> Names {
    let mut at = module.to_vec();
    let mut rest = path;
    while let Some((first, others)) = rest.split_first() {
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            _ => break,
        }
        rest = others;
    }
    at.extend_from_slice(rest);
    at
}

/// How many lines of a file are compiled without tests.
pub fn lines_without_tests(text: &str) -> usize {
    let mut reader = Reader::new(text, Vec::new(), false);
    reader.walk();
    text.lines().count() - reader.test_lines
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Colons,
    Sign(char),
}

/// Words and signs with their lines, without comments and without what is in quotes.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = text.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while at < chars.len() {
        let begun = at;
        let next = |ahead: usize| chars.get(begun + ahead).copied().unwrap_or('\0');
        match chars[at] {
            '/' if next(1) == '/' => at += chars[at..].iter().take_while(|c| **c != '\n').count(),
            '"' => at = end_of_string(&chars, at),
            '\'' if next(1) == '\\' => at += 3 + chars[at + 3..].iter().take_while(|c| **c != '\'').count() + 1,
            '\'' if next(2) == '\'' => at += 3,
            ':' if next(1) == ':' => {
                found.push((line, Token::Colons));
                at += 2;
            }
            c if is_word(c) => {
                let word: String = chars[at..].iter().copied().take_while(|c| is_word(*c)).collect();
                at += word.chars().count();
                if matches!(word.as_str(), "r" | "br") && matches!(chars.get(at), Some('"' | '#')) {
                    let hashes: String = chars[at..].iter().take_while(|c| **c == '#').collect();
                    let end: Vec<char> = format!("\"{hashes}").chars().collect();
                    at += hashes.len() + 1;
                    at += chars[at..].windows(end.len()).position(|piece| piece == end).unwrap() + end.len();
                } else {
                    found.push((line, Token::Word(word)));
                }
            }
            sign => {
                if !sign.is_whitespace() {
                    found.push((line, Token::Sign(sign)));
                }
                at += 1;
            }
        }
        line += chars[begun..at].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// A block that is open: the module that it is, if it is one, and where it is compiled for tests only, its first line.
struct Block {
    module: Option<String>,
    test: Option<usize>,
}

struct Reader {
    tokens: Vec<(usize, Token)>,
    at: usize,
    path: Names,
    test: bool,
    blocks: Vec<Block>,
    /// The line of a `#[cfg(test)]` that belongs to the item that begins here.
    attribute: Option<usize>,
    children: BTreeMap<String, bool>,
    uses: Vec<Use>,
    imports: BTreeMap<String, Names>,
    test_lines: usize,
}

impl Reader {
    fn new(text: &str, path: Names, test: bool) -> Reader {
        Reader {
            tokens: tokens(text),
            at: 0,
            path,
            test,
            blocks: Vec::new(),
            attribute: None,
            children: BTreeMap::new(),
            uses: Vec::new(),
            imports: BTreeMap::new(),
            test_lines: 0,
        }
    }

    fn read(mut self, file: &Path) -> Module {
        self.walk();
        let Reader { path, test, children, uses, imports, .. } = self;
        Module { path, file: file.to_owned(), test, children, uses, imports }
    }

    fn word(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at) {
            Some((_, Token::Word(word))) => Some(word),
            _ => None,
        }
    }

    fn is(&self, at: usize, sign: char) -> bool {
        self.tokens.get(at).is_some_and(|(_, token)| *token == Token::Sign(sign))
    }

    fn walk(&mut self) {
        while let Some((line, token)) = self.tokens.get(self.at).cloned() {
            match token {
                Token::Sign('#') => self.attribute(line),
                Token::Sign('{') => self.open(None),
                Token::Sign('}') => {
                    let closed = self.blocks.pop().expect("braces should match");
                    if let (Some(first), false) = (closed.test, self.in_test()) {
                        self.test_lines += line + 1 - first;
                    }
                }
                Token::Sign(';') => self.attribute = None,
                Token::Word(word) => self.item_or_path(line, &word),
                _ => {}
            }
            self.at += 1;
        }
    }

    fn item_or_path(&mut self, line: usize, word: &str) {
        let name = self.word(self.at + 1).map(str::to_owned);
        match (word, name) {
            ("mod", Some(name)) if self.is(self.at + 2, ';') => {
                self.children.insert(name, self.attribute.is_some());
                self.at += 1;
            }
            ("mod", Some(name)) if self.is(self.at + 2, '{') => {
                self.at += 2;
                self.open(Some(name));
            }
            // `use<'a>` captures a lifetime.
            ("use", _) if !self.is(self.at + 1, '<') => {
                self.at += 1;
                let mut paths = Vec::new();
                self.tree(&mut Vec::new(), &mut paths);
                let inline = self.inline();
                for (line, path, name) in paths {
                    if matches!(path[0].as_str(), "crate" | "self" | "super") {
                        self.record(line, &path);
                    }
                    if inline.is_empty() {
                        self.imports.insert(name, path);
                    }
                }
                self.attribute = None;
            }
            ("crate" | "self" | "super", _) if self.begins_path() => {
                let mut path = vec![word.to_owned()];
                while self.tokens[self.at + 1].1 == Token::Colons
                    && let Some(next) = self.word(self.at + 2).map(str::to_owned)
                {
                    path.push(next);
                    self.at += 2;
                }
                self.record(line, &path);
            }
            _ => {}
        }
    }

    /// Whether the word here is the first of a path, and not of one that only limits who sees an item.
    fn begins_path(&self) -> bool {
        let before = self.at.checked_sub(1).map(|before| &self.tokens[before].1);
        let continues = matches!(before, Some(Token::Colons | Token::Sign('$')));
        let limits = matches!(before, Some(Token::Word(word)) if word == "in");
        !continues && !limits && self.tokens[self.at + 1].1 == Token::Colons
    }

    /// One of the trees of a `use` item: adds each path with its line and the name that it makes known.
    fn tree(&mut self, prefix: &mut Names, found: &mut Vec<(usize, Names, String)>) {
        let depth = prefix.len();
        loop {
            let (line, token) = self.tokens[self.at].clone();
            match token {
                Token::Word(word) if word == "as" => {
                    let alias = self.word(self.at + 1).unwrap().to_owned();
                    found.last_mut().unwrap().2 = alias;
                    self.at += 1;
                }
                Token::Word(word) => {
                    // `a::{self}` is `a`.
                    if word != "self" || prefix.is_empty() {
                        prefix.push(word);
                    }
                    if self.tokens[self.at + 1].1 != Token::Colons {
                        found.push((line, prefix.clone(), prefix.last().unwrap().clone()));
                    }
                }
                Token::Sign('*') => found.push((line, [&prefix[..], &["*".to_owned()]].concat(), "*".to_owned())),
                Token::Sign('{') => {
                    self.at += 1;
                    self.tree(prefix, found);
                }
                Token::Sign(',') => prefix.truncate(depth),
                Token::Sign('}' | ';') => break,
                _ => {}
            }
            self.at += 1;
        }
        prefix.truncate(depth);
    }

    fn attribute(&mut self, line: usize) {
        let start = self.at + 1;
        // `#![…]` is of the whole file.
        if !self.is(start, '[') {
            return;
        }
        let mut depth = 0;
        loop {
            self.at += 1;
            depth += i32::from(self.is(self.at, '[')) - i32::from(self.is(self.at, ']'));
            if depth == 0 {
                break;
            }
        }
        let words: Vec<&str> = (start..self.at).filter_map(|at| self.word(at)).collect();
        let place = |what: &[&str]| words.iter().position(|word| what.contains(word)).unwrap_or(usize::MAX);
        // Not where tests are what it is not for.
        if words[0] == "cfg" && place(&["test", "doctest"]) < place(&["not"]) {
            self.attribute = Some(line);
        }
    }

    fn open(&mut self, module: Option<String>) {
        self.blocks.push(Block { module, test: self.attribute.take() });
    }

    fn in_test(&self) -> bool {
        self.test || self.blocks.iter().any(|block| block.test.is_some())
    }

    /// The modules written out around this place.
    fn inline(&self) -> Names {
        self.blocks.iter().filter_map(|block| block.module.clone()).collect()
    }

    fn record(&mut self, line: usize, path: &[String]) {
        let path = from_root(&[&self.path[..], &self.inline()].concat(), path);
        let test = self.in_test() || self.attribute.is_some();
        self.uses.push(Use { line, test, path });
    }
}

#[test]
fn names_are_read() {
    let text = r##"
        #[cfg(test)]
        mod tests;
        mod inner;
        pub use crate::store::{self, Disk as Plate, files::*};
        use std::io;
        use inner::Deep;
        // crate::comment::x
        const TEXT: &str = "crate::text::x"; const RAW: &str = r#"crate::"raw""#;
        fn f<'a>(c: char) -> super::Answer { c == '"' || c == '\'' || crate::Limit::new::<u8>('x') || $crate::cli::x() }
        pub(in crate::cli) fn g() {}
        mod written { fn f() { super::super::x(); self::y(); } }
        #[cfg(test)]
        mod last {
            use super::*;
        }
    "##;
    let module = Reader::new(text, vec!["cli".into()], false).read(Path::new("x"));
    let uses: Vec<(String, bool)> = module.uses.iter().map(|used| (used.path.join("::"), used.test)).collect();
    let wanted = [
        ("store", false),
        ("store::Disk", false),
        ("store::files::*", false),
        ("Answer", false),
        ("Limit::new", false),
        ("x", false),
        ("cli::written::y", false),
        ("cli::*", true),
    ];
    assert_eq!(uses, wanted.map(|(path, test)| (path.to_owned(), test)));
    assert_eq!(module.children, BTreeMap::from([("inner".into(), false), ("tests".into(), true)]));
    assert_eq!(module.imports["Plate"], ["crate", "store", "Disk"]);
    assert_eq!((module.imports["Deep"].join("::"), module.uses[0].line), ("inner::Deep".into(), 5));
    assert_eq!((text.lines().count(), lines_without_tests(text)), (17, 13));
}
