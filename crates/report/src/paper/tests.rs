use super::*;

const TOML: &str = r#"
id = "x"
title = "X"
caption = ""
caption_grade = "U"
notes = []
[[metric]]
id = "ppl"
label = "perplexity"
unit = "ppl"
direction = "down"
decimals = 2
[[group]]
label = "all"
rows = [
  { id = "a", label = "A" },
  { id = "b", label = "B" },
  { id = "x.y", label = "XY" },
  { id = "p", label = "P", paper_only = true },
]
"#;

fn refused(toml: &str, lines: &str) -> String {
    let csv = format!("row,metric,value,unit,grade,source,note\n{lines}\n");
    parse("x", toml, &csv).expect_err("it should be refused").to_string()
}

#[test]
fn every_embedded_item_passes_and_every_file_is_embedded() {
    for (id, ..) in EMBEDDED {
        let item = item(id).unwrap_or_else(|e| panic!("{e}"));
        assert!(!item.numbers.is_empty(), "{id} holds no number");
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../paper");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some((stem, "csv" | "toml")) = name.rsplit_once('.') {
            assert!(EMBEDDED.iter().any(|(id, ..)| *id == stem), "paper/{name} belongs to no embedded item");
        }
    }
}

/// What a claim holds to be printed was printed: a number that we inferred agrees with us by construction.
#[test]
fn exact_claims_are_on_printed_numbers() {
    for (id, ..) in EMBEDDED {
        let item = item(id).unwrap();
        for claim in item.claims.iter().filter(|claim| claim.test.kind() == "exact") {
            for row in claim.test.subjects() {
                let grade = item.number(row, &claim.metric).unwrap().grade;
                assert!(!matches!(grade, Grade::I | Grade::U), "{id}: {} on {row}, of grade {grade:?}", claim.id);
            }
        }
    }
}

#[test]
fn lint_names_the_fault() {
    let good = "a,ppl,1.5,ppl,V,table 1,\np,ppl,1,ppl,V,table 1,";
    let csv = format!("row,metric,value,unit,grade,source,note\n{good}\n");
    assert_eq!(parse("x", TOML, &csv).unwrap().number("a", "ppl").unwrap().value, Some(1.5));
    for (lines, part) in [
        ("a,ppl,1.5,ppl,W,table 1,", "unknown variant `W`"),
        ("a,ppl,1.5,ppl,V,table 1,\na,ppl,1.6,ppl,V,table 1,", "(a, ppl) stands twice"),
        ("c,ppl,1.5,ppl,V,table 1,", "row `c` of the csv is used by no group"),
        ("a,loss,1.5,ppl,V,table 1,", "metric `loss` is not in the toml"),
        ("a,ppl,,ppl,V,table 1,", "has grade V and no value; grade it U"),
        ("a,ppl,1.5,ppl,U,table 1,", "has grade U and the value 1.5"),
        ("a,ppl,1.5x,ppl,V,table 1,", "has the value `1.5x`"),
        ("a,ppl,NaN,ppl,V,table 1,", "has the value `NaN`"),
        ("a,ppl,1.5,nats,V,table 1,", "is in `nats`, its metric in `ppl`"),
        ("a,ppl,1.5,ppl,V,,", "has no source"),
        ("a,ppl,1.5,ppl,V", "paper/x.csv"),
        ("a,ppl,1.5,ppl,V,table 1,", "row `p` is paper_only without a number"),
    ] {
        let message = refused(TOML, lines);
        assert!(message.contains(part), "{lines}: {message}");
    }
}

#[test]
fn lint_refuses_claims_that_cannot_be_judged() {
    let places = "scales = [\"small\"]\ndevices = [\"cpu\"]\n";
    let on = |test: &str| format!("{places}test.{test}");
    for (fields, part) in [
        (on("ordering = { sides = [[\"a\"]] }"), "fewer than two sides"),
        (on("ordering = { sides = [[\"a\"], [\"c\"]] }"), "row `c` of q"),
        (on("ordering = { sides = [[\"p\"], [\"a\"]] }"), "about `p`, which no run measures"),
        (on("within = { rows = [\"a\"] }"), "give either rel or abs"),
        (on("within = { rows = [\"b\"], rel = 0.1 }"), "(b, ppl), which the csv lacks"),
        (on("bound = { rows = [\"a\"] }"), "needs one bound"),
        (on("bound = { rows = [\"a\"], at_most_paper = \"b\" }"), "(b, ppl), which the csv lacks"),
        (on("guess = { rows = [\"a\"] }"), "unknown variant `guess`"),
        (on("exact = { rows = [\"a\"], rel = 1 }"), "unexpected keys in table: rel"),
        (on("exact = { rows = [\"a\"] }").replace("small", "tiny"), "names scale `tiny`"),
        (on("exact = { rows = [\"a\"] }").replace("\"cpu\"", ""), "names device `none`"),
    ] {
        let toml = format!("{TOML}[[claim]]\nid = \"q\"\nsays = \"\"\nmetric = \"ppl\"\n{fields}\n");
        let message = refused(&toml, "a,ppl,1.5,ppl,V,table 1,\np,ppl,1.5,ppl,V,table 1,");
        assert!(message.contains(part), "{fields}: {message}");
    }
}

#[test]
fn lint_refuses_figures_without_rows_or_axis() {
    let figure = |kind: &str, category: &str| {
        format!(
            "{TOML}[[figure]]\nid = \"f\"\nkind = \"{kind}\"\ntitle = \"\"\nmetric = \"ppl\"\n\
             categories = [{{ id = \"{category}\", label = \"\" }}]\nseries = [{{ id = \"y\", label = \"\" }}]\n"
        )
    };
    let line = "p,ppl,1.5,ppl,V,table 1,";
    assert!(refused(&figure("lines", "x"), line).contains("kind lines has an x_metric"));
    assert!(refused(&figure("dots", "z"), line).contains("category `z` of figure `f` has no row"));
    let csv = format!("row,metric,value,unit,grade,source,note\n{line}\n");
    assert_eq!(parse("x", &figure("dots", "x"), &csv).unwrap().figures.len(), 1);
}

#[test]
fn an_unknown_item_lists_those_that_exist() {
    assert!(item("table-9").unwrap_err().to_string().contains("table-1, table-2"));
}

#[test]
fn a_number_is_shown_with_its_grade_and_the_printed_digits() {
    let item = item("table-3").unwrap();
    for (row, metric, shown) in [("width-4", "ppl", "18.10 V2"), ("head-size-32", "params", "~311.7 I")] {
        assert_eq!(item.number(row, metric).unwrap().shown(), shown);
    }
    let recall = super::item("figure-recall").unwrap();
    assert_eq!(recall.number("varkey.none", "accuracy").unwrap().shown(), "U");
}
