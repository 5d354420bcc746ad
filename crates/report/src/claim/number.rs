//! One row, or the quotient of two, against a number.

use super::SAME;
use super::judge::{Judge, Part, Verdict, held, width};
use super::stats::rank_interval;
use crate::paper::{Grade, Number};

impl Judge<'_> {
    fn paper(&self, row: &str) -> Result<(&Number, f64), Part> {
        let unknown = || (Verdict::Skip, format!("the paper's {} of {row} is unknown", self.metric.id));
        let number = self.item.number(row, &self.metric.id).ok_or_else(unknown)?;
        number.value.map(|value| (number, value)).ok_or_else(unknown)
    }

    fn column(&self, row: &str) -> Result<Vec<f64>, Part> {
        Ok(self.gather(&[row])?.into_values().map(|values| values[0]).collect())
    }

    pub(super) fn exact(&self, row: &str) -> Part {
        let tested = (|| {
            let (number, target) = self.paper(row)?;
            let half = 0.5 * 10f64.powi(-(number.decimals() as i32)) * (1.0 + 1e-9);
            let values = self.column(row)?;
            let worst = values.iter().copied().max_by(|a, b| (a - target).abs().total_cmp(&(b - target).abs()));
            let worst = worst.unwrap_or(f64::NAN);
            let printed = format!("{worst:.*}", number.decimals());
            let detail = format!("{row} {printed} against {}{}", number.text, inferred(number));
            Ok((held((worst - target).abs() <= half), detail))
        })();
        tested.unwrap_or_else(|part| part)
    }

    pub(super) fn near_paper(&self, row: &str, rel: Option<f64>, abs: Option<f64>) -> Part {
        match self.paper(row) {
            Err(part) => part,
            Ok((number, target)) => {
                let width = width(target, rel, abs);
                let (verdict, detail) = self.inside(row, Some(target - width), Some(target + width));
                (verdict, if verdict == Verdict::Skip { detail } else { detail + inferred(number) })
            }
        }
    }

    pub(super) fn limit(&self, row: &str, number: Option<f64>, paper: Option<&str>) -> Result<Option<f64>, Part> {
        match paper {
            None => Ok(number),
            Some(SAME) => self.paper(row).map(|(_, value)| Some(value)),
            Some(other) => self.paper(other).map(|(_, value)| Some(value)),
        }
    }

    /// The interval of one row's values inside [low, high], either end open.
    pub(super) fn inside(&self, row: &str, low: Option<f64>, high: Option<f64>) -> Part {
        match self.column(row) {
            Err(part) => part,
            Ok(values) => self.interval_inside(row, &values, low, high, &|v| self.show(v)),
        }
    }

    fn interval_inside(
        &self,
        name: &str,
        values: &[f64],
        low: Option<f64>,
        high: Option<f64>,
        show: &dyn Fn(f64) -> String,
    ) -> Part {
        let Some(interval) = rank_interval(values) else {
            return (Verdict::Skip, format!("not run: {name}"));
        };
        let holds = low.is_none_or(|low| interval.low >= low) && high.is_none_or(|high| interval.high <= high);
        let asked = match (low, high) {
            (Some(low), Some(high)) => format!("in {} to {}", show(low), show(high)),
            (Some(low), None) => format!(">= {}", show(low)),
            (None, Some(high)) => format!("<= {}", show(high)),
            (None, None) => "any value".into(),
        };
        let spread = match values.len() {
            1 => String::new(),
            n => format!(
                " [{}, {}] over {n} seeds ({:.0} % interval)",
                show(interval.low),
                show(interval.high),
                100.0 * interval.coverage
            ),
        };
        (held(holds), format!("{name} {}{spread}, asked {asked}", show(interval.median)))
    }

    pub(super) fn ratio(&self, of: &str, to: &str, rel: f64) -> Part {
        let tested = (|| {
            let pairs = self.gather(&[of, to])?;
            let target = self.paper(of)?.1 / self.paper(to)?.1;
            let quotients: Vec<f64> = pairs.values().map(|pair| pair[0] / pair[1]).collect();
            if quotients.iter().any(|q| !q.is_finite()) {
                return Err((Verdict::Off, format!("{of} / {to} is not finite")));
            }
            let width = rel * target.abs();
            let name = format!("{of} / {to}");
            let show = |v: f64| format!("{v:.4}");
            Ok(self.interval_inside(&name, &quotients, Some(target - width), Some(target + width), &show))
        })();
        tested.unwrap_or_else(|part| part)
    }
}

fn inferred(number: &Number) -> &'static str {
    if number.grade == Grade::I { " (inferred by us)" } else { "" }
}
