//! Shares of right predictions over the labelled positions.

use std::collections::BTreeMap;

use crate::{Error, IGNORE, Result};

/// Right predictions over labelled positions. `predictions[t]` answers `targets[t]`; ignored positions do not count.
///
/// # Errors
/// [`Error::Lengths`] if the slices differ in length, [`Error::Unlabelled`] if no position has a label.
pub fn accuracy(targets: &[u32], predictions: &[u32]) -> Result<f64> {
    let (mut right, mut labelled) = (0u64, 0u64);
    for (target, prediction) in labelled_pairs("accuracy", targets, predictions)? {
        right += u64::from(target == prediction);
        labelled += 1;
    }
    Ok(right as f64 / labelled as f64)
}

/// The mean over classes of the share of a class's labels that were predicted right: MAD's score.
///
/// As in torchmetrics' `MulticlassAccuracy(average="macro")`, which MAD uses, the mean runs over every class that
/// occurs among the labels or the predictions of labelled positions; one that is only predicted counts as 0.
///
/// # Errors
/// As [`accuracy`].
pub fn macro_accuracy(targets: &[u32], predictions: &[u32]) -> Result<f64> {
    // Class -> (right, labels).
    let mut classes: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for (target, prediction) in labelled_pairs("macro_accuracy", targets, predictions)? {
        let class = classes.entry(target).or_default();
        class.0 += u64::from(target == prediction);
        class.1 += 1;
        classes.entry(prediction).or_default();
    }
    let sum: f64 = classes.values().map(|&(right, labels)| right as f64 / labels.max(1) as f64).sum();
    Ok(sum / classes.len() as f64)
}

/// The (target, prediction) pairs of the labelled positions, of which there is at least one.
fn labelled_pairs<'a>(
    op: &'static str,
    targets: &'a [u32],
    predictions: &'a [u32],
) -> Result<impl Iterator<Item = (u32, u32)> + 'a> {
    if targets.len() != predictions.len() {
        return Err(Error::Lengths { op, targets: targets.len(), predictions: predictions.len() });
    }
    if targets.iter().all(|&target| target == IGNORE) {
        return Err(Error::Unlabelled { op, targets: targets.len() });
    }
    let pairs = targets.iter().copied().zip(predictions.iter().copied());
    Ok(pairs.filter(|&(target, _)| target != IGNORE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_positions_do_not_count() {
        assert_eq!(accuracy(&[1, IGNORE, 2, 3], &[1, 7, 2, 4]), Ok(2.0 / 3.0));
        assert_eq!(macro_accuracy(&[1, IGNORE], &[1, 7]), Ok(1.0));
    }

    #[test]
    fn macro_accuracy_weighs_classes_equally() {
        // Class 5 three times right, class 6 once wrong (taken for 5): plain 3/4, macro (1 + 0) / 2.
        assert_eq!(accuracy(&[5, 5, 5, 6], &[5, 5, 5, 5]), Ok(0.75));
        assert_eq!(macro_accuracy(&[5, 5, 5, 6], &[5, 5, 5, 5]), Ok(0.5));
        // A class that is only predicted counts as 0: classes 5, 6 and 7.
        assert_eq!(macro_accuracy(&[5, 5, 6], &[5, 7, 6]), Ok((0.5 + 1.0 + 0.0) / 3.0));
    }

    #[test]
    fn refusals_name_the_score_and_the_counts() {
        let error = accuracy(&[1, 2], &[1]).unwrap_err();
        assert_eq!(error.to_string(), "accuracy: 2 targets but 1 predictions: give one prediction per position");
        let error = macro_accuracy(&[IGNORE; 3], &[1, 2, 3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "macro_accuracy: none of the 3 positions has a label: score the examples' own targets"
        );
    }
}
