//! Tables for people: aligned columns.

/// Rows of cells.
pub type Rows = Vec<Vec<String>>;

/// What is in a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// At the left of its column.
    Text(&'static str),
    /// At the right of its column.
    Number(&'static str),
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Column::Text(head) | Column::Number(head) => head,
        }
    }
}

/// A table that is made a page at a time: earlier pages are not kept and not aligned again. The last column may hold
/// anything: a key may be long, or hold characters whose width only the terminal knows.
pub struct Table {
    columns: &'static [Column],
    widths: Vec<usize>,
    begun: bool,
}

impl Table {
    pub fn new(columns: &'static [Column]) -> Table {
        Table { columns, widths: vec![0; columns.len().saturating_sub(1)], begun: false }
    }

    /// The lines of a page; of the first one below the heads of the columns.
    pub fn page(&mut self, mut rows: Rows) -> String {
        if !std::mem::replace(&mut self.begun, true) {
            rows.insert(0, self.columns.iter().map(|column| column.head().to_owned()).collect());
        }
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for ((cell, width), column) in row.iter().zip(&self.widths).zip(self.columns) {
            line += &match column {
                Column::Text(_) => format!("{cell:<width$}  "),
                Column::Number(_) => format!("{cell:>width$}  "),
            };
        }
        match row.last() {
            Some(last) if !last.is_empty() => line += last,
            _ => line.truncate(line.trim_end().len()),
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_from_page_to_page_and_lines_end_with_their_text() {
        static COLUMNS: [Column; 3] = [Column::Text("LIMIT"), Column::Number("LEFT"), Column::Text("KEY")];
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let mut table = Table::new(&COLUMNS);
        let page = table.page(vec![row(["10/1s", "3", "a b "]), row(["5000/day", "12345", ""])]);
        assert_eq!(page, "LIMIT      LEFT  KEY\n10/1s         3  a b \n5000/day  12345\n");
        assert_eq!(table.page(vec![row(["1/1m", "1", "k"])]), "1/1m          1  k\n");
    }
}
