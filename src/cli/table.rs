//! Tables in the manner of lsblk: columns by name, aligned, without borders.

use super::args::TableArgs;
use super::exit::Misuse;
use comfy_table::{CellAlignment, Table, presets};

/// A column of a table of rows `R`.
pub struct Column<R> {
    /// Its name, in upper case.
    pub name: &'static str,
    /// What it says, for `--list-columns`.
    pub help: &'static str,
    /// Numbers stand to the right.
    pub right: bool,
    /// Shown where nothing is asked for.
    pub default: bool,
    /// Its text for a row; the flag asks for bytes instead of human sizes.
    pub cell: fn(&R, bool) -> String,
}

/// A column of sizes that are counted in pages: name, help, whether it is shown where nothing is
/// asked for, and the pages of a row.
#[macro_export]
macro_rules! pages_column {
    ($name:literal, $help:literal, $default:literal, $row:ident: $Row:ty => $pages:expr) => {
        $crate::cli::table::Column::<$Row> {
            name: $name,
            help: $help,
            right: true,
            default: $default,
            cell: |$row, bytes| $crate::cli::size::pages($pages, bytes),
        }
    };
}

/// A process's number, or a dash for what is no process.
pub fn pid(pid: Option<i32>) -> String {
    pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}

impl<R> std::fmt::Debug for Column<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The table as text, each line ended; or the list of columns, if that was asked for.
pub fn render<R>(columns: &[Column<R>], rows: &[R], args: &TableArgs) -> Result<String, Misuse> {
    if args.list_columns {
        let width = columns.iter().map(|c| c.name.len()).max().unwrap_or(0);
        return Ok(columns.iter().map(|c| format!("{:width$}  {}\n", c.name, c.help)).collect());
    }
    let chosen = choose(columns, args.output.as_deref())?;
    let head = chosen.iter().map(|c| c.name.to_owned()).collect();
    let cells = rows.iter().map(|row| chosen.iter().map(|c| (c.cell)(row, args.bytes)).collect());
    let right: Vec<bool> = chosen.iter().map(|c| c.right).collect();
    let bold = args.color.on_stdout();
    Ok(draw((!args.noheadings).then_some(head), cells, |i| right[i], bold))
}

/// Cells in aligned columns, numbers to the right where `right` says so; the heading, if there is
/// one, bold where asked for.
pub fn draw(
    head: Option<Vec<String>>,
    rows: impl IntoIterator<Item = Vec<String>>,
    right: impl Fn(usize) -> bool,
    bold: bool,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let bold = bold && head.is_some();
    if let Some(head) = head {
        table.set_header(head);
    }
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for (i, line) in table.lines().enumerate() {
        let line = line.trim_end();
        if i == 0 && bold {
            text.push_str(&format!("\x1b[1m{line}\x1b[0m\n"));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The columns asked for: `A,B` these, `+A` these beside the default ones.
fn choose<'a, R>(
    columns: &'a [Column<R>],
    asked: Option<&str>,
) -> Result<Vec<&'a Column<R>>, Misuse> {
    let defaults = || columns.iter().filter(|c| c.default).collect::<Vec<_>>();
    let Some(asked) = asked else { return Ok(defaults()) };
    let (mut chosen, asked) = match asked.strip_prefix('+') {
        Some(more) => (defaults(), more),
        None => (Vec::new(), asked),
    };
    for name in asked.split(',') {
        let column =
            columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
                let all: Vec<&str> = columns.iter().map(|c| c.name).collect();
                Misuse(format!("there is no column '{name}'; there are {}", all.join(", ")))
            })?;
        chosen.push(column);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column<(&str, u64)>; 3] = [
        Column {
            name: "NAME",
            help: "its name",
            right: false,
            default: true,
            cell: |r, _| r.0.to_owned(),
        },
        Column {
            name: "SIZE",
            help: "its size",
            right: true,
            default: true,
            cell: |r, b| super::super::size::pages(r.1, b),
        },
        Column {
            name: "MORE",
            help: "more",
            right: false,
            default: false,
            cell: |_, _| "x".into(),
        },
    ];

    fn args(output: Option<&str>) -> TableArgs {
        TableArgs {
            output: output.map(str::to_owned),
            color: super::super::args::Color::Never,
            ..TableArgs::default()
        }
    }

    #[test]
    fn numbers_stand_right_and_lines_end_clean() {
        let rows = [("a", 1), ("longer", 300)];
        let text = render(&COLUMNS, &rows, &args(None)).unwrap();
        assert_eq!(text, "NAME    SIZE\na         4K\nlonger  1.2M\n");
        let bytes = TableArgs { bytes: true, noheadings: true, ..args(Some("size")) };
        assert_eq!(render(&COLUMNS, &rows, &bytes).unwrap(), "   4096\n1228800\n");
    }

    #[test]
    fn columns_are_chosen_by_name() {
        let text = render(&COLUMNS, &[("a", 1)], &args(Some("+more"))).unwrap();
        assert!(text.starts_with("NAME  SIZE  MORE\n"));
        let error = render(&COLUMNS, &[("a", 1)], &args(Some("nme"))).unwrap_err();
        assert_eq!(error.to_string(), "there is no column 'nme'; there are NAME, SIZE, MORE");
        let list = TableArgs { list_columns: true, ..args(None) };
        assert_eq!(
            render(&COLUMNS, &[], &list).unwrap(),
            "NAME  its name\nSIZE  its size\nMORE  more\n"
        );
    }
}
