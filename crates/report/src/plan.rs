//! The plan of an item: `[base]`, `[scale.X]` and `[[row]] id, set`, resolved into one configuration per row.
//!
//! A row = base + scale + set, tables merged recursively, later values replacing earlier ones. Which keys exist is
//! the experiment's own typed struct to say (`deny_unknown_fields`); the plan's own keys are refused here. `seeds`, in
//! `[base]`, a scale or `set`, is the plan's: a count (5 is 0 to 4) or a list; it is taken out of the configuration.
//!
//! ```toml
//! [base]
//! seeds = 3
//! model = { width = 64 }
//! [scale.smoke]
//! steps = 300
//! [[row]]
//! id = "varkey.lowrank"
//! scales = ["smoke"]          # optional: everywhere without it
//! set = { model = { conv = { kind = "lowrank", rank = 15 } } }
//! ```

use crate::record::sha256;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A parsed plan.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    #[serde(default)]
    base: toml::Table,
    scale: BTreeMap<String, toml::Table>,
    #[serde(rename = "row")]
    rows: Vec<PlanRow>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanRow {
    id: String,
    scales: Option<Vec<String>>,
    #[serde(default)]
    set: toml::Table,
}

/// A resolved row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its id, a row of `paper/<item>.toml`.
    pub id: String,
    /// The seeds to run.
    pub seeds: Vec<u64>,
    /// The whole configuration, for the experiment's typed struct.
    pub config: toml::Table,
    /// [`config_hash`] of `config`.
    pub config_sha256: String,
}

/// Why a plan was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no plan.
    #[error("plan: {0}")]
    Parse(String),
    /// No such scale.
    #[error("there is no scale `{asked}`; the plan has {known}")]
    Scale {
        /// The scale asked for.
        asked: String,
        /// Those that exist.
        known: String,
    },
    /// No such row at that scale.
    #[error("there is no row `{asked}` at scale {scale}; the rows are {known}")]
    Row {
        /// The row asked for.
        asked: String,
        /// The scale.
        scale: String,
        /// Those that exist.
        known: String,
    },
    /// Two rows of one id at one scale.
    #[error("plan: row `{0}` stands twice at one scale; a sweep is rows with ids of their own")]
    Twice(String),
    /// `seeds` is missing or neither a count nor a list.
    #[error("plan: row `{row}` has seeds = {found}; write a count such as 5 or a list such as [0, 1, 7]")]
    Seeds {
        /// The row.
        row: String,
        /// What stands there.
        found: String,
    },
}

impl Plan {
    /// A plan from its toml text.
    pub fn parse(text: &str) -> Result<Plan, Error> {
        let plan: Plan = toml::from_str(text).map_err(|e| Error::Parse(e.to_string()))?;
        let mut seen = BTreeSet::new();
        for row in &plan.rows {
            for scale in row.scales.iter().flatten() {
                plan.scale(scale)?;
            }
            let here = |scale: &&String| row.scales.as_ref().is_none_or(|scales| scales.contains(scale));
            if plan.scale.keys().filter(here).any(|scale| !seen.insert((scale, &row.id))) {
                return Err(Error::Twice(row.id.clone()));
            }
        }
        Ok(plan)
    }

    /// The scales, in alphabetical order.
    pub fn scales(&self) -> impl Iterator<Item = &str> {
        self.scale.keys().map(String::as_str)
    }

    fn scale(&self, asked: &str) -> Result<&toml::Table, Error> {
        self.scale
            .get(asked)
            .ok_or_else(|| Error::Scale { asked: asked.into(), known: self.scales().collect::<Vec<_>>().join(", ") })
    }

    /// The rows at a scale, resolved, in the plan's order. `only` keeps those ids; an id that the scale lacks is
    /// refused.
    pub fn resolve(&self, scale: &str, only: Option<&[String]>) -> Result<Vec<Row>, Error> {
        let settings = self.scale(scale)?;
        let here: Vec<&PlanRow> = self
            .rows
            .iter()
            .filter(|row| row.scales.as_ref().is_none_or(|scales| scales.iter().any(|s| s == scale)))
            .collect();
        if let Some(asked) = only.into_iter().flatten().find(|id| !here.iter().any(|row| row.id == **id)) {
            let known = here.iter().map(|row| row.id.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::Row { asked: asked.clone(), scale: scale.into(), known });
        }
        let wanted = here.into_iter().filter(|row| only.is_none_or(|only| only.contains(&row.id)));
        wanted
            .map(|row| {
                let mut config = self.base.clone();
                merge(&mut config, settings);
                merge(&mut config, &row.set);
                let seeds = seeds(&row.id, config.remove("seeds"))?;
                let config_sha256 = config_hash(&config);
                Ok(Row { id: row.id.clone(), seeds, config, config_sha256 })
            })
            .collect()
    }
}

fn seeds(row: &str, value: Option<toml::Value>) -> Result<Vec<u64>, Error> {
    let refuse = |found: String| Error::Seeds { row: row.into(), found };
    let Some(value) = value else {
        return Err(refuse("nothing".into()));
    };
    let list = match &value {
        toml::Value::Integer(count) if *count > 0 => Some((0..*count as u64).collect::<Vec<_>>()),
        toml::Value::Array(list) => {
            list.iter().map(|seed| seed.as_integer().and_then(|seed| u64::try_from(seed).ok())).collect()
        }
        _ => None,
    };
    match list {
        Some(list) if !list.is_empty() && list.iter().collect::<BTreeSet<_>>().len() == list.len() => Ok(list),
        _ => Err(refuse(value.to_string())),
    }
}

/// Merges `over` into `under`: tables key by key, anything else replaced.
pub fn merge(under: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

/// SHA-256 of a configuration, independent of the order and spelling of its toml: keys sorted, as JSON.
pub fn config_hash(config: &toml::Table) -> String {
    sha256(canonical(&toml::Value::Table(config.clone())).as_bytes())
}

fn canonical(value: &toml::Value) -> String {
    match value {
        toml::Value::Table(table) => {
            let sorted: BTreeMap<&String, &toml::Value> = table.iter().collect();
            let fields = sorted.iter().map(|(key, value)| format!("{key:?}:{}", canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        toml::Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Float(value) => format!("{value:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
