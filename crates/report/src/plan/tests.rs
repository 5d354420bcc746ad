use super::*;

const PLAN: &str = r#"
[base]
seeds = 3
steps = 10
model = { width = 64, conv = { kind = "none" }, layers = [1, 2] }
[scale.smoke]
[scale.small]
steps = 100
seeds = [7, 9]
model = { width = 256 }
[[row]]
id = "a"
[[row]]
id = "b"
scales = ["small"]
set = { model = { conv = { kind = "lowrank", rank = 15 }, layers = [3] } }
"#;

fn table(text: &str) -> toml::Table {
    text.parse().unwrap()
}

#[test]
fn a_row_is_base_and_scale_and_set() {
    let plan = Plan::parse(PLAN).unwrap();
    assert_eq!(plan.scales().collect::<Vec<_>>(), ["small", "smoke"]);
    let smoke = plan.resolve("smoke", None).unwrap();
    assert_eq!(smoke.len(), 1);
    assert_eq!(smoke[0].seeds, [0, 1, 2]);
    let a = "steps = 10\nmodel = { width = 64, conv = { kind = \"none\" }, layers = [1, 2] }";
    assert_eq!(smoke[0].config, table(a));
    let small = plan.resolve("small", Some(&["b".into()])).unwrap();
    assert_eq!((small.len(), small[0].seeds.as_slice()), (1, [7, 9].as_slice()));
    let b = "steps = 100\nmodel = { width = 256, conv = { kind = \"lowrank\", rank = 15 }, layers = [3] }";
    assert_eq!(small[0].config, table(b));
}

#[test]
fn the_hash_sees_values_and_not_their_order() {
    let one = table("a = 1\nb = { c = \"x\", d = 0.5 }");
    assert_eq!(config_hash(&one), config_hash(&table("b = { d = 0.5, c = \"x\" }\na = 1")));
    for other in ["a = 2\nb = { c = \"x\", d = 0.5 }", "a = 1.0\nb = { c = \"x\", d = 0.5 }", "a = 1"] {
        assert_ne!(config_hash(&one), config_hash(&table(other)), "{other}");
    }
}

#[test]
fn refusals_name_the_value_and_what_exists() {
    let plan = Plan::parse(PLAN).unwrap();
    let message = |e: Error| e.to_string();
    assert_eq!(message(plan.resolve("huge", None).unwrap_err()), "there is no scale `huge`; the plan has small, smoke");
    assert_eq!(
        message(plan.resolve("smoke", Some(&["b".into()])).unwrap_err()),
        "there is no row `b` at scale smoke; the rows are a"
    );
    for (text, part) in [
        ("[scale.smoke]\n[[row]]\nid = \"a\"\n[[row]]\nid = \"a\"", "row `a` stands twice at one scale"),
        ("[scale.smoke]\n[[row]]\nid = \"a\"\nscales = [\"tiny\"]", "no scale `tiny`"),
        ("[scale.smoke]\n[[row]]\nid = \"a\"\nsets = {}", "unknown field `sets`"),
        ("[scales.smoke]\n[[row]]\nid = \"a\"", "unknown field `scales`"),
    ] {
        let message = message(Plan::parse(text).unwrap_err());
        assert!(message.contains(part), "{message}");
    }
    for seeds in ["", "seeds = 0", "seeds = -1", "seeds = [1, 1]", "seeds = []", "seeds = \"3\""] {
        let plan = Plan::parse(&format!("[base]\n{seeds}\n[scale.s]\n[[row]]\nid = \"a\"")).unwrap();
        assert!(matches!(plan.resolve("s", None), Err(Error::Seeds { .. })), "{seeds}");
    }
}
