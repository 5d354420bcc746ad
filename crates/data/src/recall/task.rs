//! The enum of tasks: sizes, checks and random access to examples.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::stream::{member, stream};
use super::{
    CompositionalMqar, FuzzyRecall, InContextRecall, Memorization, Mqar, NoisyRecall, SelectiveCopying,
    SelectiveKeyMqar, VariableKeyMqar,
};
use crate::{Error, Example, IGNORE, Result, Split};

/// A recall task and its settings. In a config file the field `task` names the variant in kebab case and the settings
/// stand beside it; an unknown field is an error.
///
/// | task | source | labels |
/// |---|---|---|
/// | [`Mqar`], [`CompositionalMqar`] | Zoology | the queries |
/// | [`VariableKeyMqar`] | ours, after the paper's suite of that name | the queries |
/// | [`SelectiveKeyMqar`] | ours | the queries |
/// | [`InContextRecall`], [`NoisyRecall`], [`FuzzyRecall`] | MAD | all tokens in training, answers in test |
/// | [`SelectiveCopying`], [`Memorization`] | MAD | the answers |
///
/// Zoology: Arora et al. 2023, arXiv 2312.04927, github.com/HazyResearch/zoology at d88d6f5. MAD: Poli et al. 2024,
/// arXiv 2403.17844, github.com/athms/mad-lab at 0f49a45.
///
/// MAD trains its three in-context tasks on ALL next tokens, keys and padding included, and scores only answers that
/// the context determines. [`Split::Train`] and [`Split::Test`] examples of these three therefore differ in what
/// `targets` holds, not only in their tokens. The other tasks label the same positions in both.
///
/// MAD's compression task is left out: it trains an autoencoder through the last position, not a sequence model.
///
/// # Finite training sets
/// With `train_examples = n`, training index i means member `perm_e(i mod n)` of a fixed set of n examples, where
/// `e = i / n` is the epoch and `perm_e` a pseudorandom permutation drawn from (seed, e): endless shuffled epochs with
/// random access. Without it every index is a new example. Test indices are never folded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant is documented on the config that it holds")]
pub enum Task {
    Mqar(Mqar),
    VariableKeyMqar(VariableKeyMqar),
    SelectiveKeyMqar(SelectiveKeyMqar),
    CompositionalMqar(CompositionalMqar),
    InContextRecall(InContextRecall),
    NoisyRecall(NoisyRecall),
    FuzzyRecall(FuzzyRecall),
    SelectiveCopying(SelectiveCopying),
    Memorization(Memorization),
}

/// What a task's config provides.
pub(crate) trait Recall {
    /// The task's name in config files and errors.
    const NAME: &'static str;

    /// Tokens, as a sum that may not fit in 32 bits.
    fn vocab(&self) -> u64;

    /// Positions of an example.
    fn len(&self) -> u32;

    /// The size of the training set; endless if absent.
    fn train_examples(&self) -> Option<u64>;

    /// The checks beyond those that all tasks share.
    fn check(&self) -> Result<()>;

    /// Appends one example, drawn from `rng`. Only called on settings that passed the checks.
    fn write(&self, seed: u64, split: Split, rng: &mut ChaCha8Rng, out: &mut Example);
}

/// The methods of [`Recall`] that give settings all configs have, and `vocab` where that is one too.
macro_rules! settings {
    () => {
        fn len(&self) -> u32 {
            self.len
        }

        fn train_examples(&self) -> Option<u64> {
            self.train_examples
        }
    };
    (vocab) => {
        fn vocab(&self) -> u64 {
            self.vocab.into()
        }

        settings!();
    };
}
pub(crate) use settings;

/// `$body` with `$config` bound to the config inside `$task`.
macro_rules! with_config {
    ($task:expr, $config:ident => $body:expr) => {
        match $task {
            Task::Mqar($config) => $body,
            Task::VariableKeyMqar($config) => $body,
            Task::SelectiveKeyMqar($config) => $body,
            Task::CompositionalMqar($config) => $body,
            Task::InContextRecall($config) => $body,
            Task::NoisyRecall($config) => $body,
            Task::FuzzyRecall($config) => $body,
            Task::SelectiveCopying($config) => $body,
            Task::Memorization($config) => $body,
        }
    };
}

impl Task {
    /// The task's name, as in config files.
    pub fn name(&self) -> &'static str {
        with_config!(self, config => name(config))
    }

    /// Token ids are below this.
    pub fn vocab(&self) -> usize {
        with_config!(self, config => config.vocab() as usize)
    }

    /// Positions of an example.
    #[expect(clippy::len_without_is_empty, reason = "a valid task is never empty")]
    pub fn len(&self) -> usize {
        with_config!(self, config => config.len() as usize)
    }

    /// The size of the training set; endless if absent.
    pub fn train_examples(&self) -> Option<u64> {
        with_config!(self, config => config.train_examples())
    }

    /// Whether examples can be drawn with these settings.
    ///
    /// # Errors
    /// The first setting that is out of range, with the remedy.
    pub fn validate(&self) -> Result<()> {
        with_config!(self, config => validate(config))
    }

    /// The example of (`seed`, `split`, `index`), always the same; [`Task::len`] positions.
    ///
    /// # Errors
    /// As [`Task::validate`].
    pub fn example(&self, seed: u64, split: Split, index: u64) -> Result<Example> {
        self.batch(seed, split, index, 1)
    }

    /// The examples `start..start + count` one after the other: `count * len` positions.
    ///
    /// # Errors
    /// As [`Task::validate`].
    pub fn batch(&self, seed: u64, split: Split, start: u64, count: usize) -> Result<Example> {
        with_config!(self, config => batch(config, seed, split, start, count))
    }
}

fn name<T: Recall>(_: &T) -> &'static str {
    T::NAME
}

fn validate<T: Recall>(config: &T) -> Result<()> {
    let task = T::NAME;
    for (field, zero) in [("len", config.len() == 0), ("train_examples", config.train_examples() == Some(0))] {
        if zero {
            return Err(Error::Zero { task, field });
        }
    }
    if config.vocab() > u64::from(IGNORE) {
        return Err(Error::Vocabulary { task, vocab: config.vocab() });
    }
    config.check()
}

fn batch<T: Recall>(config: &T, seed: u64, split: Split, start: u64, count: usize) -> Result<Example> {
    validate(config)?;
    let positions = count.saturating_mul(config.len() as usize);
    let mut out = Example { ids: Vec::with_capacity(positions), targets: Vec::with_capacity(positions) };
    for offset in 0..count as u64 {
        let mut index = start.wrapping_add(offset);
        if let (Split::Train, Some(examples)) = (split, config.train_examples()) {
            index = member(seed, index, examples);
        }
        config.write(seed, split, &mut stream(seed, split.into(), index), &mut out);
    }
    Ok(out)
}
