//! Text from ids that come one at a time.

use data::text::Tokenizer;

use crate::Result;

/// Ids whose text has not been given out yet, because their last character may not be whole.
#[derive(Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Ids whose text has been given out. They stay until a character is whole again: the text of an id may depend on
    /// the one before.
    given: usize,
}

/// Ids after which text is given out, whole characters or not: no character has more bytes.
const LONGEST: usize = 4;

impl<'a> Stream<'a> {
    /// A stream at its start.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// The text that the next id completes, empty if it leaves a character open.
    ///
    /// # Errors
    /// [`crate::Error::Text`] at an id that the tokenizer does not have.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let before = self.tokenizer.decode(&self.ids[..self.given])?;
        let after = self.tokenizer.decode(&self.ids)?;
        if after.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.given < LONGEST {
            return Ok(String::new());
        }
        // Only what was given out last is needed to decode what follows.
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(after.strip_prefix(&before).unwrap_or(&after).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = Stream::new(tokenizer);
        ids.iter().map(|&id| stream.push(id).unwrap()).collect()
    }

    #[test]
    fn characters_come_whole() {
        let text = "a–b é";
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        let parts = streamed(&Tokenizer::bytes(), &ids);
        assert_eq!(parts, ["a", "", "", "–", "b", " ", "", "é"]);
        let bpe = include_bytes!("../../data/files/books/bpe16384.json");
        let bpe = Tokenizer::json("bpe", bpe).unwrap();
        let text = "It was the best of times – 🦀 – it was 猫 the worst.";
        let mut ids = Vec::new();
        bpe.encode(text, &mut ids).unwrap();
        let parts = streamed(&bpe, &ids);
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| !part.contains(char::REPLACEMENT_CHARACTER)), "{parts:?}");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hold_it_up() {
        let parts = streamed(&Tokenizer::bytes(), &[0xc3, 0xc3, 0xc3, 0xc3, 97]);
        assert_eq!(parts.concat(), "\u{fffd}\u{fffd}\u{fffd}\u{fffd}a");
    }
}
