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
rows = [{ id = "a", label = "A" }, { id = "b", label = "B" }]
"#;

fn refused(toml: &str, lines: &str) -> String {
    let csv = format!("row,metric,value,unit,grade,source,note\n{lines}\n");
    parse("x", toml, &csv).expect_err("it should be refused").to_string()
}

#[test]
fn every_embedded_item_passes_and_every_file_is_embedded() {
    for (id, ..) in EMBEDDED {
        let item = item(id).unwrap_or_else(|e| panic!("{e}"));
        assert!(item.numbers.len() > 5, "{id} holds {} numbers", item.numbers.len());
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../paper");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some((stem, "csv" | "toml")) = name.rsplit_once('.') {
            assert!(EMBEDDED.iter().any(|(id, ..)| *id == stem), "paper/{name} belongs to no embedded item");
        }
    }
}

#[test]
fn lint_names_the_fault() {
    let good = "a,ppl,1.5,ppl,V,table 1,";
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
    ] {
        let message = refused(TOML, lines);
        assert!(message.contains(part), "{lines}: {message}");
    }
}

#[test]
fn lint_refuses_claims_that_cannot_be_tested() {
    for (test, part) in [
        ("test.ordering = { sides = [[\"a\"]] }", "fewer than two sides"),
        ("test.ordering = { sides = [[\"a\"], [\"c\"]] }", "row `c` of q"),
        ("test.within = { rows = [\"a\"] }", "give either rel or abs"),
        ("test.within = { rows = [\"b\"], rel = 0.1 }", "(b, ppl), which the csv lacks"),
        ("test.bound = { rows = [\"a\"] }", "needs one bound"),
        ("test.bound = { rows = [\"a\"], at_most_paper = \"b\" }", "(b, ppl), which the csv lacks"),
        ("test.guess = { rows = [\"a\"] }", "unknown variant `guess`"),
        ("test.exact = { rows = [\"a\"], rel = 1 }", "unexpected keys in table: rel"),
    ] {
        let toml =
            format!("{TOML}[[claim]]\nid = \"q\"\nsays = \"\"\nmetric = \"ppl\"\nscales = []\ndevices = []\n{test}\n");
        let message = refused(&toml, "a,ppl,1.5,ppl,V,table 1,");
        assert!(message.contains(part), "{test}: {message}");
    }
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
