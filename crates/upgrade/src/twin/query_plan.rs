//! A query plan, as far as two of them can be compared: its shape, cost, rows and indexes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A plan, read from `EXPLAIN (FORMAT JSON)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryPlan {
    /// What the planner thinks it costs, in its own unit.
    pub cost: f64,
    /// How many rows it thinks come out.
    pub rows: f64,
    /// A line for each node, indented by its depth: what it does, on what, by which index.
    pub shape: Vec<String>,
    /// The indexes it uses.
    pub indexes: BTreeSet<String>,
}

/// How a plan differs from what it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Other nodes, or in another order.
    pub shape: bool,
    /// The cost now, over the cost before.
    pub cost_factor: f64,
    /// The rows now, over the rows before.
    pub rows_factor: f64,
    /// Indexes that it used before and does not use now.
    pub left: Vec<String>,
}

impl QueryPlan {
    /// Reads it; none if that is no plan.
    pub fn read(explained: &Value) -> Option<Self> {
        let root = explained.get(0)?.get("Plan")?;
        let number = |key: &str| root.get(key).and_then(Value::as_f64);
        let mut plan =
            Self { cost: number("Total Cost")?, rows: rows(root), shape: Vec::new(), indexes: BTreeSet::new() };
        plan.walk(root, 0);
        Some(plan)
    }

    fn walk(&mut self, node: &Value, depth: usize) {
        let text = |key: &str| node.get(key).and_then(Value::as_str);
        let mut line = format!("{}{}", "  ".repeat(depth), text("Node Type").unwrap_or("?"));
        for key in ["Join Type", "Strategy", "Operation"] {
            // what is ordinary says nothing, and not every major says it
            if let Some(word) = text(key).filter(|word| !["Inner", "Plain"].contains(word)) {
                line.push_str(&format!(" ({word})"));
            }
        }
        if let Some(relation) = text("Relation Name") {
            line.push_str(&format!(" on {relation}"));
        }
        if let Some(index) = text("Index Name") {
            line.push_str(&format!(" by {index}"));
            self.indexes.insert(index.to_owned());
        }
        self.shape.push(line);
        for child in node.get("Plans").and_then(Value::as_array).into_iter().flatten() {
            self.walk(child, depth + 1);
        }
    }

    /// Returns how `now` differs; none if it has the same shape, and cost and rows within `factor` of these.
    pub fn against(&self, now: &Self, factor: f64) -> Option<Difference> {
        let ratio = |now: f64, before: f64| now.max(1.0) / before.max(1.0);
        let difference = Difference {
            shape: self.shape != now.shape,
            cost_factor: ratio(now.cost, self.cost),
            rows_factor: ratio(now.rows, self.rows),
            left: self.indexes.difference(&now.indexes).cloned().collect(),
        };
        let beyond = |ratio: f64| ratio > factor || ratio < 1.0 / factor;
        let differs = difference.shape || beyond(difference.cost_factor) || beyond(difference.rows_factor);
        differs.then_some(difference)
    }
}

/// What comes out of a node; of one that only changes rows, what goes into it.
fn rows(node: &Value) -> f64 {
    let of = |node: &Value| node.get("Plan Rows").and_then(Value::as_f64).unwrap_or(0.0);
    match node.get("Plans").and_then(|plans| plans.get(0)) {
        Some(child) if node.get("Node Type").is_some_and(|kind| kind == "ModifyTable") => of(child),
        _ => of(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(node: &str, index: Option<&str>, cost: f64, rows: f64) -> QueryPlan {
        let mut scan = serde_json::json!({
            "Node Type": node, "Relation Name": "t", "Total Cost": cost, "Plan Rows": rows });
        if let Some(index) = index {
            scan["Index Name"] = index.into();
        }
        let json = serde_json::json!([{ "Plan": {
            "Node Type": "Aggregate", "Strategy": "Plain", "Total Cost": cost, "Plan Rows": rows, "Plans": [scan] } }]);
        QueryPlan::read(&json).unwrap()
    }

    #[test]
    fn a_plan_is_read_with_its_nodes_and_indexes() {
        let plan = plan("Index Scan", Some("t_pkey"), 8.3, 1.0);
        assert_eq!(plan.shape, ["Aggregate", "  Index Scan on t by t_pkey"]);
        assert_eq!(plan.indexes.iter().collect::<Vec<_>>(), ["t_pkey"]);
        assert_eq!(QueryPlan::read(&serde_json::json!([])), None);
    }

    #[test]
    fn plans_differ_by_shape_or_by_more_than_a_factor() {
        let before = plan("Index Scan", Some("t_pkey"), 100.0, 10.0);
        assert_eq!(before.against(&plan("Index Scan", Some("t_pkey"), 190.0, 19.0), 2.0), None);
        let lost = before.against(&plan("Seq Scan", None, 1000.0, 10.0), 2.0).unwrap();
        assert!(lost.shape && lost.left == ["t_pkey"] && (lost.cost_factor - 10.0).abs() < 1e-9, "{lost:?}");
        let rows = before.against(&plan("Index Scan", Some("t_pkey"), 100.0, 1.0), 2.0).unwrap();
        assert!(!rows.shape && rows.rows_factor < 0.2, "{rows:?}");
        assert_eq!(plan("Seq Scan", None, 0.01, 0.0).against(&plan("Seq Scan", None, 0.2, 1.0), 2.0), None);
    }
}
