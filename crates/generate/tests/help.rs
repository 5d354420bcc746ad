//! What `generate --help` says.

use std::process::Command;

#[test]
fn help_tells_every_argument() {
    let out = Command::new(env!("CARGO_BIN_EXE_generate")).arg("--help").output().unwrap();
    assert!(out.status.success());
    insta::assert_snapshot!(String::from_utf8(out.stdout).unwrap(), @r"
    Go on from a prompt with the model of a checkpoint. Prompt and text go to stdout as they are drawn,
    all else to stderr

    Usage: generate [OPTIONS] <CHECKPOINT>

    Arguments:
      <CHECKPOINT>  The checkpoint, a safetensors file that training wrote

    Options:
          --prompt <PROMPT>            The prompt
          --ids <IDS>                  The prompt as token ids; prints ids, and not the prompt
          --tokenizer <TOKENIZER>      bytes, or a tokenizer.json file; by default that of the text the
                                       model was trained on, if it is built in
          --tokens <TOKENS>            Tokens to draw [default: 200]
          --temperature <TEMPERATURE>  Below 1 the likely gets likelier; 0 always takes the likeliest
                                       [default: 1]
          --top-k <TOP_K>              Draw from so many of the likeliest tokens; 0 for all [default: 0]
          --seed <SEED>                Seed of the draws [default: 0]
      -h, --help                       Print help
      -V, --version                    Print version
    ");
}
