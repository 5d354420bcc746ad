//! Ids back to text.

use super::{Kind, Tokenizer};
use crate::text::{Error, Result};

impl Tokenizer {
    /// The text of these ids. Bytes that are no UTF-8, such as the part of a character that the last id leaves open,
    /// become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] at an id that the tokenizer does not have.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.vocab) {
            let what = format!("has no id {id}, only {}", self.vocab);
            let remedy = "use the tokenizer that the ids were made with";
            return Err(Error::Tokenizer { name: self.name.clone(), what, remedy });
        }
        match &self.kind {
            Kind::Bytes => {
                let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Kind::Characters(characters) => Ok(ids.iter().map(|&id| characters[id as usize]).collect()),
            #[cfg(feature = "tokenizer")]
            Kind::Json(tokenizer) => tokenizer.decode(ids, false).map_err(|e| Error::Tokenizer {
                name: self.name.clone(),
                what: e.to_string(),
                remedy: "use a tokenizer with a decoder",
            }),
            #[cfg(feature = "tiktoken")]
            Kind::Tiktoken(bpe) => {
                let bytes = bpe.decode_bytes(ids).map_err(|e| Error::Tokenizer {
                    name: self.name.clone(),
                    what: e.to_string(),
                    remedy: "use the tokenizer that the ids were made with",
                })?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokenizer: &Tokenizer, text: &str) {
        let mut ids = Vec::new();
        tokenizer.encode(text, &mut ids).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{}", tokenizer.name());
    }

    #[test]
    fn what_is_encoded_comes_back() {
        let text = "Call me Ishmaël.\n\n  Some years ago – never mind how long";
        check(&Tokenizer::bytes(), text);
        check(&Tokenizer::characters(text), text);
        #[cfg(feature = "tokenizer")]
        check(&Tokenizer::json("bpe", include_bytes!("../../../files/books/bpe16384.json")).unwrap(), text);
        #[cfg(feature = "tiktoken")]
        check(&Tokenizer::named("r50k").unwrap(), text);
    }

    #[test]
    fn half_a_character_and_unknown_ids() {
        assert_eq!(Tokenizer::bytes().decode(&[97, 0xc3]).unwrap(), "a\u{fffd}");
        let message = Tokenizer::characters("ab").decode(&[0, 2]).unwrap_err().to_string();
        assert!(message.contains("has no id 2, only 2"), "{message}");
    }
}
