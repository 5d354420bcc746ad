//! The GPU against the f64 reference and the CPU op, case by case.

use kernels::cuda::Device;

use crate::case::Case;
use crate::values::{Operands, Results};
use crate::{cpu, gpu, reference};

/// What a case showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The case in words.
    pub case: String,
    /// Relative error of each result against the reference.
    pub errors: Vec<(&'static str, f64)>,
    /// What is wrong; empty if nothing is.
    pub wrong: Vec<String>,
}

impl Outcome {
    /// The largest error.
    pub fn worst(&self) -> f64 {
        self.errors.iter().map(|e| e.1).fold(0.0, |a, b| if b.is_nan() { f64::NAN } else { a.max(b) })
    }

    fn refuse(&mut self, what: &str, errors: &[(&'static str, f64)], tolerance: f64) {
        for (name, error) in errors.iter().filter(|(_, e)| e.is_nan() || *e > tolerance) {
            self.wrong.push(format!("{name} {error:.1e} from the {what}, {tolerance:.0e} allowed"));
        }
    }
}

/// Runs a case twice on the GPU: both runs have the same bits, and each result is within the type's tolerance of the f64
/// reference and of the CPU op.
pub fn check(device: &Device, case: &Case, seed: u64) -> Outcome {
    let operands = Operands::random(case, seed);
    let mut outcome = Outcome { case: case.to_string(), errors: Vec::new(), wrong: Vec::new() };
    let runs = [(); 2].map(|()| gpu::run(device, case, &operands));
    let [Ok(first), Ok(second)] = runs else {
        let failed = runs.into_iter().filter_map(Result::err).map(|e| e.to_string());
        outcome.wrong.extend(failed);
        return outcome;
    };
    for ((name, a), (_, b)) in first.named().into_iter().zip(second.named()) {
        if a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits()) {
            outcome.wrong.push(format!("{name} has other bits in a second run"));
        }
    }
    let reference = reference::reference(case, &operands);
    outcome.errors = first.errors(&reference);
    let errors = outcome.errors.clone();
    outcome.refuse("f64 reference", &errors, case.dtype.tolerance());
    match cpu::run(case, &operands) {
        Ok(cpu) => outcome.refuse("CPU op", &first.errors(&cpu), case.dtype.tolerance()),
        Err(e) => outcome.wrong.push(e.to_string()),
    }
    outcome
}

/// Decodes the case's tokens one at a time and compares with the reference over whole sequences.
pub fn check_decode(device: &Device, case: &Case, seed: u64) -> Outcome {
    let operands = Operands::random(case, seed);
    let mut outcome = Outcome { case: format!("decode {case}"), errors: Vec::new(), wrong: Vec::new() };
    let reference = reference::reference(case, &operands);
    let expected = Results { y: reference.y, final_state: reference.final_state, ..Results::default() };
    match gpu::decode(device, case, &operands) {
        Ok((y, final_state)) => {
            let found = Results { y, final_state, ..Results::<f32>::default() };
            outcome.errors = found.errors(&expected);
            let errors = outcome.errors.clone();
            outcome.refuse("f64 reference", &errors, case.dtype.tolerance());
        }
        Err(e) => outcome.wrong.push(e.to_string()),
    }
    outcome
}

/// The CPU op against the f64 reference.
pub fn check_cpu(case: &Case, seed: u64) -> Outcome {
    let operands = Operands::random(case, seed);
    let mut outcome = Outcome { case: case.to_string(), errors: Vec::new(), wrong: Vec::new() };
    match cpu::run(case, &operands) {
        Ok(cpu) => {
            outcome.errors = cpu.errors(&reference::reference(case, &operands));
            let errors = outcome.errors.clone();
            outcome.refuse("f64 reference", &errors, case.dtype.tolerance());
        }
        Err(e) => outcome.wrong.push(e.to_string()),
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Dtype;
    use crate::sample;

    #[test]
    fn the_cpu_op_agrees_with_the_reference() {
        let cases: Vec<Case> = sample::small().into_iter().map(|c| Case { dtype: Dtype::F32, ..c }).collect();
        for (i, case) in cases.iter().enumerate() {
            let outcome = check_cpu(case, i as u64);
            assert!(outcome.wrong.is_empty() && outcome.worst() > 0.0, "{outcome:?}");
        }
    }
}
