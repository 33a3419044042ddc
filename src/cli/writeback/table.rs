//! Columns for people.

/// Rows under a head, each column as wide as its widest cell; the last is as it is.
pub fn print(head: &[&str], rows: &[Vec<String>]) {
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([head[i].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        crate::cli::out(format_args!("{}", padded.join("  ").trim_end()));
    };
    line(&head.iter().map(ToString::to_string).collect::<Vec<_>>());
    rows.iter().for_each(|r| line(r));
}
