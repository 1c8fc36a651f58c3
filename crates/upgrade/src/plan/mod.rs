//! What is decided before anything is touched: how the upgrade is done, how long it takes, what it costs.
//!
//! Facts are read once from the live cluster; everything else is a pure function of them, so that a plan can be made from
//! facts that were saved weeks ago, and tested without a server.

mod collect;
pub mod cost;
pub mod decide;
pub mod facts;
pub mod history;
pub mod methods;
pub mod rates;
pub mod settings;
pub mod time;

pub use collect::collect;
pub(crate) use collect::wal_averages;
pub use cost::{Cost, Prices, Tariff};
pub use decide::{Choice, Decision, Grounds, concerns, decide};
pub use facts::{Engine, Facts, Rate, Saved, SavedFinding, Wal};
pub use history::{Measured, Prediction};
pub use methods::Method;
pub use rates::Rates;
pub use time::{Basis, Interval, Stage};
