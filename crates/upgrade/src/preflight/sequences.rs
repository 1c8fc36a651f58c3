//! Sequences, whose values no publication carries.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::counted,
    source::Entered,
};

const KINDS: &str = "
    SELECT count(*), count(*) FILTER (WHERE d.deptype = 'i'), count(*) FILTER (WHERE d.deptype IS NULL),
           count(*) FILTER (WHERE s.seqincrement < 0), count(*) FILTER (WHERE s.seqcycle),
           count(*) FILTER (WHERE c.relpersistence = 'u')
      FROM pg_catalog.pg_sequence AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
      LEFT JOIN pg_catalog.pg_depend AS d
        ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.refobjsubid > 0
       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
     WHERE c.relpersistence <> 't' AND c.oid >= 16384";

/// What the columns of [`KINDS`] count, after all of them.
const WORDS: [&str; 5] = ["of identity columns", "owned by no column", "descending", "cycling", "unlogged"];

pub(super) const ABOUT: About = About {
    check: "sequences",
    topic: Topic::Objects,
    reads: "sequences, by kind",
    why: "Rows are replicated with the numbers that they got, the sequences that gave them are not. In the switchover, when nobody \
          writes any more, pgleap reads all of them and sets them on the other side, never backwards; that takes a part of the \
          write pause for some thousands of them.",
    findings: &[note("sequence.set_at_switchover", Applied::ByHand("nothing has to be done."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let row = database.session.query_one(KINDS, &[]).await?;
    let all: i64 = row.get(0);
    if all == 0 {
        return Ok(Vec::new());
    }
    let kinds = WORDS.iter().enumerate().map(|(n, word)| (row.get::<_, i64>(n + 1), word));
    let kinds: Vec<_> = kinds.filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let among = if kinds.is_empty() { String::new() } else { format!(", {}", kinds.join(", ")) };
    let count = counted(usize::try_from(all).unwrap_or_default(), "sequence");
    let message = format!("database `{}` has {count}{among}", database.name);
    Ok(vec![
        Finding::note("sequence.set_at_switchover", message)
            .number("sequences", all)
            .because("no publication carries their values: pgleap sets them in the write pause, after the fence"),
    ])
}
