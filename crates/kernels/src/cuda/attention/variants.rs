//! The variants that a compile check covers: every kernel over types, head sizes and layouts.

use super::super::compile::Defines;
use super::super::short_conv::Variant;
use super::any;
use super::hopper::{self, Cut};

/// Every kernel with a sample of its variants; those of the warpgroup kernels, which compile for sm_90a only, are all
/// there are.
pub fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    let common = |code, head, packed: bool| [("DTYPE", code), ("HEAD", head), ("PACKED", i64::from(packed))];
    for packed in [false, true] {
        for (head, len) in [8, 16, 32, 64, 128].into_iter().flat_map(|head| [(head, 128), (head, 4096)]) {
            for (file, cut) in [
                (hopper::FORWARD, Cut::forward(head, len)),
                (hopper::DQ, Cut::dq(head, len)),
                (hopper::DKDV, Cut::dkdv(head)),
            ] {
                let defines = Defines::new(&[&common(1, head as i64, packed)[..], &cut.defines()].concat());
                all.push(Variant { file, defines });
            }
        }
        for code in [0, 1, 2] {
            for head in [8, 16, 24, 32, 64, 128] {
                all.push(Variant { file: any::FILE, defines: Defines::new(&common(code, head, packed)) });
            }
        }
    }
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_occurs() {
        let all = variants();
        for (file, types, heads) in
            [(hopper::FORWARD, 1, 5), (hopper::DQ, 1, 5), (hopper::DKDV, 1, 5), (any::FILE, 3, 6)]
        {
            for (name, values) in [("DTYPE", types), ("HEAD", heads), ("PACKED", 2)] {
                let of = all.iter().filter(|v| v.file == file).filter_map(|v| v.defines.get(name));
                let found: std::collections::BTreeSet<_> = of.collect();
                assert_eq!(found.len(), values, "{file} {name}: {found:?}");
            }
        }
    }
}
