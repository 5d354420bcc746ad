//! Text in columns, and paragraphs wrapped to the page.

/// The width of a page, in characters.
pub(super) const PAGE: usize = 100;

/// A column: its cells side by side with those of its neighbours.
pub(super) struct Column {
    /// A header spanning this column and those after it with an empty one.
    pub(super) over: String,
    /// The header right above the cells.
    pub(super) head: String,
    /// One cell per line.
    pub(super) cells: Vec<String>,
    /// Whether cells align to the right.
    pub(super) right: bool,
    /// Spaces before the column.
    pub(super) gap: usize,
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Lays columns out; the first returned lines are the two header lines, either left out if blank.
pub(super) fn lay_out(columns: &[Column]) -> (Vec<String>, Vec<String>) {
    let mut widths: Vec<usize> = columns
        .iter()
        .map(|column| column.cells.iter().map(|cell| width(cell)).max().unwrap_or(0).max(width(&column.head)))
        .collect();
    // A spanning header that is wider than its columns widens the last of them.
    let mut start = 0;
    while start < columns.len() {
        let mut end = start + 1;
        while end < columns.len() && columns[end].over.is_empty() {
            end += 1;
        }
        let inner: usize = widths[start..end].iter().sum::<usize>()
            + columns[start + 1..end].iter().map(|column| column.gap).sum::<usize>();
        widths[end - 1] += width(&columns[start].over).saturating_sub(inner);
        start = end;
    }
    let line = |pick: &dyn Fn(usize) -> (String, bool)| {
        let mut text = String::new();
        let mut reached = 0;
        for (index, column) in columns.iter().enumerate() {
            reached += column.gap;
            let (cell, right) = pick(index);
            let pad = if right { widths[index].saturating_sub(width(&cell)) } else { 0 };
            if !cell.is_empty() {
                text += &" ".repeat((reached + pad).saturating_sub(width(&text)));
                text += &cell;
            }
            reached += widths[index];
        }
        text
    };
    let over = line(&|index| (columns[index].over.clone(), false));
    let head = line(&|index| (columns[index].head.clone(), columns[index].right));
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    let body = (0..rows)
        .map(|row| line(&|index| (columns[index].cells.get(row).cloned().unwrap_or_default(), columns[index].right)));
    ([over, head].into_iter().filter(|line| !line.is_empty()).collect(), body.collect())
}

/// Words of `text` in lines of at most [`PAGE`] characters: `first` begins the first line, spaces of its width the
/// others. A word longer than the page stays whole.
pub(super) fn wrap(first: &str, text: &str) -> String {
    let indent = width(first);
    let mut out = String::from(first);
    let mut at = indent;
    for (index, word) in text.split_whitespace().enumerate() {
        if index > 0 && at + 1 + width(word) > PAGE {
            out += "\n";
            out += &" ".repeat(indent);
            at = indent;
        } else if index > 0 {
            out.push(' ');
            at += 1;
        }
        out += word;
        at += width(word);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_wrap_under_the_first_one() {
        let text = wrap("  [1] ", &"word ".repeat(40));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| width(line) <= PAGE && line[..6].trim().len() <= 3));
        assert!(lines[1].starts_with("      word"));
    }

    #[test]
    fn columns_align_and_spanning_headers_widen() {
        let column = |over: &str, head: &str, cells: &[&str], right| Column {
            over: over.into(),
            head: head.into(),
            cells: cells.iter().map(|c| c.to_string()).collect(),
            right,
            gap: 1,
        };
        let columns = [
            column("", "row", &["a", "bbbb"], false),
            column("a wide header", "x", &["1", "22"], true),
            column("", "", &["é", ""], false),
            column("end", "", &["ok", "off"], false),
        ];
        let (header, body) = lay_out(&columns);
        assert_eq!(header, ["      a wide header end", " row   x"]);
        assert_eq!(body, [" a     1 é          ok", " bbbb 22            off"]);
    }
}
