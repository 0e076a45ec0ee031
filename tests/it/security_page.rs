//! docs/security.md and docs/mutations.md name the tests that hold each claim: every one of them exists.
//!
//! A test stands there in backticks with its module before it, `keys::a_substituted_prekey_is_not_wrapped_to`: the
//! function's name, and words of the path of the file that it is in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Where tests are.
const TREES: [&str; 10] =
    ["broker", "envelope", "link", "proto", "publisher", "sim", "src", "state", "subscriber", "tests"];

/// Every test function of the tree, and the files with one of that name.
fn tests() -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut folders: Vec<PathBuf> = TREES.iter().map(|tree| Path::new(ROOT).join(tree)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                for name in tests_of(&std::fs::read_to_string(&path).unwrap()) {
                    found.entry(name).or_default().push(path.strip_prefix(ROOT).unwrap().to_owned());
                }
            }
        }
    }
    found
}

fn tests_of(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        // `wire`: a test of the broker's that runs in two binaries.
        if line == "#[test]" || line.starts_with("#[tokio::test") || line.starts_with("#[crate::wire") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            marked = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            marked = false;
        }
    }
    names
}

/// What stands in backticks and has a module before it.
fn named(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let path = |text: &&str| {
        text.contains("::")
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
    };
    quoted.filter(path).collect()
}

/// Whether each word stands in the path: a folder, or what a file's name begins with.
fn fits(path: &Path, modules: &[&str]) -> bool {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    modules.iter().all(|module| parts.iter().any(|part| part.starts_with(module)))
}

fn check(page: &str, at_least: usize) {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs").join(page)).unwrap();
    let tests = tests();
    let names = named(&text);
    assert!(names.len() >= at_least, "{page} names only {} tests", names.len());
    let missing: Vec<&&str> = names
        .iter()
        .filter(|name| {
            let mut modules: Vec<&str> = name.split("::").collect();
            let function = modules.pop().unwrap_or_default();
            !tests.get(function).is_some_and(|files| files.iter().any(|file| fits(file, &modules)))
        })
        .collect();
    assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:#?}");
}

#[test]
fn every_test_that_the_page_names_exists() {
    check("security.md", 100);
}

#[test]
fn every_test_that_went_red_exists() {
    check("mutations.md", 100);
}

#[test]
fn a_name_without_a_test_is_found() {
    let tests = tests();
    assert!(tests.len() > 400, "{} tests", tests.len());
    let files = &tests["a_name_without_a_test_is_found"];
    assert!(fits(&files[0], &["security_page"]) && !fits(&files[0], &["attack"]));
    assert_eq!(named("`a::b_c` and `Subscription::head()` and `d`, `e::f`"), ["a::b_c", "e::f"]);
    assert_eq!(tests_of("#[test]\n// why\nfn one() {}\nfn two() {}"), ["one"]);
}
