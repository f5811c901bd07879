//! Rust source as text that rules can read: comments and literals blanked out, tests cut off, paths spelled out.
//!
//! Every step keeps each line where it was, so that a rule can say `file:line`. No parser: it reads what rustfmt has
//! formatted and the compiler has accepted.

use std::{
    fs,
    path::{Path, PathBuf},
};

const TEST_ATTRIBUTE: &str = "#[cfg(test)]";

/// One source file.
pub struct Source {
    /// From the top of the repository, with forward slashes: `src/store/mod.rs`.
    pub path: String,
    pub text: String,
    /// `text` with comments and the insides of literals blanked out.
    pub code: String,
    /// `code` with everything under `#[cfg(test)]` blanked out too.
    pub product: String,
    /// Lines that are not under `#[cfg(test)]`.
    pub product_lines: usize,
    /// Declared as `#[cfg(test)] mod …;` by another file, so that nothing of it is `product`.
    pub is_tests: bool,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = without_comments_and_literals(text);
        let (product, test_lines) = without_tests(&code);
        let product_lines = text.lines().count() - test_lines;
        Self { path: path.to_owned(), text: text.to_owned(), code, product, product_lines, is_tests: false }
    }

    /// Every `.rs` file under these folders of the repository.
    pub fn all(folders: &[&str]) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        folders.iter().for_each(|folder| collect(&root.join(folder), &mut files));
        files.sort();
        let read = files.iter().map(|file| {
            let path = file.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            Self::new(&path, &fs::read_to_string(file).unwrap())
        });
        let mut sources: Vec<Self> = read.collect();
        set_test_modules_apart(&mut sources);
        sources
    }

    /// The top-level module it belongs to: `store` for `src/store.rs` and `src/store/rows.rs`.
    pub fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// How many `super::` lead from its code to the top of the crate.
    pub fn depth(&self) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path).trim_end_matches("/mod.rs");
        inside.split('/').count()
    }

    /// Where the files of its child modules are: `src/store` for `src/store.rs` and `src/store/mod.rs`.
    fn children(&self) -> &str {
        let own = ["/mod.rs", "/lib.rs", "/main.rs"].iter().find_map(|name| self.path.strip_suffix(name));
        own.unwrap_or(self.path.trim_end_matches(".rs"))
    }
}

/// Marks the files of modules that exist under `#[cfg(test)]` only.
fn set_test_modules_apart(sources: &mut [Source]) {
    let mut of_tests = Vec::new();
    for source in sources.iter() {
        for (start, _) in source.code.match_indices(TEST_ATTRIBUTE) {
            let item = &source.code[start + TEST_ATTRIBUTE.len()..];
            let declared = item.split_once(';').map_or("", |(declared, _)| declared.trim());
            let name = declared
                .rsplit_once("mod ")
                .filter(|(before, _)| !before.contains('{'))
                .map(|(_, name)| name);
            of_tests.extend(name.map(|name| format!("{}/{name}", source.children())));
        }
    }
    for source in sources {
        let is_of = |module: &String| {
            let rest = source.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if of_tests.iter().any(is_of) {
            source.product = String::new();
            source.product_lines = 0;
            source.is_tests = true;
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Line of a byte of `code`, counted from 1.
pub fn line_of(code: &str, position: usize) -> usize {
    code[..position].matches('\n').count() + 1
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

fn without_comments_and_literals(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment_end(&bytes, at);
        if let Some((inside, end)) = end {
            blank(&mut bytes[inside..end]);
            at = end.max(at + 1);
        } else {
            at += 1;
        }
    }
    String::from_utf8(bytes).expect("whole characters are blanked out")
}

/// If a comment or literal starts at `at`: where its inside starts and where what is to be blanked ends.
fn literal_or_comment_end(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = &bytes[at..];
    let find = |from: usize, what: &[u8]| {
        let found = bytes[from..].windows(what.len()).position(|window| window == what);
        found.map_or(bytes.len(), |position| from + position)
    };
    if rest.starts_with(b"//") {
        return Some((at, find(at, b"\n")));
    }
    if rest.starts_with(b"/*") {
        return Some((at, block_comment_end(bytes, at)));
    }
    if rest[0] == b'r' && (at == 0 || !is_word(bytes[at - 1]) || matches!(bytes[at - 1], b'b' | b'c')) {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let inside = at + hashes + 2;
            let close = [b"\"".to_vec(), vec![b'#'; hashes]].concat();
            let end = find(inside, &close) + close.len();
            return Some((inside, end.min(bytes.len())));
        }
    }
    if rest[0] == b'"' {
        return Some((at + 1, quoted_end(bytes, at + 1, b'"')));
    }
    // A character, unless it is a lifetime: `'a'` and `'\n'`, but not `'a`.
    let is_character = rest[0] == b'\'' && rest.len() > 2 && {
        let width = std::str::from_utf8(&rest[1..])
            .ok()
            .and_then(|rest| rest.chars().next())
            .map_or(1, char::len_utf8);
        rest[1] == b'\\' || rest.get(1 + width) == Some(&b'\'')
    };
    is_character.then(|| (at + 1, quoted_end(bytes, at + 1, b'\'')))
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Just past the closing quote, which is blanked with the rest.
fn quoted_end(bytes: &[u8], inside: usize, quote: u8) -> usize {
    let mut at = inside;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Just past the brace that closes the one at `open`.
pub fn braces_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (position, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return position + 1;
        }
    }
    code.len()
}

/// `code` without the items under `#[cfg(test)]`, and how many lines those take.
fn without_tests(code: &str) -> (String, usize) {
    let mut product = code.as_bytes().to_vec();
    let (mut from, mut lines) = (0, 0);
    while let Some(start) = code[from..].find(TEST_ATTRIBUTE).map(|start| from + start) {
        let item = start + TEST_ATTRIBUTE.len();
        let stop = code[item..].find(['{', ';']).map_or(code.len(), |stop| item + stop);
        let is_import = code[item..stop].split_whitespace().any(|word| word == "use");
        let end = if is_import {
            code[item..].find(';').map_or(code.len(), |end| item + end + 1)
        } else if code[stop..].starts_with('{') {
            braces_end(code, stop)
        } else {
            (stop + 1).min(code.len())
        };
        blank(&mut product[start..end]);
        lines += code[start..end].matches('\n').count() + 1;
        from = end;
    }
    (String::from_utf8(product).expect("whole characters are blanked out"), lines)
}

/// Every path in the code, with the line it stands on: those in `use` spelled out one by one, then all others.
pub fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut others = code.as_bytes().to_vec();
    for (start, _) in code.match_indices("use ") {
        let begins_item = start == 0
            || code[..start].trim_end_matches(' ').ends_with(['\n', ')', ';', '{', '}', ']'])
            || code[..start].trim_end().ends_with("pub");
        if !begins_item || (start > 0 && is_word(code.as_bytes()[start - 1])) {
            continue;
        }
        let end = code[start..].find(';').map_or(code.len(), |end| start + end);
        spell_out("", &code[start + 4..end], line_of(code, start), &mut found);
        blank(&mut others[start..end]);
    }
    let others = String::from_utf8(others).expect("whole characters are blanked out");
    let mut at = 0;
    while at < others.len() {
        let length = path_length(&others.as_bytes()[at..]);
        if length > 0 {
            found.push((line_of(&others, at), others[at..at + length].to_owned()));
        }
        at += length.max(1);
    }
    found
}

fn path_length(bytes: &[u8]) -> usize {
    let word = |from: usize| bytes[from..].iter().take_while(|byte| is_word(**byte)).count();
    let mut length = word(0);
    while length > 0 && bytes[length..].starts_with(b"::") && word(length + 2) > 0 {
        length += 2 + word(length + 2);
    }
    length
}

/// The paths of a use tree: `a::{b, c::{self, d as e}}` is `a::b`, `a::c::self`, `a::c::d`.
fn spell_out(prefix: &str, tree: &str, line: usize, found: &mut Vec<(usize, String)>) {
    let mut line = line;
    let mut depth = 0_usize;
    let mut start = 0;
    for (position, byte) in tree.bytes().chain([b',']).enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                let branch = &tree[start..position.min(tree.len())];
                let indent = branch.len() - branch.trim_start().len();
                let here = line + branch[..indent].matches('\n').count();
                match branch.split_once('{') {
                    Some((head, inner)) => {
                        let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
                        spell_out(&format!("{prefix}{}", head.trim()), inner, here, found);
                    }
                    None => {
                        let name = branch.trim().split(" as ").next().unwrap_or_default();
                        if !name.is_empty() {
                            found.push((here, format!("{prefix}{name}").trim_start_matches("::").to_owned()));
                        }
                    }
                }
                line += branch.matches('\n').count();
                start = position + 1;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(Source::new("src/a.rs", text).product, expected);
    }

    #[test]
    fn comments_and_literals_are_blank_and_the_rest_stays() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("x\"y", b"z", r"q\") g"#, r#"f("     , b"  , r"   ) g"#);
        check("r#\"a \"quoted\" b\"# r#type", "r#\"               r#type");
        check("'a' '\\'' 'é' <'a> 'static", "'   '    '    <'a> 'static");
    }

    #[test]
    fn tests_are_cut_off_with_their_lines() {
        let text = "fn a() {}\n#[cfg(test)]\nuse x::{y};\n#[cfg(test)]\nmod tests {\n    fn b() { if c {} }\n}\nfn d() {}\n";
        let source = Source::new("src/a.rs", text);
        let kept: String = source.product.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!((kept.as_str(), source.product_lines), ("fn a() {} fn d() {}", 2));
    }

    #[test]
    fn a_file_declared_under_tests_is_no_product() {
        let parent = "mod rows;\n#[cfg(test)]\nmod scratch;\n#[cfg(test)]\nmod tests {\n    mod rows;\n}\n";
        let mut sources = [
            Source::new("src/store/mod.rs", parent),
            Source::new("src/store/rows.rs", "fn a() {}\n"),
            Source::new("src/store/scratch.rs", "fn b() {}\n"),
            Source::new("src/store/scratch/deeper.rs", "fn c() {}\n"),
        ];
        set_test_modules_apart(&mut sources);
        assert_eq!(sources.map(|source| source.is_tests), [false, false, true, true]);
    }

    #[test]
    fn paths_are_spelled_out_with_their_lines() {
        let code = "use crate::{\n    names::{Email, Secret as S},\n    store,\n};\npub(crate) use std::env;\nfn a() {\n    sqlx::query(b);\n    $crate::x();\n}\n";
        let found = paths(code);
        for (line, path) in [
            (2, "crate::names::Email"),
            (2, "crate::names::Secret"),
            (3, "crate::store"),
            (5, "std::env"),
            (7, "sqlx::query"),
            (8, "crate::x"),
        ] {
            assert!(found.contains(&(line, path.to_owned())), "{path} in {found:?}");
        }
    }

    #[test]
    fn a_file_knows_its_module_and_depth() {
        for (path, module, depth) in [
            ("src/names.rs", "names", 1),
            ("src/store/mod.rs", "store", 1),
            ("src/store/rows.rs", "store", 2),
            ("src/catalog/tools/mod.rs", "catalog", 2),
        ] {
            let source = Source::new(path, "");
            assert_eq!((source.module(), source.depth()), (module, depth), "{path}");
        }
    }
}
