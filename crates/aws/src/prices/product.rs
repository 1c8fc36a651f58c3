//! One product of the price list, in the form of its offer files.
//!
//! <https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/bulk-api-reading-price-list-files.html>

use std::collections::BTreeMap;

use serde::Deserialize;

use super::PricesError;

#[derive(Deserialize)]
struct Text {
    product: TextProduct,
    #[serde(default)]
    terms: Terms,
}

#[derive(Deserialize)]
struct TextProduct {
    attributes: Attributes,
}

#[derive(Deserialize)]
struct Attributes {
    usagetype: String,
    #[serde(rename = "databaseEngine")]
    engine: Option<String>,
    #[serde(rename = "instanceType")]
    class: Option<String>,
}

#[derive(Deserialize, Default)]
struct Terms {
    #[serde(default, rename = "OnDemand")]
    on_demand: BTreeMap<String, Term>,
}

#[derive(Deserialize)]
struct Term {
    #[serde(rename = "priceDimensions")]
    dimensions: BTreeMap<String, Rate>,
}

#[derive(Deserialize, Clone)]
struct Rate {
    unit: String,
    #[serde(rename = "pricePerUnit")]
    per_unit: BTreeMap<String, String>,
}

/// What of a product is of interest: its use, and its on-demand price.
#[derive(Clone)]
pub(super) struct Product {
    usage: String,
    engine: Option<String>,
    /// Of an instance.
    pub class: Option<String>,
    rates: Vec<Rate>,
}

impl Product {
    /// Reads one entry of `PriceList`.
    pub fn read(text: &str) -> Result<Self, PricesError> {
        let Text { product, terms } =
            serde_json::from_str(text).map_err(|error| PricesError::Form(error.to_string()))?;
        let Attributes { usagetype, engine, class } = product.attributes;
        let rates = terms.on_demand.into_values().flat_map(|term| term.dimensions.into_values()).collect();
        Ok(Self { usage: usagetype, engine, class, rates })
    }

    /// Its use without the word that all Regions but the first put before it, as in `EUC1-RDS:GP3-Storage`.
    fn anywhere(&self) -> &str {
        match self.usage.split_once('-') {
            Some((region, rest)) if !region.contains(':') && rest.contains(':') => rest,
            _ => &self.usage,
        }
    }

    /// Whether it is this use in any Region.
    pub fn is_of_usage(&self, usage: &str) -> bool {
        self.anywhere() == usage
    }

    /// Whether it is for this engine, or for any.
    pub fn is_for(&self, engine: &str) -> bool {
        self.engine.as_deref().is_none_or(|of| of == engine || of == "Any")
    }

    /// Whether it is an instance whose I/O is charged apart. The use abbreviates sizes, as in `InstanceUsage:db.r6g.4xl`.
    pub fn is_plain_instance(&self) -> bool {
        self.class.is_some() && self.anywhere().starts_with("InstanceUsage:")
    }

    /// Returns its price for a `unit`, in US dollars.
    pub fn price(&self, unit: &str) -> Option<f64> {
        let rate = self.rates.iter().find(|rate| rate.unit == unit)?;
        rate.per_unit.get("USD")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_usage(usage: &str) -> Product {
        Product { usage: usage.into(), engine: None, class: None, rates: Vec::new() }
    }

    #[test]
    fn usage_is_told_whatever_region_stands_before_it() {
        for same in ["RDS:GP3-Storage", "EUC1-RDS:GP3-Storage", "USE2-RDS:GP3-Storage"] {
            assert!(of_usage(same).is_of_usage("RDS:GP3-Storage"), "{same}");
        }
        for other in ["RDS:Multi-AZ-GP3-Storage", "EUC1-RDS:Multi-AZ-GP3-Storage", "RDS:GP2-Storage"] {
            assert!(!of_usage(other).is_of_usage("RDS:GP3-Storage"), "{other}");
        }
    }

    #[test]
    fn another_form_is_refused() {
        assert!(matches!(Product::read("{\"product\": 1}"), Err(PricesError::Form(_))));
    }
}
