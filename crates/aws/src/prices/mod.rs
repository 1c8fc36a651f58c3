//! AWS's price list for one Region, as a price table for a plan.
//!
//! Asked by the Price List Query API's `GetProducts`, which needs `pricing:GetProducts` and nothing else. What it answers is
//! the public on-demand price: discounts and contracts are not in it.

mod product;

use std::{collections::BTreeMap, time::Duration};

use aws_config::{BehaviorVersion, Region, timeout::TimeoutConfig};
use aws_sdk_pricing::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata},
    types::{Filter, FilterType},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use jiff::civil::Date;
use pgleap_upgrade::plan::{Prices, Tariff};

use product::Product;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The Region whose prices they are, such as `eu-central-1`.
    pub region: String,
    /// The instance classes, such as `db.r6g.4xlarge`; every class without one.
    pub classes: Vec<String>,
    /// The day to write on the table.
    pub today: Date,
}

/// Why there is no price table.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// The price list did not answer, or refused.
    #[error("AWS's price list cannot be asked: {why}")]
    Asked {
        /// What it said, or what kept it from being asked.
        why: String,
        /// Whether it is about who asks.
        credentials: bool,
    },
    /// It answered, and something that every table has is missing.
    #[error("AWS's price list has no {missing} in Region `{region}`")]
    Missing {
        /// What.
        missing: String,
        /// Where it was looked for.
        region: String,
    },
    /// It answered in a form that is not the documented one.
    #[error("AWS's price list answers in another form than documented: {0}")]
    Form(String),
    /// It did not end.
    #[error("AWS's price list has not answered within {} s", BUDGET.as_secs())]
    Slow,
}

const SERVICE: &str = "AmazonRDS";
/// The API is served in few Regions, and answers for all: <https://docs.aws.amazon.com/general/latest/gr/billing.html>.
const SERVED_IN: &str = "us-east-1";
const BUDGET: Duration = Duration::from_secs(120);
const EACH_BUDGET: Duration = Duration::from_secs(30);
const AURORA: &str = "Aurora PostgreSQL";
const RDS: &str = "PostgreSQL";

/// Asks for the prices of Aurora and RDS for PostgreSQL, with the credentials that AWS's own tools would use.
///
/// # Errors
/// [`PricesError`].
pub async fn fetch(ask: &Ask) -> Result<Prices, PricesError> {
    tokio::time::timeout(BUDGET, asked(ask)).await.map_err(|_| PricesError::Slow)?
}

async fn asked(ask: &Ask) -> Result<Prices, PricesError> {
    let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(SERVED_IN))
        .http_client(http)
        .timeout_config(TimeoutConfig::builder().operation_timeout(EACH_BUDGET).build())
        .load()
        .await;
    let client = Client::new(&config);
    let instances = async |engine: &str| -> Result<Vec<Product>, PricesError> {
        let of = |class: Option<&str>| {
            let mut fields = vec![
                ("productFamily", "Database Instance".to_owned()),
                ("databaseEngine", engine.to_owned()),
                ("deploymentOption", "Single-AZ".to_owned()),
            ];
            fields.extend(class.map(|class| ("instanceType", class.to_owned())));
            fields
        };
        let mut found = Vec::new();
        match ask.classes.as_slice() {
            [] => found.extend(products(&client, &ask.region, of(None)).await?),
            classes => {
                for class in classes {
                    found.extend(products(&client, &ask.region, of(Some(class))).await?);
                }
            }
        }
        Ok(found)
    };
    let (aurora, rds) = (instances(AURORA).await?, instances(RDS).await?);
    let family = |name: &str| vec![("productFamily", name.to_owned())];
    let storage = products(&client, &ask.region, family("Database Storage")).await?;
    let operations = products(&client, &ask.region, family("System Operation")).await?;
    table(ask, &aurora, &rds, &[storage, operations].concat())
}

async fn products(client: &Client, region: &str, fields: Vec<(&str, String)>) -> Result<Vec<Product>, PricesError> {
    let fields = [("regionCode", region.to_owned())].into_iter().chain(fields);
    let filters: Vec<_> = fields
        .map(|(field, value)| Filter::builder().r#type(FilterType::TermMatch).field(field).value(value).build())
        .collect::<Result<_, _>>()
        .map_err(|error| PricesError::Form(error.to_string()))?;
    let mut pages =
        client.get_products().service_code(SERVICE).set_filters(Some(filters)).into_paginator().items().send();
    let mut found = Vec::new();
    while let Some(text) = pages.next().await {
        let text = text.map_err(|error| {
            let refused = error.code().is_some_and(|code| {
                ["AccessDenied", "Unrecognized", "Signature", "Token", "Credentials"]
                    .iter()
                    .any(|word| code.contains(word))
            });
            let chain = DisplayErrorContext(&error).to_string();
            let why = match (error.message(), error.code()) {
                (Some(message), Some(code)) => format!("{message} ({code})"),
                _ => first(&chain),
            };
            PricesError::Asked { credentials: refused || chain.contains("credentials"), why }
        })?;
        found.push(Product::read(&text)?);
    }
    Ok(found)
}

/// The SDK's chain of causes, without its own state at the end.
fn first(why: &str) -> String {
    why.split(" (").next().unwrap_or(why).to_owned()
}

/// Builds the table out of what was answered.
fn table(ask: &Ask, aurora: &[Product], rds: &[Product], other: &[Product]) -> Result<Prices, PricesError> {
    let missing = |missing: &str| PricesError::Missing { missing: missing.to_owned(), region: ask.region.clone() };
    let one = |what: &str, usage: &str, engine: &str, unit: &str| {
        let fits = |product: &&Product| product.is_of_usage(usage) && product.is_for(engine);
        other.iter().filter(fits).find_map(|product| product.price(unit)).ok_or_else(|| missing(what))
    };
    let hours = |products: &[Product], engine: &str| -> Result<BTreeMap<String, f64>, PricesError> {
        // the same class has a second price where I/O is included; the table has a price for I/O
        let plain = products.iter().filter(|product| product.is_plain_instance());
        let hours: BTreeMap<_, _> = plain.filter_map(|p| Some((p.class.clone()?, p.price("Hrs")?))).collect();
        for class in &ask.classes {
            if !hours.contains_key(class) {
                return Err(missing(&format!("`{class}` for {engine}")));
            }
        }
        if hours.is_empty() { Err(missing(&format!("instance for {engine}"))) } else { Ok(hours) }
    };
    Ok(Prices {
        name: format!("AWS's price list: on demand, {}", ask.region),
        date: ask.today.to_string(),
        currency: "USD".into(),
        aurora: Some(Tariff {
            storage_gb_month: one("storage for Aurora", "Aurora:StorageUsage", AURORA, "GB-Mo")?,
            io_million: one("I/O for Aurora", "Aurora:StorageIOUsage", AURORA, "IOs")? * 1e6,
            instance_hour: hours(aurora, "Aurora PostgreSQL")?,
        }),
        rds: Some(Tariff {
            storage_gb_month: one("gp3 storage for RDS", "RDS:GP3-Storage", RDS, "GB-Mo")?,
            io_million: 0.0,
            instance_hour: hours(rds, "RDS for PostgreSQL")?,
        }),
        own: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(classes: &[&str]) -> Ask {
        Ask {
            region: "eu-central-1".into(),
            classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            today: jiff::civil::date(2026, 11, 21),
        }
    }

    fn product(family: &str, engine: &str, usage: &str, class: Option<&str>, unit: &str, usd: &str) -> Product {
        let mut attributes = serde_json::json!({ "databaseEngine": engine, "usagetype": usage });
        if let Some(class) = class {
            attributes["instanceType"] = class.into();
        }
        let rate = serde_json::json!({ "unit": unit, "pricePerUnit": { "USD": usd }, "beginRange": "0" });
        let text = serde_json::json!({
            "serviceCode": "AmazonRDS",
            "product": { "productFamily": family, "sku": "S", "attributes": attributes },
            "terms": {
                "OnDemand": { "S.T": { "priceDimensions": { "S.T.R": rate } } },
                "Reserved": { "S.U": { "priceDimensions": { "S.U.R": { "unit": "Hrs", "pricePerUnit": { "USD": "0.01" } } } } },
            },
        });
        Product::read(&text.to_string()).unwrap()
    }

    fn instance(engine: &str, usage: &str, usd: &str) -> Product {
        // the use abbreviates what the class spells out
        let class = usage.split_once(':').unwrap().1.replace("xl", "xlarge");
        product("Database Instance", engine, usage, Some(&class), "Hrs", usd)
    }

    fn other() -> Vec<Product> {
        let storage =
            |engine: &str, usage: &str, usd: &str| product("Database Storage", engine, usage, None, "GB-Mo", usd);
        vec![
            storage("Any", "EUC1-Aurora:IO-OptimizedStorageUsage", "0.268"),
            storage("Any", "EUC1-Aurora:StorageUsage", "0.119"),
            storage("PostgreSQL", "EUC1-RDS:Multi-AZ-GP3-Storage", "0.274"),
            storage("MySQL", "EUC1-RDS:GP3-Storage", "9"),
            storage("PostgreSQL", "EUC1-RDS:GP3-Storage", "0.137"),
            product("System Operation", "Any", "EUC1-Aurora:StorageIOUsage", None, "IOs", "0.00000022"),
        ]
    }

    #[test]
    fn plain_prices_are_taken_and_neither_reserved_nor_io_optimized_ones() {
        let aurora = [
            instance("Aurora PostgreSQL", "EUC1-InstanceUsageIOOptimized:db.r6g.large", "0.407"),
            instance("Aurora PostgreSQL", "EUC1-InstanceUsage:db.r6g.large", "0.313"),
            instance("Aurora PostgreSQL", "EUC1-InstanceUsage:db.r6g.4xl", "2.504"),
        ];
        let rds = [instance("PostgreSQL", "EUC1-InstanceUsage:db.r6g.large", "0.27")];
        let prices = table(&ask(&["db.r6g.large"]), &aurora, &rds, &other()).unwrap();
        let tariff = prices.aurora.unwrap();
        let hours = [("db.r6g.large".to_owned(), 0.313), ("db.r6g.4xlarge".to_owned(), 2.504)];
        assert_eq!(tariff.instance_hour, hours.into());
        assert_eq!(tariff.storage_gb_month, 0.119);
        assert!((tariff.io_million - 0.22).abs() < 1e-9, "{}", tariff.io_million);
        let tariff = prices.rds.unwrap();
        assert_eq!((tariff.storage_gb_month, tariff.io_million), (0.137, 0.0));
        assert_eq!((prices.date.as_str(), prices.currency.as_str()), ("2026-11-21", "USD"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_region() {
        let rds = [instance("PostgreSQL", "InstanceUsage:db.r6g.large", "0.225")];
        let error = table(&ask(&[]), &[], &rds, &other()).unwrap_err().to_string();
        assert_eq!(error, "AWS's price list has no instance for Aurora PostgreSQL in Region `eu-central-1`");
        let aurora = [instance("Aurora PostgreSQL", "InstanceUsage:db.r6g.large", "0.26")];
        let error = table(&ask(&["db.r9x.tiny"]), &aurora, &rds, &other()).unwrap_err().to_string();
        assert!(error.contains("no `db.r9x.tiny` for Aurora PostgreSQL"), "{error}");
        let error = table(&ask(&[]), &aurora, &rds, &other()[..5]).unwrap_err().to_string();
        assert!(error.contains("no I/O for Aurora"), "{error}");
    }
}
