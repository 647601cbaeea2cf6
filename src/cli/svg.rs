//! Pictures: the matrix as a heat map, a time series as lines. Plain SVG, no fonts inside.

use crate::analyze::matrix::Matrix;
use crate::base::Mechanism;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Longest name that is written whole.
const NAME: usize = 16;

/// The matrix as a heat map: a square a pair, darker for more. The diagonal, which is resident
/// memory, is grey and says how much that is.
pub fn heat_map(matrix: &Matrix) -> Result<String> {
    let n = matrix.names.len();
    let cell = (900 / n.max(1)).clamp(14, 96);
    let margin = 150;
    let side = cell * n + margin;
    let size = (pixels(side + 200), pixels(side + 60));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(drawing)?;
        let most = off_diagonal(matrix).max().unwrap_or(0).max(1);
        let title = ("sans-serif", 18).into_font().color(&BLACK);
        root.draw(&Text::new("Memory shared by pairs", (12, 12), title)).map_err(drawing)?;
        let place = |i: usize| coordinate(margin + i * cell);
        for (i, name) in matrix.names.iter().enumerate() {
            let middle = place(i) + coordinate(cell) / 2;
            let style = ("sans-serif", 12).into_font().color(&BLACK);
            let edge = coordinate(margin) - 6;
            let ends = style.clone().pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new(short(name), (edge, middle), ends)).map_err(drawing)?;
            let upright = style.transform(FontTransform::Rotate270);
            root.draw(&Text::new(short(name), (middle - 6, edge), upright)).map_err(drawing)?;
        }
        for (i, row) in matrix.pages.iter().enumerate() {
            for (j, &pages) in row.iter().enumerate() {
                let (x, y) = (place(j), place(i));
                let corner = (x + coordinate(cell) - 1, y + coordinate(cell) - 1);
                let color = if i == j { RGBColor(225, 225, 225) } else { shade(pages, most) };
                root.draw(&Rectangle::new([(x, y), corner], color.filled())).map_err(drawing)?;
                if cell >= 40 {
                    let dark = i != j && pages * 2 > most;
                    let ink = if dark { &WHITE } else { &BLACK };
                    let middle = Pos::new(HPos::Center, VPos::Center);
                    let style = ("sans-serif", 12).into_font().color(ink).pos(middle);
                    let at = (x + coordinate(cell) / 2, y + coordinate(cell) / 2);
                    let label = super::size::pages(pages, false);
                    root.draw(&Text::new(label, at, style)).map_err(drawing)?;
                }
            }
        }
        legend(&root, matrix, most, coordinate(side) + 12, coordinate(margin))?;
        root.present().map_err(drawing)?;
    }
    Ok(svg)
}

/// A scale of shades, and the sum over all pairs by mechanism.
fn legend<D: DrawingBackend>(
    root: &DrawingArea<D, plotters::coord::Shift>,
    matrix: &Matrix,
    most: u64,
    x: i32,
    top: i32,
) -> Result<()> {
    let style = || ("sans-serif", 12).into_font().color(&BLACK);
    for step in 0..=10 {
        let y = top + step * 12;
        let pages = most * u64::try_from(10 - step).unwrap_or(0) / 10;
        root.draw(&Rectangle::new([(x, y), (x + 18, y + 12)], shade(pages, most).filled()))
            .map_err(|e| anyhow!("{e}"))?;
        if step % 5 == 0 {
            let label = super::size::pages(pages, false);
            root.draw(&Text::new(label, (x + 24, y), style())).map_err(|e| anyhow!("{e}"))?;
        }
    }
    let mut y = top + 156;
    for m in Mechanism::ALL {
        let rows = &matrix.by[m.name()];
        let sum: u64 = pairs(rows.len()).map(|(i, j)| rows[i][j]).sum();
        if sum > 0 {
            let line = format!("{}: {} over all pairs", m.name(), super::size::pages(sum, false));
            root.draw(&Text::new(line, (x, y), style())).map_err(|e| anyhow!("{e}"))?;
            y += 16;
        }
    }
    Ok(())
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

fn off_diagonal(matrix: &Matrix) -> impl Iterator<Item = u64> {
    pairs(matrix.names.len()).map(|(i, j)| matrix.pages[i][j])
}

/// From white to dark blue.
fn shade(pages: u64, most: u64) -> RGBColor {
    let part = (pages as f64 / most as f64).clamp(0.0, 1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and 255
    let mix = |from: f64, to: f64| (from + (to - from) * part).round() as u8;
    RGBColor(mix(247.0, 8.0), mix(251.0, 48.0), mix(255.0, 107.0))
}

fn short(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

/// A line of a time series.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Seconds and bytes.
    pub points: Vec<(f64, f64)>,
}

/// Lines over time, in MiB from zero up.
pub fn time_series(title: &str, lines: &[Line]) -> Result<String> {
    const MIB: f64 = 1024.0 * 1024.0;
    let all = || lines.iter().flat_map(|line| &line.points);
    let end = all().map(|p| p.0).fold(1.0, f64::max);
    let top = all().map(|p| p.1 / MIB).fold(1.0, f64::max) * 1.05;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (960, 480)).into_drawing_area();
        root.fill(&WHITE).map_err(drawing)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..end, 0.0..top)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("seconds")
            .y_desc("MiB")
            .draw()
            .map_err(drawing)?;
        for (i, line) in lines.iter().enumerate() {
            let color = Palette99::pick(i).to_rgba();
            let points = line.points.iter().map(|&(x, y)| (x, y / MIB));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))
                .map_err(drawing)?
                .label(short(&line.name))
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(drawing)?;
        root.present().map_err(drawing)?;
    }
    Ok(svg)
}

#[allow(clippy::needless_pass_by_value)] // the shape that map_err wants
fn drawing<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("the picture cannot be drawn: {error}")
}

fn pixels(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn coordinate(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heat_map_has_a_square_a_pair_and_escapes_names() {
        let zero = vec![vec![0; 2]; 2];
        let matrix = Matrix {
            names: vec!["a<b".into(), "c".into()],
            pages: vec![vec![10, 4], vec![4, 20]],
            by: Mechanism::ALL.into_iter().map(|m| (m.name(), zero.clone())).collect(),
            groups: None,
        };
        let svg = heat_map(&matrix).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
        assert!(svg.matches("<rect").count() >= 4);
    }

    #[test]
    fn a_series_is_drawn_even_where_it_is_one_point() {
        let line = Line { name: "footprint".into(), points: vec![(0.0, 1e6)] };
        assert!(time_series("t", &[line]).unwrap().contains("footprint"));
        assert!(time_series("t", &[]).is_ok());
    }
}
