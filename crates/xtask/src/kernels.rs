//! `cargo xtask kernels check`: the kernels of the short convolution, of attention, of recurrences and of mixtures of experts compiled with
//! NVRTC, which needs no GPU, and what each uses compared with kernels/resources.txt.
//!
//! For sm_90a the whole sample of defines (their `variants`) is compiled, its registers, shared memory and spills are
//! summed up per kernel and element type, and a set that spills registers is an error; for the other targets every 24th of it
//! is compiled, to see that it does.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::kernels::cuda::compile::{Resources, compile, resources, version};
use ::kernels::cuda::short_conv::Variant;
use ::kernels::cuda::{attention, dense, short_conv};
use anyhow::{Context, Result, bail, ensure};

const SNAPSHOT: &str = "kernels/resources.txt";
/// The compiler whose registers the snapshot holds: others allocate otherwise.
const COMPILER: (i32, i32) = (13, 0);
/// The compiler allocates the registers of one source in more than one way from run to run (200 to 209 seen for one kernel).
const REGISTER_SLACK: u32 = 16;
const TUNED: &str = "sm_90a";
const OTHERS: [&str; 3] = ["sm_80", "sm_89", "sm_100"];
const EVERY: usize = 24;
/// Written in the instructions of sm_90a alone.
const ONE_TARGET: [&str; 6] = [
    "short_conv_lowrank_fwd_hopper.cu",
    "short_conv_lowrank_bwd_hopper.cu",
    "short_conv_swiglu_hopper.cu",
    "attention_fwd.cu",
    "attention_dq.cu",
    "attention_dkdv.cu",
];

/// Compiles everything; compares with the snapshot or, with `accept`, writes it.
pub(crate) fn check(accept: bool) -> Result<()> {
    // Without NVRTC this names what is missing and the pip command that brings it.
    let compiler = version().map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut all = short_conv::variants();
    all.extend(attention::variants());
    all.extend(dense::delta_variants());
    all.extend(dense::ssd_variants());
    all.extend(dense::moe_variants());
    let used = compile_all(&all, TUNED)?;
    println!("{} define sets compile for {TUNED}", all.len());
    let (found, spills) = (summary(&used), spilling(&used));
    let everywhere = |v: &&Variant| !ONE_TARGET.contains(&v.file) && !dense::is_hopper_only(v);
    let some: Vec<Variant> = all.iter().filter(everywhere).step_by(EVERY).cloned().collect();
    for arch in OTHERS {
        compile_all(&some, arch)?;
        println!("{} define sets compile for {arch}", some.len());
    }
    if compiler != COMPILER {
        println!("NVRTC is {compiler:?}: what kernels use is compared with {COMPILER:?} only");
        return Ok(());
    }
    ensure!(
        spills.is_empty(),
        "{} kernels spill registers to memory; give a thread less in the launch that chose these defines:\n{}",
        spills.len(),
        spills.join("\n")
    );
    if accept {
        fs::write(SNAPSHOT, &found).with_context(|| format!("{SNAPSHOT} cannot be written"))?;
        println!("wrote {SNAPSHOT}");
        return Ok(());
    }
    if !fs::exists(SNAPSHOT)? {
        println!("there is no {SNAPSHOT} to compare with: cargo xtask kernels check --accept writes it");
        return Ok(());
    }
    let known = fs::read_to_string(SNAPSHOT).with_context(|| format!("{SNAPSHOT} cannot be read"))?;
    let changed = difference(&known, &found);
    ensure!(
        changed.is_empty(),
        "the kernels use other resources than {SNAPSHOT} says:\n{}\nif that is meant: cargo xtask kernels check --accept",
        changed.join("\n")
    );
    Ok(())
}

type Used<'a> = (&'a Variant, Vec<Resources>);

/// Compiles on all cores; the first failure, with the compiler's words, ends it.
fn compile_all<'a>(all: &'a [Variant], arch: &str) -> Result<Vec<Used<'a>>> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(variant) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let compiled = compile(variant.file, &variant.defines, arch);
            let failed = compiled.is_err();
            let used = compiled.map(|compiled| (variant, resources(&compiled.log)));
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(used);
            if failed {
                next.store(all.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut used = done.into_iter().collect::<Result<Vec<_>, _>>().map_err(|e| anyhow::anyhow!("{e}"))?;
    if used.len() != all.len() {
        bail!("{} of {} define sets were compiled for {arch}", used.len(), all.len());
    }
    used.sort_by(|a, b| a.0.cmp(b.0));
    Ok(used)
}

/// One line per kernel and define set that spills registers to memory.
fn spilling(used: &[Used<'_>]) -> Vec<String> {
    let mut lines = Vec::new();
    for (variant, kernels) in used {
        for kernel in kernels.iter().filter(|k| k.spill_bytes > 0) {
            let (file, entry, bytes, defines) = (variant.file, &kernel.entry, kernel.spill_bytes, &variant.defines);
            lines.push(format!("  {file} {entry}: {bytes} B with {defines}"));
        }
    }
    lines
}

/// One line per kernel and element type over its define sets.
fn summary(used: &[Used<'_>]) -> String {
    let mut lines: BTreeMap<(String, String, &str), Vec<&Resources>> = BTreeMap::new();
    for (variant, kernels) in used {
        let dtype = match variant.defines.get("DTYPE") {
            Some(0) => "f32",
            Some(1) => "bf16",
            Some(2) => "f16",
            _ => "any",
        };
        for kernel in kernels {
            lines.entry((variant.file.into(), kernel.entry.clone(), dtype)).or_default().push(kernel);
        }
    }
    let mut text = format!(
        "# What the kernels use on {TUNED}, by NVRTC {}.{}: `cargo xtask kernels check --accept` writes this.\n\
         # file kernel type: define sets, registers from-to, most bytes of static shared memory, \
         sets that spill and the most bytes spilled\n",
        COMPILER.0, COMPILER.1
    );
    for ((file, entry, dtype), kernels) in lines {
        let registers = kernels.iter().map(|k| k.registers);
        let (low, high) = (registers.clone().min().unwrap_or(0), registers.max().unwrap_or(0));
        let shared = kernels.iter().map(|k| k.shared_bytes).max().unwrap_or(0);
        let spills = kernels.iter().filter(|k| k.spill_bytes > 0).count();
        let most = kernels.iter().map(|k| k.spill_bytes).max().unwrap_or(0);
        let sets = kernels.len();
        text += &format!("{file} {entry} {dtype}: {sets} sets, {low}-{high}, {shared} B, {spills} spill {most} B\n");
    }
    text
}

/// Lines of one text that the other lacks.
fn difference(known: &str, found: &str) -> Vec<String> {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| alike(other, line));
    let gone = known.lines().filter(|line| lacks(found, line)).map(|line| format!("  - {line}"));
    gone.chain(found.lines().filter(|line| lacks(known, line)).map(|line| format!("  + {line}"))).collect()
}

/// Whether two lines say the same, but for registers within [`REGISTER_SLACK`].
fn alike(a: &str, b: &str) -> bool {
    match (registers(a), registers(b)) {
        (Some((before, low, high, after)), Some((before2, low2, high2, after2))) => {
            let near = |x: u32, y: u32| x.abs_diff(y) <= REGISTER_SLACK;
            before == before2 && after == after2 && near(low, low2) && near(high, high2)
        }
        _ => a == b,
    }
}

/// A line of [`summary`] cut at its registers: before, least, most, after.
fn registers(line: &str) -> Option<(&str, u32, u32, &str)> {
    let (before, rest) = line.split_once(" sets, ")?;
    let (range, after) = rest.split_once(", ")?;
    let (low, high) = range.split_once('-')?;
    Some((before, low.parse().ok()?, high.parse().ok()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_summed_up_by_kernel_and_type() {
        let all = short_conv::variants();
        let used = |registers, spill_bytes| Resources { entry: "k".into(), registers, spill_bytes, shared_bytes: 16 };
        let of = |file: &str, dtype| {
            all.iter().find(|v| v.file == file && v.defines.get("DTYPE") == dtype).expect("a variant of that type")
        };
        let plan = (of("plan.cu", None), vec![used(20, 0)]);
        let sums = (of("sums.cu", Some(1)), vec![used(30, 4)]);
        let spills = spilling(&[plan.clone(), sums.clone()]);
        assert_eq!(spills, [format!("  sums.cu k: 4 B with {}", sums.0.defines)]);
        let text = summary(&[plan, sums.clone(), (sums.0, vec![used(40, 0)])]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            ["plan.cu k any: 1 sets, 20-20, 16 B, 0 spill 0 B", "sums.cu k bf16: 2 sets, 30-40, 16 B, 1 spill 4 B"]
        );
        assert_eq!(difference("a\nb\n", "b\nc\n"), ["  - a", "  + c"]);
        let line = |high, spills| format!("k bf16: 2 sets, 30-{high}, 16 B, {spills} spill 0 B");
        assert!(difference(&line(200, 0), &line(209, 0)).is_empty());
        assert_eq!(difference(&line(200, 0), &line(217, 0)).len(), 2);
        assert_eq!(difference(&line(200, 0), &line(200, 1)).len(), 2);
    }
}
