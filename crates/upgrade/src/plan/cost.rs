//! What an upgrade costs beside what is paid anyway: instances, storage, I/O; and what a host of one's own must have room for.
//!
//! Prices come from a table that the operator can supply; nobody is asked here. What is priced is the extra: production is paid
//! whether it is upgraded or not.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    facts::{Engine, Facts},
    methods::{Method, Storage},
    time::{Interval, Stage, size, total},
};
use crate::config::Planning;

const BUNDLED: &str = include_str!("prices.toml");
const HOURS_IN_A_MONTH: f64 = 730.0;
const GIB: f64 = 1_073_741_824.0;
const MILLION: f64 = 1e6;

/// A price table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// What it is.
    pub name: String,
    /// When it was written.
    pub date: String,
    /// Of every amount.
    pub currency: String,
    /// Aurora's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aurora: Option<Tariff>,
    /// RDS's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rds: Option<Tariff>,
    /// Those of hosts of one's own, or of another provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Tariff>,
}

/// The prices of one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tariff {
    /// A GiB for a month.
    pub storage_gb_month: f64,
    /// A million requests.
    #[serde(default)]
    pub io_million: f64,
    /// An hour of an instance, by its class.
    pub instance_hour: BTreeMap<String, f64>,
}

/// Why a price table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// It cannot be read.
    #[error("the price table `{path}` cannot be read")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not a price table.
    #[error("`{path}` is not a price table: {why}")]
    Form {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

impl Prices {
    /// Returns the table that comes with the program.
    pub fn bundled() -> Self {
        // a test reads it: it cannot fail in the field
        toml::from_str(BUNDLED).unwrap_or(Self {
            name: "none".into(),
            date: String::new(),
            currency: String::new(),
            aurora: None,
            rds: None,
            own: None,
        })
    }

    /// Reads a table of the operator's.
    ///
    /// # Errors
    /// [`PricesError`].
    pub fn load(path: &Path) -> Result<Self, PricesError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| PricesError::Read { path: shown.clone(), source })?;
        toml::from_str(&text).map_err(|error| PricesError::Form { path: shown, why: error.message().to_owned() })
    }

    fn of(&self, engine: Engine) -> Option<&Tariff> {
        match engine {
            Engine::Aurora => self.aurora.as_ref(),
            Engine::Rds => self.rds.as_ref(),
            Engine::SelfManaged | Engine::OtherManaged => self.own.as_ref(),
        }
    }
}

/// A line of the bill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// What for.
    pub what: String,
    /// How much of it, in words.
    pub quantity: String,
    /// At least; none if there is no price.
    pub low: Option<f64>,
    /// At most.
    pub high: Option<f64>,
}

/// What a method costs beside what is paid anyway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Of the amounts; none if nothing has a price.
    pub currency: Option<String>,
    /// The price table, and its date.
    pub table: Option<String>,
    /// Line by line.
    pub lines: Vec<Line>,
    /// At least, of what has a price.
    pub low: Option<f64>,
    /// At most.
    pub high: Option<f64>,
    /// What disk and host must have room for.
    pub needs: Vec<String>,
}

#[expect(clippy::cast_precision_loss, reason = "estimates")]
fn float(n: u64) -> f64 {
    n as f64
}

/// Returns what a method costs and needs, by its stages.
pub fn cost(method: Method, facts: &Facts, wishes: &Planning, stages: &[Stage], prices: &Prices) -> Cost {
    let hours = |interval: Interval| (interval.low_s / 3600.0, interval.high_s.unwrap_or(interval.low_s) / 3600.0);
    let (wal_low, wal_high) = facts.wal.range().unwrap_or_default();
    let (low_h, high_h) = hours(total(stages));
    let bytes = float(facts.cluster_bytes);
    let storage = method.storage(facts.engine);
    // what is written on either side no longer is shared; no more than all of it, twice
    let grown = |rate: f64, hours: f64| (rate * hours * 3600.0).min(2.0 * bytes);
    let (grown_low, grown_high) = (grown(wal_low * 0.3, low_h), grown(wal_high, high_h));
    let caught_up = stages.iter().position(|stage| stage.name == "catch up").map_or(0, |at| at + 1);
    let keeps = total(&stages[..caught_up]);
    let (keeps_low, keeps_high) = hours(keeps);
    let kept = Interval { low_s: wal_low * keeps.low_s, high_s: keeps.high_s.map(|high| wal_high * high) };

    let tariff = prices.of(facts.engine);
    let mut lines = Vec::new();
    let priced = |what: &str, quantity: String, amount: Option<(f64, f64)>| Line {
        what: what.to_owned(),
        quantity,
        low: amount.map(|(low, _)| low),
        high: amount.map(|(_, high)| high),
    };
    if storage != Storage::None {
        lines.push(instances(facts.engine, wishes, stages, tariff));
        let month =
            |tariff: &Tariff, bytes: f64, hours: f64| bytes / GIB * tariff.storage_gb_month * hours / HOURS_IN_A_MONTH;
        let (what, quantity, of) = match storage {
            // it grows from nothing: half of the end's size, on average
            Storage::CopyOnWrite => (
                "copy-on-write growth",
                format!("{} to {} by the end", size(grown_low), size(grown_high)),
                (grown_low / 2.0, grown_high / 2.0),
            ),
            _ => (
                "a second copy",
                format!("{} and what is written meanwhile", size(bytes)),
                (bytes, bytes + grown_high / 2.0),
            ),
        };
        lines.push(priced(what, quantity, tariff.map(|t| (month(t, of.0, low_h), month(t, of.1, high_h)))));
        let kept_high = kept.high_s.unwrap_or(kept.low_s);
        let wal = tariff.map(|t| (month(t, kept.low_s, keeps_low), month(t, kept_high, keeps_high)));
        let quantity = match kept.high_s {
            Some(high) => format!("{} to {} until caught up", size(kept.low_s), size(high)),
            None => format!("{} or more, no end in sight", size(kept.low_s)),
        };
        lines.push(priced("WAL kept by slots", quantity, wal));
        if let Some(tariff) = tariff.filter(|tariff| tariff.io_million > 0.0) {
            // pages read by the comparison on both sides, and what the target writes of the source's WAL, 4 KiB at a time
            let reads = 2.0 * float(facts.sum(|d| d.table_bytes)) / 8192.0;
            let writes = |rate: f64, hours: f64| rate * hours * 3600.0 / 4096.0;
            let millions = |rate, hours| (reads + writes(rate, hours)) / MILLION;
            let (low, high) = (millions(wal_low, low_h), millions(wal_high, high_h));
            let amount = Some((low * tariff.io_million, high * tariff.io_million));
            lines.push(priced("I/O", format!("{low:.1} to {high:.1} million requests"), amount));
        }
    }
    let sum = |of: fn(&Line) -> Option<f64>| lines.iter().filter_map(of).reduce(|a, b| a + b);
    let (low, high) = (sum(|line| line.low), sum(|line| line.high));
    Cost {
        currency: low.map(|_| prices.currency.clone()),
        table: low.map(|_| format!("{}, {}", prices.name, prices.date)),
        needs: needs(method, facts, grown_high, kept.high_s),
        lines,
        low,
        high,
    }
}

/// The second cluster: the target until writes are moved, the old one afterwards.
fn instances(engine: Engine, wishes: &Planning, stages: &[Stage], tariff: Option<&Tariff>) -> Line {
    let switch = stages.iter().position(|stage| stage.name == "switch over").map_or(stages.len(), |at| at + 1);
    let (before, after) = (total(&stages[..switch]), total(&stages[switch..]));
    let price = wishes.instance.as_deref().and_then(|class| tariff?.instance_hour.get(class).copied());
    let (source, target) = (f64::from(wishes.source_instances), f64::from(wishes.target_instances));
    let hours = |b: f64, a: f64| (target * b + source * a) / 3600.0;
    let low = hours(before.low_s, after.low_s);
    let high = hours(before.high_s.unwrap_or(before.low_s), after.high_s.unwrap_or(after.low_s));
    let class = match (&wishes.instance, engine) {
        (Some(class), _) => class.clone(),
        (None, Engine::SelfManaged) => "of the host".to_owned(),
        (None, _) => "of an unknown class (`instance` under [plan])".to_owned(),
    };
    let hours = match (format!("{low:.0}"), format!("{high:.0}")) {
        (low, high) if low == high => high,
        (low, high) => format!("{low} to {high}"),
    };
    let quantity = format!("{hours} hours {class}");
    Line { what: "a second cluster".into(), quantity, low: price.map(|p| p * low), high: price.map(|p| p * high) }
}

/// What disk and host must have room for, where they are the operator's own.
fn needs(method: Method, facts: &Facts, grown: f64, kept: Option<f64>) -> Vec<String> {
    if facts.engine != Engine::SelfManaged {
        return Vec::new();
    }
    let bytes = float(facts.cluster_bytes);
    let free = |of: fn(&super::facts::Host) -> Option<u64>| match facts.host.as_ref().and_then(of) {
        Some(free) => format!("{} are free", size(float(free))),
        None => "what is free is not known".to_owned(),
    };
    let mut needs = Vec::new();
    if method == Method::InPlace {
        needs.push(format!("a backup of {} elsewhere: it is the only way back", size(bytes)));
        return needs;
    }
    needs.push(format!(
        "disk for the copy: {}, and up to {} that is written meanwhile; {}",
        size(bytes),
        size(grown.min(bytes)),
        free(|host| host.copy_free_bytes)
    ));
    let kept = kept.map_or("no end in sight, as the target may never catch up".to_owned(), |kept| {
        format!("up to {} until the target has caught up", size(kept))
    });
    needs.push(format!("disk for the source's WAL: {kept}; {}", free(|host| host.wal_free_bytes)));
    let memory =
        facts.host.and_then(|host| host.memory_bytes).map_or(String::new(), |m| format!(", {}", size(float(m))));
    let cores = facts.host.map_or("unknown".to_owned(), |host| host.cores.to_string());
    needs.push(format!("a host for two clusters until you finalize: the settings are carried over, so twice the memory ({cores} processors{memory} here)"));
    needs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::{
        facts::{Rate, Wal, tests::ordinary},
        rates::Rates,
        time::{Basis, stages},
    };

    const DAY: f64 = 24.0;

    #[test]
    fn bundled_table_is_read_and_says_of_when_it_is() {
        let prices = Prices::bundled();
        assert!(prices.date.starts_with("20") && prices.name.starts_with("bundled"), "{prices:?}");
        assert_eq!(prices.aurora.as_ref().map(|t| (t.storage_gb_month, t.io_million)), Some((0.10, 0.20)));
        assert!(prices.own.is_none(), "a host of one's own has no list price");
    }

    /// The founding document's example: 5 TB, three db.r6g.4xlarge, a clone of two, 8 days.
    ///
    /// Its arithmetic is right, its sum is not what the upgrade costs: production is counted in, storage is left out, the old
    /// cluster's week afterwards is left out, and "save $42,888" is what three instances cost in a year, saved by nobody.
    #[test]
    fn worked_example_of_the_founding_document_is_checked() {
        let hourly = 1.632;
        assert!((3.0 * hourly - 4.896_f64).abs() < 1e-9 && (2.0 * hourly - 3.264_f64).abs() < 1e-9);
        assert!((5120.0 * 0.10 - 512.0_f64).abs() < 1e-9 && (512.0 / 720.0 - 0.71_f64).abs() < 0.01);
        let theirs = (4.896 + 3.264) * DAY * 8.0;
        assert!((theirs - 1566.72_f64).abs() < 1e-6, "$1,567, of which production is 60 %");
        assert!((4.896 * DAY * 365.0 - 42_888.96_f64).abs() < 1e-6);
        // the other example: two clusters' price is called the extra of one
        assert!((3.264 * DAY * 14.0 - 1096.704_f64).abs() < 1e-6 && (1.632 * DAY * 14.0 - 548.352_f64).abs() < 1e-6);

        let text = "name = \"001\"\ndate = \"2025\"\ncurrency = \"USD\"\n[aurora]\nstorage_gb_month = 0.10\n\
                    io_million = 0.20\n[aurora.instance_hour]\n\"db.r6g.4xlarge\" = 1.632";
        let prices: Prices = toml::from_str(text).unwrap();
        let rate = Some(Rate { bytes_per_s: 1e6, over_s: 60.0 });
        let facts = Facts {
            engine: Engine::Aurora,
            cluster_bytes: 5 << 40,
            wal: Wal { window: rate, ..Wal::default() },
            ..ordinary()
        };
        let wishes = Planning {
            instance: Some("db.r6g.4xlarge".into()),
            source_instances: 3,
            target_instances: 2,
            ..Planning::default()
        };
        let waiting = |name: &str, days: f64| Stage {
            name: name.into(),
            takes: Interval::exactly(days * DAY * 3600.0),
            basis: String::new(),
            steps: Vec::new(),
            waiting: name != "copy",
        };
        let eight_days = [waiting("copy", 1.0), waiting("follow", 7.0), waiting("switch over", 0.0)];
        let cost = super::cost(Method::CloneLogical, &facts, &wishes, &eight_days, &prices);
        let clone = &cost.lines[0];
        assert!((clone.low.unwrap() - 3.264 * DAY * 8.0).abs() < 1e-6, "$626.69 is the clone: {clone:?}");
        let growth = &cost.lines[1];
        assert!(growth.high.unwrap() < 20.0, "a clone stores changes only: {growth:?}");
        // and the week in which the old cluster is kept costs more than the clone did
        let with_soak = [&eight_days[..], &[waiting("soak", 7.0)]].concat();
        let cost = super::cost(Method::CloneLogical, &facts, &wishes, &with_soak, &prices);
        let expected = 3.264 * DAY * 8.0 + 4.896 * DAY * 7.0;
        assert!((cost.lines[0].low.unwrap() - expected).abs() < 1e-6, "{:?}", cost.lines[0]);
        assert_eq!(cost.currency.as_deref(), Some("USD"));
    }

    /// 4.8 MiB/s until caught up after 0.1 + 0.3 + 1.0 + 2.0 h: 4.8 × 3.4 × 3600 = 58,752 MiB, or 57.4 GiB. The 56 h of the
    /// comparison keep nothing: what is applied meanwhile is let go.
    #[test]
    fn wal_is_kept_until_the_target_has_caught_up_and_not_while_rows_are_compared() {
        let wal = Wal { window: Some(Rate { bytes_per_s: 4.8 * 1024.0 * 1024.0, over_s: 60.0 }), ..Wal::default() };
        let stage = |name: &str, hours: f64| Stage {
            name: name.into(),
            takes: if hours.is_finite() { Interval::exactly(hours * 3600.0) } else { Interval::new(0.0, hours) },
            basis: String::new(),
            steps: Vec::new(),
            waiting: false,
        };
        let of = |engine: Engine, catch_up: f64| {
            let facts = Facts { engine, cluster_bytes: 5 << 40, wal, ..ordinary() };
            let parts = [("prepare", 0.1), ("copy", 0.3), ("upgrade", 1.0), ("catch up", catch_up), ("compare", 56.0)];
            let stages = parts.map(|(name, hours)| stage(name, hours));
            super::cost(Method::CloneLogical, &facts, &Planning::default(), &stages, &Prices::bundled())
        };
        let kept = |cost: &Cost| cost.lines.iter().find(|line| line.what == "WAL kept by slots").unwrap().clone();
        let aurora = kept(&of(Engine::Aurora, 2.0));
        assert_eq!(aurora.quantity, "57.4 GiB to 57.4 GiB until caught up");
        assert!((aurora.high.unwrap() - 57.375 * 0.10 * 3.4 / 730.0).abs() < 1e-6, "{aurora:?}");
        let own = of(Engine::SelfManaged, 2.0);
        assert!(own.needs[1].starts_with("disk for the source's WAL: up to 57.4 GiB until"), "{:?}", own.needs);
        let never = of(Engine::SelfManaged, f64::INFINITY);
        assert_eq!(kept(&never).quantity, "23.6 GiB or more, no end in sight");
        assert!(never.needs[1].contains("WAL: no end in sight, as"), "{:?}", never.needs);
    }

    #[test]
    fn host_of_ones_own_has_needs_instead_of_prices() {
        let (facts, wishes, rates) = (ordinary(), Planning::default(), Rates::default());
        let basis = Basis {
            facts: &facts,
            wishes: &wishes,
            rates: &rates,
            transfer: crate::config::Transfer::Auto,
            has_standby: false,
            verify_jobs: 1,
        };
        let stages = stages(Method::CloneLogical, basis);
        let cost = cost(Method::CloneLogical, &facts, &wishes, &stages, &Prices::bundled());
        assert_eq!((cost.low, cost.currency), (None, None));
        assert!(
            cost.needs[0].contains("100.0 GiB") && cost.needs[0].contains("400.0 GiB are free"),
            "{:?}",
            cost.needs
        );
        assert!(cost.lines.iter().all(|line| line.low.is_none()), "{:?}", cost.lines);
    }

    #[test]
    fn own_prices_give_a_host_of_ones_own_a_bill() {
        let text = "name = \"ours\"\ndate = \"2026\"\ncurrency = \"EUR\"\n[own]\nstorage_gb_month = 0.05\n\
                    [own.instance_hour]\nlarge = 2.0";
        let prices: Prices = toml::from_str(text).unwrap();
        let (facts, rates) = (ordinary(), Rates::default());
        let soak = Duration::from_secs(10 * 86_400);
        let wishes = Planning { instance: Some("large".into()), soak, ..Planning::default() };
        let basis = Basis {
            facts: &facts,
            wishes: &wishes,
            rates: &rates,
            transfer: crate::config::Transfer::Auto,
            has_standby: false,
            verify_jobs: 1,
        };
        let stages = stages(Method::CloneLogical, basis);
        let cost = cost(Method::CloneLogical, &facts, &wishes, &stages, &prices);
        assert!(cost.low.unwrap() >= 2.0 * 240.0, "ten days of soaking at least: {cost:?}");
        assert_eq!(cost.currency.as_deref(), Some("EUR"));
    }

    #[test]
    fn table_that_is_none_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prices.toml");
        assert!(matches!(Prices::load(&path), Err(PricesError::Read { .. })));
        std::fs::write(&path, "name = \"x\"\ncolour = 1").unwrap();
        let error = Prices::load(&path).unwrap_err().to_string();
        assert!(error.contains("prices.toml") && error.contains("colour"), "{error}");
    }
}
