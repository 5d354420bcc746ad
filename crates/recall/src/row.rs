//! What a row of `figure-recall.toml` says, and the trainings it stands for.

use data::Task;
use model::Transformer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use train::TrainConfig;

use crate::{Error, Result};

/// A row: a task, a model and how it is trained.
///
/// In a file, `model` leaves out `vocab` and `max_len`: they are the task's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Row {
    /// The task.
    pub task: Task,
    /// The model.
    pub model: Transformer,
    /// Steps, batch, rates, evaluation.
    pub train: TrainConfig,
    /// What the row's accuracy is.
    pub score: Score,
    /// More than one training behind the row's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
}

/// What a row's accuracy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// Share of the labels predicted.
    #[default]
    Accuracy,
    /// Mean over answer tokens of the share of their labels predicted, as MAD reports.
    MacroAccuracy,
}

/// A protocol whose number is itself made of several trainings, as MAD's: the mean over variations of the task of
/// the best of several rates and decays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Learning rates to try; the row's own if empty.
    #[serde(default)]
    pub lr: Vec<f64>,
    /// Weight decays to try with each; the row's own if empty.
    #[serde(default)]
    pub weight_decay: Vec<f64>,
    /// Variations beside the row as it stands: partial rows laid over it.
    #[serde(default)]
    pub variations: Vec<Map<String, Value>>,
}

impl Grid {
    /// The settings to try on each variation, as partial rows.
    fn settings(&self) -> Vec<Value> {
        let axis = |name: &str, values: &[f64]| -> Vec<Map<String, Value>> {
            match values {
                [] => vec![Map::new()],
                some => some.iter().map(|&value| Map::from_iter([(name.to_string(), value.into())])).collect(),
            }
        };
        let decays = axis("weight_decay", &self.weight_decay);
        let pairs = axis("lr", &self.lr).into_iter().flat_map(|lr| {
            decays.iter().map(move |decay| lr.clone().into_iter().chain(decay.clone()).collect::<Map<_, _>>())
        });
        pairs.map(|train| json!({ "train": train })).collect()
    }
}

/// One training of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// What it changes, `task.vocab=32,train.lr=0.001`; empty for a row without a grid.
    pub name: String,
    /// The row with its changes, without a grid.
    pub row: Row,
}

/// A row as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    task: Task,
    model: Map<String, Value>,
    train: TrainConfig,
    #[serde(default)]
    score: Score,
    #[serde(default)]
    grid: Option<Grid>,
}

impl TryFrom<Written> for Row {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let Written { task, mut model, train, score, grid } = written;
        task.validate()?;
        for (field, value) in [("vocab", task.vocab()), ("max_len", task.len())] {
            match model.insert(field.into(), value.into()) {
                Some(given) if given != value => {
                    let what = format!("{given}, but the task has {value}");
                    let remedy = "leave it out, it is the task's";
                    return Err(Error::Row { field: format!("model.{field}"), what, remedy });
                }
                _ => {}
            }
        }
        let model = serde_json::from_value(Value::Object(model)).map_err(|e| Error::Row {
            field: "model".into(),
            what: e.to_string(),
            remedy: "see model::Transformer for its fields",
        })?;
        Ok(Self { task, model, train, score, grid })
    }
}

impl Row {
    /// Checks the row and every trial of its grid without training any.
    ///
    /// # Errors
    /// The first field that is out of range or does not fit.
    pub fn check(&self) -> Result<()> {
        for trial in self.trials()? {
            trial.row.train.check()?;
            trial.row.model.record(1, trial.row.task.len())?;
        }
        Ok(())
    }

    /// The trainings behind the row's number: variation by variation, the
    /// rates and decays of each one after the other.
    ///
    /// # Errors
    /// [`Error::Row`] if a change does not fit the row.
    pub fn trials(&self) -> Result<Vec<Trial>> {
        let row = Self { grid: None, ..self.clone() };
        let grid = self.grid.clone().unwrap_or_default();
        let variations = grid.variations.iter().map(|v| Value::Object(v.clone()));
        let mut trials = Vec::new();
        for variation in std::iter::once(json!({})).chain(variations) {
            for setting in grid.settings() {
                trials.push(row.with(&[&variation, &setting])?);
            }
        }
        Ok(trials)
    }

    /// The row with changes laid over it.
    fn with(&self, changes: &[&Value]) -> Result<Trial> {
        let refuse = |name: &str, e: serde_json::Error| Error::Row {
            field: format!("grid, {name}"),
            what: e.to_string(),
            remedy: "change fields that the row has",
        };
        let mut row = serde_json::to_value(self).map_err(|e| refuse("the row", e))?;
        for size in ["vocab", "max_len"] {
            row["model"].as_object_mut().and_then(|model| model.remove(size));
        }
        let mut names = Vec::new();
        for change in changes {
            overlay(&mut row, change, "", &mut names);
        }
        let name = names.join(",");
        let row = serde_json::from_value(row).map_err(|e| refuse(&name, e))?;
        Ok(Trial { name, row })
    }
}

/// Replaces the leaves of `base` that `change` has, and names them.
fn overlay(base: &mut Value, change: &Value, path: &str, names: &mut Vec<String>) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                overlay(base.entry(key.clone()).or_insert(Value::Null), value, &path, names);
            }
        }
        (base, change) => {
            names.push(format!("{path}={change}"));
            *base = change.clone();
        }
    }
}
