//! `[approvals]`: whose word is waited for.

use super::reader::Reader;
use crate::approvals::{Approvals, Gate};

/// Reads the table; what cannot be is a problem, also what would hold up the way back.
pub(super) fn read(approvals: &mut Reader) -> Approvals {
    let mut before = Vec::new();
    for name in approvals.texts("before") {
        match Gate::from_name(&name) {
            Some(gate) if before.contains(&gate) => {}
            Some(gate) => before.push(gate),
            None if matches!(name.as_str(), "rollback" | "unwind" | "resume") => {
                approvals.problem("before", format!("names `{name}`: the way back is never held up"));
            }
            None => {
                let names = Gate::ALL.map(Gate::name);
                approvals.problem("before", format!("names `{name}`; a gate is one of {names:?}"));
            }
        }
    }
    let count = approvals.count("count", 1, 1, 20) as usize;
    let by = approvals.texts("by");
    if !by.is_empty() && by.len() < count {
        approvals.problem("by", format!("names {} of the {count} people that `count` asks for", by.len()));
    }
    Approvals { before, count, by, valid_for: approvals.duration("valid_for", "24h", "1min", "30d") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read_text(text: &str) -> (Approvals, Vec<String>) {
        let mut reader = Reader::new("approvals", text.parse().unwrap(), Path::new("/"));
        let approvals = read(&mut reader);
        (approvals, reader.finish())
    }

    #[test]
    fn config_reads_whose_word_is_waited_for() {
        assert_eq!(read_text(""), (Approvals::default(), Vec::new()));
        let (read, problems) =
            read_text("before = [\"finalize\", \"switchover\", \"finalize\"]\ncount = 2\nby = [\"a\", \"b\"]");
        assert_eq!((read.before, read.count, problems), (vec![Gate::Finalize, Gate::Switchover], 2, Vec::new()));
    }

    #[test]
    fn way_back_is_never_held_up_and_a_gate_that_cannot_open_is_refused() {
        let problems = read_text("before = [\"rollback\", \"lunch\"]\ncount = 2\nby = [\"a\"]").1.join("\n");
        for words in ["the way back is never held up", "names `lunch`", "names 1 of the 2 people"] {
            assert!(problems.contains(words), "`{words}` is not in {problems}");
        }
    }
}
