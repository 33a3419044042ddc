//! The last lines of the log, kept in memory for `.relay/log`.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Lines kept, and the longest of them in bytes.
const LINES: usize = 500;
const LINE_MAX: usize = 2000;

static RING: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Adds a line; the oldest goes when there are too many.
pub fn push(line: &str) {
    let mut end = line.len().min(LINE_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let mut ring = RING.lock();
    if ring.len() == LINES {
        ring.pop_front();
    }
    ring.push_back(line[..end].trim_end().replace('\n', "\\n"));
}

/// All of it, a line each, the newest last.
pub fn text() -> String {
    RING.lock().iter().fold(String::new(), |mut out, line| {
        out.push_str(line);
        out.push('\n');
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_and_a_line_stays_one_line() {
        (0..LINES + 5).for_each(|i| push(&format!("line {i}\nand more")));
        let text = text();
        assert_eq!(text.lines().count(), LINES);
        assert!(text.starts_with("line 5\\nand more\n"), "{}", &text[..40]);
    }
}
