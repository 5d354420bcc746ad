//! The mixture of experts at the paper's size: parameters in all and met by a token, none of them allocated.

use model::{Mlp, Moe, Transformer};
use report::paper::item;

/// A number of `paper/setup.csv`.
fn number(row: &str, metric: &str) -> f64 {
    item("setup").unwrap().number(row, metric).and_then(|n| n.value).unwrap_or_else(|| panic!("no {row} {metric}"))
}

#[test]
fn counts_are_the_published_configurations() {
    let size = |metric: &str| number("moe-config", metric) as usize;
    let moe = Moe {
        experts: size("experts"),
        top_k: size("top_k"),
        ffn: size("expert_width"),
        shared_ffn: size("shared_width"),
        renormalize: true,
        aux_weight: number("moe-config", "aux_loss") as f32,
        z_weight: 0.0,
        loss_free_gamma: 0.0,
    };
    let json = serde_json::json!({
        "vocab": number("lm", "vocab") as usize,
        "d_model": size("d_model"),
        "layers": size("layers"),
        "heads": size("heads"),
        "mlp": Mlp::Moe(moe),
    });
    let model: Transformer = serde_json::from_value(json).unwrap();
    // Stated to ten millions.
    let tens = |count: usize| (count as f64 / 1e7).round() * 10.0;
    assert_eq!(tens(model.parameter_count().unwrap()), number("moe-config", "params"));
    assert_eq!(tens(model.active_parameter_count().unwrap()), number("moe-config", "active_params"));
}
