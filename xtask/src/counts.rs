//! Reading how many tests a runner executed from its closing lines.

use std::fmt;
use std::ops::AddAssign;

/// What test runners counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Counts {
    /// Sums every summary of `cargo nextest`, `cargo test` and node's runner found in `printed`.
    pub(crate) fn read(printed: &str) -> Self {
        let mut sum = Self::default();
        for line in printed.lines() {
            // Indented, it is the output of a test that `cargo nextest` shows.
            if let Some(counts) = read_nextest(line.trim())
                .or_else(|| read_cargo_test(line))
                .or_else(|| read_node(line.trim()))
            {
                sum += counts;
            }
        }
        sum
    }

    pub(crate) fn executed(self) -> u64 {
        self.passed + self.failed
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// `Summary [ 1.2s] 42 tests run: 40 passed (1 slow), 1 failed, 1 timed out, 2 skipped`
fn read_nextest(line: &str) -> Option<Counts> {
    let (_, rest) = line.strip_prefix("Summary [")?.split_once("] ")?;
    let (_, parts) = rest.split_once(" run: ")?;
    let mut counts = Counts::default();
    for part in outside_parentheses(parts).split(',') {
        let (number, what) = part.trim().split_once(' ')?;
        let number = number.parse::<u64>().ok()?;
        match what.trim() {
            "passed" => counts.passed += number,
            "skipped" => {}
            _ => counts.failed += number,
        }
    }
    Some(counts)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn read_cargo_test(line: &str) -> Option<Counts> {
    let (_, parts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in parts.split(';') {
        match part.trim().split_once(' ') {
            Some((number, "passed")) => counts.passed = number.parse().ok()?,
            Some((number, "failed")) => counts.failed = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

/// `ℹ pass 5`, or `# pass 5` where node prints TAP; one line for each kind.
fn read_node(line: &str) -> Option<Counts> {
    let (what, number) = line
        .strip_prefix("ℹ ")
        .or(line.strip_prefix("# "))?
        .split_once(' ')?;
    let number = number.parse().ok()?;
    match what {
        "pass" => Some(Counts {
            passed: number,
            failed: 0,
        }),
        "fail" | "cancelled" => Some(Counts {
            passed: 0,
            failed: number,
        }),
        _ => None,
    }
}

fn outside_parentheses(text: &str) -> String {
    let mut depth = 0_u32;
    let mut kept = String::new();
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => kept.push(c),
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64) -> Counts {
        Counts { passed, failed }
    }

    #[test]
    fn nextest_summaries_are_read() {
        let green = "     Summary [   1.234s] 42 tests run: 42 passed (1 flaky, 2 slow), 3 skipped";
        assert_eq!(Counts::read(green), counts(42, 0));
        let red = "Summary [   9.1s] 5/7 tests run: 2 passed, 1 failed, 1 timed out, 1 exec failed, 0 skipped";
        assert_eq!(Counts::read(red), counts(2, 3));
        assert_eq!(
            Counts::read("Summary [   0.000s] 0 tests run: 0 passed, 0 skipped"),
            counts(0, 0)
        );
        let one = "     Summary [   0.004s] 1 test run: 1 passed, 1 skipped\n";
        assert_eq!(Counts::read(one), counts(1, 0));
    }

    #[test]
    fn what_a_failed_test_printed_is_not_counted() {
        let printed = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\n\
            Summary [   1.0s] 2 tests run: 1 passed, 1 failed, 0 skipped\n";
        assert_eq!(Counts::read(printed), counts(1, 1));
    }

    #[test]
    fn cargo_test_summaries_are_summed_over_binaries() {
        let printed = "test a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(Counts::read(printed), counts(4, 2));
    }

    #[test]
    fn node_summaries_are_read_in_both_notations() {
        let spec =
            "ℹ tests 8\nℹ suites 0\nℹ pass 5\nℹ fail 1\nℹ cancelled 1\nℹ skipped 1\nℹ todo 0\n";
        assert_eq!(Counts::read(spec), counts(5, 2));
        assert_eq!(
            Counts::read("# tests 2\n# pass 2\n# fail 0\n# cancelled 0\n"),
            counts(2, 0)
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        let printed = "Summary: 3 things\n# pass me the salt\ntest result\nℹ pass\n";
        assert_eq!(Counts::read(printed), Counts::default());
    }

    #[test]
    fn the_closing_line_is_plain() {
        assert_eq!(counts(12, 0).to_string(), "12 passed, 0 failed");
    }
}
