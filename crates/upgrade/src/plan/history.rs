//! What earlier upgrades took: kept as lines of JSON, and used instead of what is assumed.
//!
//! The file is beside the journal, as a speed measured on one host says nothing of another: `plan.history` shares one between
//! upgrades whose hosts are alike. Survives: lines that cannot be read, a file that is not there; both are passed over.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    facts::Facts,
    methods::Method,
    rates::{Bounds, From, Rates, Unit},
    time::{Interval, Stage},
};

/// What a run was foretold to take; kept in the journal when it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// When it was made.
    pub at: Timestamp,
    /// How the upgrade is done.
    pub method: Method,
    /// The stages that the run has steps for.
    pub stages: Vec<Stage>,
    /// From how much that follows.
    pub amounts: Amounts,
}

/// How much there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Amounts {
    /// What is copied.
    pub cluster_bytes: u64,
    /// What is compared.
    pub table_bytes: u64,
    /// What ANALYZE reads; 0 where it has nothing to do.
    pub sample_bytes: u64,
    /// What pg_upgrade dumps and restores.
    pub objects: u64,
    /// What the copy is made of.
    pub files: u64,
    /// What is compared, one by one.
    pub tables: u64,
    /// Nothing is copied: a standby is used up.
    pub has_standby: bool,
}

impl Prediction {
    /// Keeps what can be compared with a run: the stages that have steps.
    pub fn new(method: Method, stages: Vec<Stage>, facts: &Facts, has_standby: bool) -> Self {
        Self {
            at: Timestamp::now(),
            method,
            stages: stages.into_iter().filter(|stage| !stage.steps.is_empty()).collect(),
            amounts: Amounts {
                cluster_bytes: facts.cluster_bytes,
                table_bytes: facts.sum(|database| database.table_bytes),
                sample_bytes: if facts.target_major >= 18 { 0 } else { facts.sum(|database| database.sample_bytes) },
                objects: facts.sum(|database| database.objects()),
                files: facts.sum(|database| database.files),
                tables: facts.sum(|database| database.tables),
                has_standby,
            },
        }
    }

    /// Compares it with what steps took, by their names.
    pub fn against(&self, took: &[(String, f64)]) -> Vec<Compared> {
        let compare = |stage: &Stage| {
            let steps = took.iter().filter(|(name, _)| stage.steps.contains(name));
            let actual_s = steps.map(|(_, seconds)| *seconds).reduce(|a, b| a + b);
            Compared {
                stage: stage.name.clone(),
                foretold: stage.takes,
                held: actual_s.map(|seconds| stage.takes.holds(seconds)),
                actual_s,
            }
        };
        self.stages.iter().map(compare).collect()
    }

    /// Returns the speeds that a run shows; none of what was too little to tell.
    pub fn measured(&self, upgrade_id: &str, took: &[(String, f64)]) -> Measured {
        let of = |name: &str| self.against(took).into_iter().find(|c| c.stage == name).and_then(|c| c.actual_s);
        let Amounts { cluster_bytes, table_bytes, sample_bytes, objects, files, tables, has_standby } = self.amounts;
        // many small pieces show what each takes, few large ones how fast bytes go
        let is_small = |bytes: u64, pieces: u64| pieces >= MANY && bytes / pieces < SMALL_BYTES;
        let rate = |name: &str, bytes: u64, pieces: u64| {
            let seconds = of(name)?;
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            (bytes >= LEAST_BYTES && seconds >= LEAST_S && !is_small(bytes, pieces)).then(|| bytes as f64 / seconds)
        };
        let piece = |name: &str, bytes: u64, pieces: u64| {
            #[expect(clippy::cast_precision_loss, reason = "an average")]
            of(name).filter(|_| is_small(bytes, pieces)).map(|seconds| seconds / pieces as f64)
        };
        #[expect(clippy::cast_precision_loss, reason = "an average")]
        let each = |seconds: f64| (seconds - 4.0).max(0.0) / objects as f64;
        Measured {
            at: Timestamp::now(),
            upgrade_id: upgrade_id.to_owned(),
            copy_bytes_per_s: if has_standby { None } else { rate("copy", cluster_bytes, files) },
            copy_file_s: if has_standby { None } else { piece("copy", cluster_bytes, files) },
            analyze_bytes_per_s: rate("analyze", sample_bytes, tables),
            verify_bytes_per_s: rate("compare", table_bytes, tables),
            verify_table_s: piece("compare", table_bytes, tables),
            // many objects tell what each takes, few tell what none would
            upgrade_base_s: of("upgrade").filter(|_| objects < MANY),
            upgrade_object_s: of("upgrade").filter(|_| objects >= MANY).map(each),
        }
    }
}

/// A stage, foretold and as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Its name.
    pub stage: String,
    /// What was foretold.
    pub foretold: Interval,
    /// What it took; none if it was not reached.
    pub actual_s: Option<f64>,
    /// Whether the one holds the other.
    pub held: Option<bool>,
}

/// Speeds that an upgrade showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// When.
    pub at: Timestamp,
    /// Which upgrade.
    pub upgrade_id: String,
    /// Of the base backup.
    pub copy_bytes_per_s: Option<f64>,
    /// Of the base backup for each file, where there are many small ones.
    #[serde(default)]
    pub copy_file_s: Option<f64>,
    /// Of ANALYZE.
    pub analyze_bytes_per_s: Option<f64>,
    /// Of the comparison.
    pub verify_bytes_per_s: Option<f64>,
    /// Of the comparison for each table, where there are many small ones.
    #[serde(default)]
    pub verify_table_s: Option<f64>,
    /// Of pg_upgrade and what is around it, where there are few objects.
    pub upgrade_base_s: Option<f64>,
    /// Of pg_upgrade for each object, where there are many.
    pub upgrade_object_s: Option<f64>,
}

/// Less than this, in less time, shows what it takes to begin, and not how fast it goes.
const LEAST_BYTES: u64 = 256 << 20;
const LEAST_S: f64 = 1.0;
/// From so many on it is their number that decides.
const MANY: u64 = 2000;
/// Below this what is done for a piece takes longer than its bytes.
const SMALL_BYTES: u64 = 1 << 20;
/// The newest so many upgrades count: disks are exchanged.
const NEWEST: usize = 10;

/// Reads a history; what cannot be read is passed over.
pub fn read(path: &Path) -> Vec<Measured> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().rev().take(NEWEST).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Adds an upgrade to a history.
///
/// # Errors
/// If the file cannot be written.
pub fn append(path: &Path, measured: &Measured) -> io::Result<()> {
    let mut line = serde_json::to_string(measured)?;
    line.push('\n');
    OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

impl Rates {
    /// Returns rates in which what was measured takes the place of what is assumed, a quarter either way.
    #[must_use]
    pub fn sharpened(mut self, history: &[Measured]) -> Self {
        let sharpen = |bounds: &mut Bounds, of: fn(&Measured) -> Option<f64>| {
            let values: Vec<f64> = history.iter().filter_map(of).filter(|value| *value > 0.0).collect();
            let Some(least) = values.iter().copied().reduce(f64::min) else { return };
            let most = values.iter().copied().fold(least, f64::max);
            let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
            *bounds = Bounds { low: least * 0.75, high: most * 1.25, from: From::Measured(count), unit: bounds.unit };
        };
        sharpen(&mut self.copy, |m| m.copy_bytes_per_s);
        sharpen(&mut self.copy_file, |m| m.copy_file_s);
        sharpen(&mut self.verify_table, |m| m.verify_table_s);
        sharpen(&mut self.analyze, |m| m.analyze_bytes_per_s);
        sharpen(&mut self.verify, |m| m.verify_bytes_per_s);
        sharpen(&mut self.upgrade_base, |m| m.upgrade_base_s);
        sharpen(&mut self.upgrade_object, |m| m.upgrade_object_s);
        debug_assert_eq!(self.copy.unit, Unit::BytesPerSecond);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::tests::ordinary;

    fn prediction() -> Prediction {
        let stage = |name: &str, low: f64, high: f64, steps: &[&str]| Stage {
            name: name.into(),
            takes: Interval::new(low, high),
            basis: String::new(),
            steps: steps.iter().map(|step| (*step).to_owned()).collect(),
            waiting: false,
        };
        let stages = vec![
            stage("copy", 10.0, 100.0, &["provision.base_backup"]),
            stage("upgrade", 1.0, 20.0, &["provision.init_target", "provision.upgrade_copy"]),
            stage("compare", 1.0, 2.0, &["verify.compare_tables"]),
            stage("follow", 5.0, 5.0, &[]),
        ];
        Prediction::new(Method::CloneLogical, stages, &ordinary(), false)
    }

    fn took(steps: &[(&str, f64)]) -> Vec<(String, f64)> {
        steps.iter().map(|(name, seconds)| ((*name).to_owned(), *seconds)).collect()
    }

    #[test]
    fn stages_are_compared_with_all_of_their_steps_and_those_not_reached_are_not_judged() {
        let compared = prediction().against(&took(&[
            ("provision.base_backup", 200.0),
            ("provision.init_target", 1.5),
            ("provision.upgrade_copy", 4.0),
        ]));
        let seen: Vec<_> = compared.iter().map(|c| (c.stage.as_str(), c.actual_s, c.held)).collect();
        assert_eq!(
            seen,
            [("copy", Some(200.0), Some(false)), ("upgrade", Some(5.5), Some(true)), ("compare", None, None)],
            "following is nobody's step"
        );
    }

    #[test]
    fn measured_speeds_take_the_place_of_what_is_assumed() {
        let bytes = 107_374_182_400.0;
        let steps = took(&[("provision.base_backup", 1000.0), ("provision.upgrade_copy", 6.0)]);
        let first = prediction().measured("7f3a", &steps);
        assert_eq!((first.copy_bytes_per_s, first.verify_bytes_per_s), (Some(bytes / 1000.0), None));
        assert_eq!((first.upgrade_base_s, first.upgrade_object_s), (None, Some(2.0 / 2180.0)), "{first:?}");
        let second = Measured { copy_bytes_per_s: Some(bytes / 500.0), ..first.clone() };
        let rates = Rates::default().sharpened(&[first, second]);
        assert_eq!((rates.copy.low, rates.copy.high), (bytes / 1000.0 * 0.75, bytes / 500.0 * 1.25));
        assert_eq!(rates.copy.from, From::Measured(2));
        assert_eq!(rates.verify, Rates::default().verify, "nothing was measured of it");
    }

    #[test]
    fn what_was_too_little_to_tell_is_no_measurement() {
        let mut small = prediction();
        small.amounts.cluster_bytes = 1 << 20;
        assert_eq!(small.measured("7f3a", &took(&[("provision.base_backup", 9.0)])).copy_bytes_per_s, None);
        small.amounts.cluster_bytes = 1 << 40;
        assert_eq!(small.measured("7f3a", &took(&[("provision.base_backup", 0.5)])).copy_bytes_per_s, None);
    }

    #[test]
    fn many_small_pieces_show_what_each_takes_and_not_how_fast_bytes_go() {
        let mut pieces = prediction();
        pieces.amounts = Amounts { cluster_bytes: 512 << 20, files: 18_000, ..pieces.amounts };
        let measured = pieces.measured("7f3a", &took(&[("provision.base_backup", 72.0)]));
        assert_eq!((measured.copy_bytes_per_s, measured.copy_file_s), (None, Some(0.004)));
        let rates = Rates::default().sharpened(&[measured]);
        assert_eq!((rates.copy_file.low, rates.copy), (0.003, Rates::default().copy));
    }

    #[test]
    fn history_is_read_as_it_was_written_and_what_is_damaged_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        assert_eq!(read(&path), []);
        let one = prediction().measured("7f3a", &took(&[("provision.base_backup", 1000.0)]));
        append(&path, &one).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{half\n").unwrap();
        append(&path, &one).unwrap();
        assert_eq!(read(&path), [one.clone(), one]);
    }
}
