//! Every kind of damage, and the error that names it.

use std::path::Path;

use data::text::{Error, Header, Tokens, Writer};

use super::{compressed, file, read};

/// An llm.c file of these ids.
fn llm_c(magic: u32, ids: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in [magic, 1, ids.len() as u32] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.resize(1024, 0);
    let width = if magic == 20_240_520 { 2 } else { 4 };
    bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)));
    bytes
}

fn shard(folder: &Path, vocab: u32, ids: &[u32]) -> (std::path::PathBuf, Vec<u8>) {
    let path = folder.join("a.tok");
    let mut writer = Writer::create(&path, vocab, Some(0)).unwrap();
    writer.push(ids, 10, 1).unwrap();
    writer.finish().unwrap();
    (path.clone(), std::fs::read(&path).unwrap())
}

fn ids(tokens: &Tokens) -> Vec<u32> {
    let mut ids = vec![0; tokens.len() as usize];
    tokens.read(0, &mut ids).unwrap();
    ids
}

#[test]
fn every_format_of_text_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"text\": \"one\\n\", \"url\": 1}\n\n{\"text\":\"zwei é\"}\n";
    for ending in ["", "xz", "gz", "zst"] {
        let dotted = if ending.is_empty() { String::new() } else { format!(".{ending}") };
        let path = file(folder.path(), &format!("a.txt{dotted}"), &compressed(ending, "text é\n".as_bytes()));
        assert_eq!(read(&path).unwrap(), ["text é\n"], "{ending}");
        let path = file(folder.path(), &format!("a.jsonl{dotted}"), &compressed(ending, lines.as_bytes()));
        assert_eq!(read(&path).unwrap(), ["one\n", "zwei é"], "{ending}");
        // Two streams one after another, as parallel compressors write them.
        let twice = [compressed(ending, b"one, "), compressed(ending, b"two")].concat();
        let path = file(folder.path(), &format!("b.txt{dotted}"), &twice);
        assert_eq!(read(&path).unwrap(), ["one, two"], "{ending}");
    }
}

#[test]
fn every_format_of_tokens_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (long, short) = ([3, 70_000, 0], [3, 65_535, 0]);
    let shorts: Vec<u8> = short.iter().flat_map(|&id: &u32| (id as u16).to_le_bytes()).collect();
    let (path, _) = shard(folder.path(), 70_001, &long);
    assert_eq!(ids(&Tokens::open(&[path], 70_001).unwrap()), long);
    for (name, bytes, want) in [
        ("a.bin", llm_c(20_240_520, &short), short),
        ("b.bin", llm_c(20_240_801, &long), long),
        ("a.u16", shorts.clone(), short),
        ("b.u16.xz", compressed("xz", &shorts), short),
    ] {
        let path = file(folder.path(), name, &bytes);
        let tokens = Tokens::open(&[path.clone(), path], 70_001).unwrap();
        assert_eq!(ids(&tokens), [want, want].concat(), "{name}");
        // Reads across the border of two files.
        let mut across = [9; 2];
        tokens.read(2, &mut across).unwrap();
        assert_eq!(across, [want[2], want[0]], "{name}");
        assert!(matches!(tokens.read(5, &mut across), Err(Error::Short { have: 6, need: 7, .. })));
    }
}

#[test]
fn an_excerpt_ends_with_a_whole_character() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a.txt.xz", &compressed("xz", "ab€d".as_bytes()));
    for (bytes, want) in [(0, ""), (1, "a"), (2, "ab"), (4, "ab"), (5, "ab€"), (6, "ab€d"), (99, "ab€d")] {
        assert_eq!(data::text::excerpt(&path, bytes).unwrap(), want, "{bytes}");
    }
    assert!(matches!(data::text::excerpt(&folder.path().join("b.txt"), 9), Err(Error::Io { .. })));
}

#[test]
fn damaged_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| read(&file(folder.path(), name, bytes)).unwrap_err();
    assert!(matches!(refused("a.txt", b""), Error::Empty { what: "text", .. }));
    assert!(matches!(refused("a.jsonl", b"\n\n"), Error::Empty { .. }));
    assert!(matches!(refused("a.txt", b"ab\xffc"), Error::Utf8 { offset: 2, .. }));
    let bad_line = [b"{\"text\":\"\"}\n".as_slice(), b"{\"text\":\"\xc3(\"}"].concat();
    assert!(matches!(refused("a.jsonl", &bad_line), Error::Utf8 { offset: 21, .. }));
    assert!(matches!(refused("a.jsonl", b"{}\n"), Error::Record { record: 1, .. }));
    assert!(matches!(refused("a.jsonl", b"{\"text\":\"\"}\n{\"text\":7}"), Error::Record { record: 2, .. }));
    assert!(matches!(refused("a.csv", b"x"), Error::Format { .. }));
    assert!(matches!(refused("a.u16", b"xx"), Error::Format { .. }));
    assert!(matches!(read(Path::new("no/such.txt")), Err(Error::Io { .. })));
    let text: Vec<u8> = (0..20_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_string().into_bytes()).collect();
    for ending in ["xz", "gz", "zst"] {
        let whole = compressed(ending, &text);
        let name = format!("a.txt.{ending}");
        assert_eq!(read(&file(folder.path(), &name, &whole)).unwrap()[0].as_bytes(), text);
        for cut in [1, whole.len() / 2, whole.len() - 1] {
            let error = refused(&name, &whole[..cut]);
            assert!(matches!(error, Error::Compressed { .. }), "{ending} cut to {cut}: {error}");
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 16;
        let error = refused(&name, &flipped);
        assert!(matches!(error, Error::Compressed { .. } | Error::Utf8 { .. }), "{ending} flipped: {error}");
    }
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_is_read_by_its_text_column() {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let folder = tempfile::tempdir().unwrap();
    let schema = "message m { required int64 id; required binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[1, 2], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts = ["one", "zwei é"].map(ByteArray::from);
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    let bytes = writer.into_inner().unwrap();
    let path = file(folder.path(), "a.parquet", &bytes);
    assert_eq!(read(&path).unwrap(), ["one", "zwei é"]);
    let error = data::text::documents(&path, "body", &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Record { record: 0, .. }), "{error}");
    let error = read(&file(folder.path(), "b.parquet", &bytes[..bytes.len() / 2])).unwrap_err();
    assert!(matches!(error, Error::Compressed { format: "parquet", .. }), "{error}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_needs_its_feature() {
    let folder = tempfile::tempdir().unwrap();
    let error = read(&file(folder.path(), "a.parquet", b"PAR1")).unwrap_err().to_string();
    assert!(error.ends_with("this build reads no parquet; build with --features data/parquet"), "{error}");
}

#[test]
fn a_shard_says_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, good) = shard(folder.path(), 100, &[5, 6, 0]);
    let header = Header::read(&path).unwrap();
    assert_eq!((header.width, header.tokens, header.text_bytes, header.documents), (2, 3, 10, 1));
    let refused = |bytes: &[u8], vocab| Tokens::open(&[file(folder.path(), "a.tok", bytes)], vocab).unwrap_err();
    assert!(matches!(refused(b"", 100), Error::Empty { what: "tokens", .. }));
    for cut in [1, 79, 80, good.len() - 1] {
        assert!(matches!(refused(&good[..cut], 100), Error::Length { .. }), "cut to {cut}");
    }
    assert!(matches!(refused(&[&good[..], b"x"].concat(), 100), Error::Length { need: 86, have: 87, .. }));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    assert!(matches!(refused(&with(0, b'x'), 100), Error::Magic { format: ".tok", .. }));
    assert!(matches!(refused(&with(8, 3), 100), Error::Magic { .. }));
    assert!(matches!(refused(&with(24, 4), 100), Error::Length { .. }));
    for at in 80..good.len() {
        assert!(matches!(refused(&with(at, good[at] ^ 1), 100), Error::Checksum { .. }), "byte {at}");
    }
    assert!(matches!(refused(&good, 6), Error::Vocabulary { position: 1, id: 6, vocab: 6, .. }));
    // A shard cut short while it is open is an error of the next read, not the end of the process.
    let path = file(folder.path(), "a.tok", &good);
    let open = Tokens::open(std::slice::from_ref(&path), 100).unwrap();
    assert_eq!(ids(&open), [5, 6, 0]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(82).unwrap();
    assert!(matches!(open.read(0, &mut [0; 3]), Err(Error::Length { need: 86, have: 82, .. })));
    // Nothing is left at the shard's place before it is finished, and no id is written that it lacks.
    let path = folder.path().join("b.tok");
    let mut writer = Writer::create(&path, 7, None).unwrap();
    assert!(matches!(writer.push(&[6, 7], 0, 0), Err(Error::Vocabulary { position: 1, id: 7, .. })));
    assert!(!path.exists());
}

#[test]
fn other_files_of_tokens_say_what_is_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| Tokens::open(&[file(folder.path(), name, bytes)], 100).unwrap_err();
    let good = llm_c(20_240_520, &[1, 2]);
    assert!(matches!(refused("a.bin", &llm_c(20_240_521, &[1])), Error::Magic { format: "llm.c .bin", .. }));
    assert!(matches!(refused("a.bin", &good[..1000]), Error::Length { need: 1024, have: 1000, .. }));
    assert!(matches!(refused("a.bin", &good[..1026]), Error::Length { need: 1028, have: 1026, .. }));
    assert!(matches!(refused("a.bin", b""), Error::Empty { .. }));
    assert!(matches!(refused("a.bin", &llm_c(20_240_520, &[])), Error::Empty { .. }));
    assert!(matches!(refused("a.bin", &llm_c(20_240_801, &[99, 100])), Error::Vocabulary { position: 1, .. }));
    assert!(matches!(refused("a.u16", b"\x01\x00\x02"), Error::Length { need: 4, have: 3, .. }));
    assert!(matches!(refused("a.u16", b""), Error::Empty { .. }));
    assert!(matches!(refused("a.u16", b"\x01\x00\x64\x00"), Error::Vocabulary { id: 100, .. }));
    assert!(matches!(refused("a.txt", b"text"), Error::Format { .. }));
    let xz = compressed("xz", b"\x01\x00\x02\x00");
    assert!(matches!(refused("a.u16.xz", &xz[..xz.len() - 4]), Error::Compressed { format: "xz", .. }));
}
