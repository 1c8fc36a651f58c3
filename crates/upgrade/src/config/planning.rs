//! `[plan]`: what a plan is made for. None of it changes what the engine does.

use std::{path::PathBuf, time::Duration};

use super::reader::Reader;
use crate::plan::Method;

/// `[plan]`: what a plan is made for. None of it changes what the engine does.
#[derive(Debug, Clone, PartialEq)]
pub struct Planning {
    /// The method to plan for, instead of the recommended one.
    pub method: Option<Method>,
    /// The longest that clients may be without writes.
    pub tolerates: Duration,
    /// Whether going back must keep the writes made after the switchover; preferred if nothing is said.
    pub way_back: Option<bool>,
    /// Each step must be one that can be held and looked at.
    pub control: bool,
    /// The source is an Aurora Global Database.
    pub global_database: bool,
    /// Storage is to be encrypted, or no longer.
    pub change_encryption: bool,
    /// How long the target follows before writes are moved.
    pub follow: Duration,
    /// How long the way back is kept afterwards.
    pub soak: Duration,
    /// How fast the source is copied, in bytes per second, if that is known.
    pub copy_rate: Option<u64>,
    /// A price table, instead of the bundled one.
    pub prices: Option<PathBuf>,
    /// The class of an instance, as the price table calls it.
    pub instance: Option<String>,
    /// How many of them the source has.
    pub source_instances: u32,
    /// How many of them the target has.
    pub target_instances: u32,
    /// Where what upgrades took is kept; `history.jsonl` in the state directory without it.
    pub history: Option<PathBuf>,
}

impl Default for Planning {
    fn default() -> Self {
        Self {
            method: None,
            tolerates: Duration::from_secs(60),
            way_back: None,
            control: false,
            global_database: false,
            change_encryption: false,
            follow: Duration::from_secs(2 * 86_400),
            soak: Duration::from_secs(7 * 86_400),
            copy_rate: None,
            prices: None,
            instance: None,
            source_instances: 1,
            target_instances: 1,
            history: None,
        }
    }
}

impl Planning {
    pub(super) fn read(plan: &mut Reader) -> Self {
        let none = Self::default();
        let methods = Method::ALL.map(|method| (method.name(), Some(method)));
        Self {
            method: plan.choice("method", None, &methods),
            tolerates: plan.duration("tolerates", "60s", "50ms", "7d"),
            way_back: plan.flag("way_back"),
            control: plan.flag("control").unwrap_or(none.control),
            global_database: plan.flag("global_database").unwrap_or(none.global_database),
            change_encryption: plan.flag("change_encryption").unwrap_or(none.change_encryption),
            follow: plan.duration("follow", "2d", "0s", "90d"),
            soak: plan.duration("soak", "7d", "0s", "90d"),
            copy_rate: plan.optional_bytes("copy_rate").filter(|rate| *rate > 0),
            prices: plan.path("prices"),
            instance: plan.text("instance"),
            source_instances: plan.count("source_instances", none.source_instances, 1, 1000),
            target_instances: plan.count("target_instances", none.target_instances, 1, 1000),
            history: plan.path("history"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> (Planning, Vec<String>) {
        let mut reader = Reader::new("plan", text.parse().unwrap(), Path::new("/base"));
        let planning = Planning::read(&mut reader);
        (planning, reader.finish())
    }

    #[test]
    fn config_reads_what_a_plan_is_made_for() {
        assert_eq!(read(""), (Planning::default(), Vec::new()), "two places say the same defaults");
        let text =
            "method = \"logical_copy\"\nway_back = true\nsoak = \"3d\"\ncopy_rate = \"200MiB\"\nprices = \"p.toml\"";
        let (read, problems) = read(text);
        assert_eq!(problems, [""; 0]);
        assert_eq!((read.method, read.way_back), (Some(Method::LogicalCopy), Some(true)));
        assert_eq!((read.soak, read.copy_rate), (Duration::from_secs(3 * 86_400), Some(200 << 20)));
        assert_eq!(read.prices.as_deref(), Some(Path::new("/base/p.toml")));
    }

    #[test]
    fn config_reports_every_mistake_in_what_a_plan_is_made_for() {
        let problems = read("method = \"magic\"\ncontrol = \"yes\"\ncopy_rate = \"fast\"\nsoek = \"1d\"").1.join("\n");
        for key in ["`plan.method`", "`plan.control` must be true or false", "`plan.copy_rate`", "did you mean `soak`"]
        {
            assert!(problems.contains(key), "{key} in {problems}");
        }
    }
}
