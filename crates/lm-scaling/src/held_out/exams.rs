//! Test questions: which answer the model holds for the likeliest.
//!
//! An answer's score is `ln p(answer | end of text, context)`, summed over its tokens; context and answer are tokenized
//! apart, and of a context that is too long the end is kept. A question is solved if the right answer scores above every
//! other: a tie is a miss.

use std::collections::BTreeMap;
use std::path::Path;

use backend::{Backend, Tape};
use data::text::{Question, Tokenizer, held_out_file, questions};
use train::Result;

use super::likelihood::{Likelihood, Sequence, of_any_length};
use super::{HeldOut, start_token};
use crate::Error;

/// What is read off a file of questions.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// `blimp`: percent of the pairs whose good sentence is the likelier, the mean over the paradigms; and over those
    /// of each field.
    Pairs,
    /// `ppl_lambada`, the exponential of the mean score of the last words; `acc_lambada`, percent of them whose every
    /// token is the likeliest.
    LastWord,
    /// Percent solved by score, and by score per byte of the answer.
    Choices { acc: &'static str, acc_norm: &'static str },
}

const BLIMP: &str = "blimp";
const PPL_LAMBADA: &str = "ppl_lambada";
const ACC_LAMBADA: &str = "acc_lambada";

/// BLiMP's fields of grammar, and their metrics.
const FIELDS: [(&str, &str); 4] = [
    ("morphology", "blimp_morphology"),
    ("semantics", "blimp_semantics"),
    ("syntax", "blimp_syntax"),
    ("syntax_semantics", "blimp_syntax_semantics"),
];

const fn choices(acc: &'static str, acc_norm: &'static str) -> Reading {
    Reading::Choices { acc, acc_norm }
}

/// Files without their ending, and what is read off each.
const FILES: [(HeldOut, &str, Reading); 10] = [
    (HeldOut::Blimp, "blimp", Reading::Pairs),
    (HeldOut::Lambada, "lambada_openai_test", Reading::LastWord),
    (HeldOut::Choices, "arc_challenge_test", choices("acc_arc_challenge", "acc_norm_arc_challenge")),
    (HeldOut::Choices, "arc_easy_test", choices("acc_arc_easy", "acc_norm_arc_easy")),
    (HeldOut::Choices, "boolq_val", choices("acc_boolq", "acc_norm_boolq")),
    (HeldOut::Choices, "hellaswag_val", choices("acc_hellaswag", "acc_norm_hellaswag")),
    (HeldOut::Choices, "openbookqa_test", choices("acc_openbookqa", "acc_norm_openbookqa")),
    (HeldOut::Choices, "piqa_val", choices("acc_piqa", "acc_norm_piqa")),
    (HeldOut::Choices, "sciq_val", choices("acc_sciq", "acc_norm_sciq")),
    (HeldOut::Choices, "winogrande_val", choices("acc_winogrande", "acc_norm_winogrande")),
];

impl Reading {
    fn metrics(self) -> Vec<&'static str> {
        match self {
            Self::Pairs => std::iter::once(BLIMP).chain(FIELDS.map(|(_, metric)| metric)).collect(),
            Self::LastWord => vec![PPL_LAMBADA, ACC_LAMBADA],
            Self::Choices { acc, acc_norm } => vec![acc, acc_norm],
        }
    }
}

/// The metrics of a kind of questions.
pub(super) fn metrics(kind: HeldOut) -> Vec<&'static str> {
    FILES.iter().filter(|(of, ..)| *of == kind).flat_map(|(.., reading)| reading.metrics()).collect()
}

/// A file of questions, ready to be scored.
#[derive(Debug)]
pub(super) struct Exam {
    reading: Reading,
    questions: Vec<Question>,
    /// Of every answer of every question, in order.
    sequences: Vec<Sequence>,
}

/// The files of a kind that are in the folder, `sha256` of each, and why some are left out.
pub(super) fn load(
    kind: HeldOut,
    folder: &Path,
    tokenizer: &Tokenizer,
    context: usize,
    sha256: &mut dyn FnMut(String, String),
    left_out: &mut Vec<String>,
) -> crate::Result<Vec<Exam>> {
    let mut exams = Vec::new();
    for (_, stem, reading) in FILES.into_iter().filter(|(of, ..)| *of == kind) {
        let Some(path) = held_out_file(folder, stem, "jsonl") else {
            let (metrics, path) = (reading.metrics().join(", "), folder.join(stem).with_extension("jsonl.xz"));
            left_out.push(format!("without {}: there is no {}", metrics, path.display()));
            continue;
        };
        let read = questions(&path)?;
        sha256(format!("eval/{stem}.jsonl"), read.sha256);
        exams.push(Exam::new(reading, read.questions, tokenizer, context)?);
    }
    Ok(exams)
}

impl Exam {
    fn new(reading: Reading, questions: Vec<Question>, tokenizer: &Tokenizer, context: usize) -> crate::Result<Self> {
        let start = start_token(tokenizer)?;
        let answers = || questions.iter().flat_map(|question| &question.answers);
        let texts: Vec<&str> = answers().flat_map(|answer| [answer.context.as_str(), &answer.text]).collect();
        let mut sequences = Vec::new();
        for (answer, ids) in answers().zip(tokenizer.encode_all(&texts)?.chunks_exact(2)) {
            let scored = ids[1].len();
            if scored > context {
                let what = format!("{context}, but {:?} has {scored} tokens", answer.text);
                return Err(Error::Row { field: "data.context", what, remedy: "lengthen it, or leave out the probe" });
            }
            let (from, mut ids) = (1 + ids[0].len(), [&[start], &ids[0][..], &ids[1]].concat());
            let cut = ids.len().saturating_sub(context + 1);
            sequences.push(Sequence { ids: ids.split_off(cut), from: from - cut });
        }
        Ok(Self { reading, questions, sequences })
    }

    /// Scores the answers in passes of about `tokens` tokens.
    pub(super) fn score(
        &self,
        record: &dyn Fn(usize, usize) -> backend::Result<Tape>,
        backend: &mut dyn Backend,
        tokens: usize,
        context: usize,
    ) -> Result<Vec<(&'static str, f64)>> {
        Ok(self.read(&of_any_length(record, backend, &self.sequences, [tokens, context])?))
    }

    /// The metrics, given the likelihood of every answer.
    fn read(&self, scores: &[Likelihood]) -> Vec<(&'static str, f64)> {
        let mut rest = scores;
        let asked = self.questions.iter().map(|question| {
            let (these, others) = rest.split_at(question.answers.len());
            rest = others;
            (question, these)
        });
        match self.reading {
            Reading::Pairs => pairs(asked),
            Reading::LastWord => {
                let nats: f64 = scores.iter().map(|score| score.nats).sum();
                let greedy = scores.iter().filter(|score| score.greedy).count();
                let n = scores.len() as f64;
                vec![(PPL_LAMBADA, (nats / n).exp()), (ACC_LAMBADA, 100.0 * greedy as f64 / n)]
            }
            Reading::Choices { acc, acc_norm } => {
                let (mut solved, mut by_byte) = (0, 0);
                for (question, scores) in asked {
                    let bytes = |place: usize| question.answers[place].text.len() as f64;
                    solved += usize::from(best(question.gold, scores, |_| 1.0));
                    by_byte += usize::from(best(question.gold, scores, bytes));
                }
                let percent = |count: usize| 100.0 * count as f64 / self.questions.len() as f64;
                vec![(acc, percent(solved)), (acc_norm, percent(by_byte))]
            }
        }
    }
}

/// Whether the right answer's score over its `size` is above that of every other.
fn best(gold: usize, scores: &[Likelihood], size: impl Fn(usize) -> f64) -> bool {
    let nats = |place: usize| scores[place].nats / size(place);
    (0..scores.len()).all(|place| place == gold || nats(gold) < nats(place))
}

fn pairs<'a>(asked: impl Iterator<Item = (&'a Question, &'a [Likelihood])>) -> Vec<(&'static str, f64)> {
    let mut paradigms: BTreeMap<(&str, &str), [usize; 2]> = BTreeMap::new();
    for (question, scores) in asked {
        let [solved, all] = paradigms.entry((&question.field, &question.paradigm)).or_default();
        *solved += usize::from(best(question.gold, scores, |_| 1.0));
        *all += 1;
    }
    let percent = |of: &dyn Fn(&str) -> bool| {
        let shares =
            paradigms.iter().filter(|((field, _), _)| of(field)).map(|(_, [solved, all])| *solved as f64 / *all as f64);
        let shares: Vec<f64> = shares.collect();
        (!shares.is_empty()).then(|| 100.0 * shares.iter().sum::<f64>() / shares.len() as f64)
    };
    let fields = FIELDS.iter().filter_map(|(name, metric)| Some((*metric, percent(&|field| field == *name)?)));
    percent(&|_| true).map(|mean| (BLIMP, mean)).into_iter().chain(fields).collect()
}
