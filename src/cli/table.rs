//! Tables for people.

/// The heading and the rows as lines, each column as wide as its widest cell. A column whose heading begins with a blank is
/// aligned to the right.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let wide = |at: usize, heading: &str| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([heading.trim().chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = headings.iter().enumerate().map(|(at, heading)| wide(at, heading)).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(headings).zip(&widths);
        let cells = cells.map(|((cell, heading), width)| match heading.starts_with(' ') {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let names: Vec<String> = headings.iter().map(|heading| heading.trim().to_owned()).collect();
    std::iter::once(line(&names)).chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let lines = table(&[" count", "name"], &[row(["7", "a"]), row(["1,234", "longer"])]);
        assert_eq!(lines, ["count  name", "    7  a", "1,234  longer"]);
    }
}
