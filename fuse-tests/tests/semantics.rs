//! docs/SEMANTICS.md names a test for each of its statements. Here: the tests are there, and no row of a table is without one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LIST: &str = "\n## Tests\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The statements, and the list of their tests.
fn document() -> (String, String) {
    let text = fs::read_to_string(root().join("docs/SEMANTICS.md")).unwrap();
    let (statements, list) = text.split_once(LIST).expect("a section with the tests");
    (statements.to_owned(), list.to_owned())
}

/// The cells of the rows of all tables, without heads.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &str| line.starts_with('|');
    let is_rule = |line: &str| line.starts_with("|---");
    let is_head = |i: usize| lines.get(i + 1).is_some_and(|next| is_rule(next));
    let rows = lines.iter().enumerate().filter(|(i, line)| is_row(line) && !is_rule(line) && !is_head(*i));
    rows.map(|(_, line)| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands between backquotes and has `::` in it.
fn names(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect()
}

#[test]
fn every_test_that_the_semantics_name_is_there() {
    let (_, list) = document();
    let named = names(&list);
    assert!(named.len() > 100, "only {} names were found", named.len());
    let missing: Vec<_> = named.into_iter().filter(|name| !is_a_test(name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

fn is_a_test(name: &str) -> bool {
    let (file, test) = name.split_once("::").expect("file::test");
    let path = if file.contains('/') { root().join(file) } else { root().join("fuse-tests/tests").join(file) };
    let Ok(text) = fs::read_to_string(path) else { return false };
    let declaration = format!("fn {test}(");
    text.split("#[test]").skip(1).any(|after| after.trim_start().starts_with(&declaration))
}

#[test]
fn every_statement_has_a_test() {
    let (statements, list) = document();
    let tested: BTreeSet<String> =
        rows(&list).into_iter().filter(|row| row.len() == 2 && row[1].contains("::")).map(|mut row| row.remove(0)).collect();
    let untested: Vec<_> =
        rows(&statements).into_iter().map(|mut row| row.remove(0)).filter(|first| !tested.contains(first)).collect();
    assert!(untested.is_empty(), "rows without a test: {untested:#?}");
    // What a section says outside of tables cannot be told apart by a program; each section has its list.
    let sections: BTreeSet<&str> = statements.lines().filter_map(|l| l.strip_prefix("## ")).collect();
    let listed: BTreeSet<&str> = list.lines().filter_map(|l| l.strip_prefix("### ")).collect();
    let without: Vec<_> = sections.into_iter().filter(|s| *s != "Not yet" && !listed.contains(s)).collect();
    assert!(without.is_empty(), "sections without tests: {without:?}");
}
