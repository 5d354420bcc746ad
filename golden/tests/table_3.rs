//! Table 3 at scale smoke, and its parameter counts at the paper's scale.

mod suite;

use cli::Experiment;
use lm_scaling::{Row, Table};
use report::paper::{Grade, item};
use report::plan::Plan;

golden_item!(Table::three());

/// Every count of `paper/table-3.csv`, printed or inferred by us, to the digits that it has there: no parameter is
/// allocated.
#[test]
fn counts_are_those_listed() {
    let item = item("table-3").unwrap();
    let mut seen = 0;
    for row in Plan::parse(Table::three().plan()).unwrap().resolve("paper", None).unwrap() {
        let Some(number) = item.number(&row.id, "params") else { continue };
        let model = cli::parse::<Row>(&row.config).unwrap().model;
        let millions = model.parameter_count().unwrap() as f64 / 1e6;
        assert_eq!(format!("{millions:.*}", number.decimals()), number.text, "{} ({:?})", row.id, number.grade);
        seen += usize::from(number.grade != Grade::U);
    }
    assert_eq!(seen, 25);
}

/// Rows differ in convolutions and QK-norm alone.
#[test]
fn an_ablation_changes_nothing_else() {
    for scale in ["smoke", "small", "paper"] {
        let rows = Plan::parse(Table::three().plan()).unwrap().resolve(scale, None).unwrap();
        let rows: Vec<Row> = rows.iter().map(|row| cli::parse(&row.config).unwrap()).collect();
        assert_eq!(rows.len(), item("table-3").unwrap().rows().count());
        for row in &rows {
            let mut first = rows[0].clone();
            (first.model.conv, first.model.qk_norm) = (row.model.conv.clone(), row.model.qk_norm);
            assert_eq!(first, *row);
        }
    }
}
