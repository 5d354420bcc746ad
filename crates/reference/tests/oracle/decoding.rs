//! Decoding gives the full pass, token by token and after a prompt.

use backend::{Backend, CpuBackend, Decoder, Params};

use crate::common::{VOCAB, distance, norm, random_batch, random_state, rounding, tiny, variants, wide};
use model::{Positions, Transformer};

#[test]
fn every_variant_after_a_prompt_and_token_by_token() {
    const ROWS: usize = 2;
    const LEN: usize = 20;
    for (name, model) in variants() {
        let tape = model.record(ROWS, LEN).unwrap();
        let (state, batch) = (random_state(&tape, 11), random_batch(&tape, VOCAB, 11));
        let mut cpu = CpuBackend::new();
        cpu.load(state.clone()).unwrap();
        cpu.evaluate(&tape, &batch).unwrap();
        let want = wide(&cpu.read(tape.logits().unwrap()).unwrap());

        let mut decoder = Decoder::new(model.record(ROWS, 1).unwrap(), state.params).unwrap();
        // Tokens of the prompt; the second time round shows that a restart forgets.
        for prompt in [0, 0, 1, 13] {
            let first: Vec<u32> = batch.ids.chunks(LEN).flat_map(|row| &row[..prompt]).copied().collect();
            decoder.prefill(&first).unwrap();
            for t in prompt..LEN {
                let ids: Vec<u32> = (0..ROWS).map(|row| batch.ids[row * LEN + t]).collect();
                let have = wide(decoder.step(&ids).unwrap());
                for (row, have) in have.chunks(VOCAB).enumerate() {
                    let want = &want[(row * LEN + t) * VOCAB..][..VOCAB];
                    let apart = distance(have, want) / norm(want);
                    assert!(
                        apart <= 2e-6 * rounding(&model),
                        "{name}: prompt of {prompt}, row {row}, token {t}: {apart:.1e} apart"
                    );
                }
            }
            assert_eq!(decoder.position(), LEN);
            decoder.restart();
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = Transformer { positions: Positions::Learned, max_len: 3, ..tiny() };
    let params = |seed| Params::init(model.record(1, 1).unwrap().specs(), seed);
    let refused = |decoder: backend::Result<Decoder>| decoder.unwrap_err().to_string();
    let message = refused(Decoder::new(model.record(1, 2).unwrap(), params(0)));
    assert_eq!(message, "decoder: rows of 2 tokens; record the model for rows of one token");
    let message = refused(Decoder::new(tiny().record(1, 1).unwrap(), params(0)));
    assert!(message.starts_with("parameter "), "{message}");

    let mut decoder = Decoder::new(model.record(1, 1).unwrap(), params(0)).unwrap();
    let mut step = |ids: &[u32]| decoder.step(ids).map(|logits| logits.len()).map_err(|e| e.to_string());
    assert!(step(&[0, 1]).unwrap_err().contains("2 ids"));
    assert!(step(&[VOCAB as u32]).unwrap_err().contains("id 11"));
    for id in 0..3 {
        assert_eq!(step(&[id]), Ok(VOCAB));
    }
    assert!(step(&[0]).unwrap_err().contains("token 3 is past the 3 learned positions"));

    let prompt = |decoder: &mut Decoder, ids: &[u32]| decoder.prefill(ids).map_err(|e| e.to_string());
    assert_eq!(prompt(&mut decoder, &[0]).unwrap_err(), "batch: a prompt after 3 tokens; restart the decoder first");
    decoder.restart();
    assert!(prompt(&mut decoder, &[0, VOCAB as u32]).unwrap_err().contains("id 11"));
    assert!(prompt(&mut decoder, &[0; 4]).unwrap_err().contains("tokens of a sequence = 4"));
    prompt(&mut decoder, &[0; 3]).unwrap();
    assert_eq!(decoder.position(), 3);
    let mut two = Decoder::new(model.record(2, 1).unwrap(), params(0)).unwrap();
    assert!(prompt(&mut two, &[0; 3]).unwrap_err().contains("3 ids for 2 sequences"));
}
