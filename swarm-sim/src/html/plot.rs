//! Lines over axes, as SVG.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 44.0;
/// A plot has no more lines than these.
const COLOURS: [&str; 6] = [
    "#1668b8", "#c2410c", "#15803d", "#7c3aed", "#b45309", "#475569",
];
/// Names of lines in a row of the legend, their width, and the height of a row.
const NAMED: usize = 4;
const NAME_WIDTH: f64 = 160.0;
const NAME_HEIGHT: f64 = 14.0;
/// Steps of the grid in each direction.
const STEPS: u32 = 4;

/// A line of a plot.
pub(super) struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub(super) const fn new(name: &'static str, points: Vec<(f64, f64)>) -> Self {
        Self { name, points }
    }
}

/// Where values lie on the picture.
struct Axes {
    x_max: f64,
    y_max: f64,
}

impl Axes {
    fn of(lines: &[Line]) -> Self {
        assert!(lines.len() <= COLOURS.len(), "a line without a colour");
        let points = || lines.iter().flat_map(|line| &line.points);
        Self {
            x_max: points().map(|p| p.0).fold(1.0, f64::max),
            y_max: points().map(|p| p.1).fold(1e-9, f64::max) * 1.05,
        }
    }

    fn x(&self, value: f64) -> f64 {
        MARGIN + value / self.x_max * (WIDTH - 2.0 * MARGIN)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - MARGIN + value / self.y_max * (2.0 * MARGIN - HEIGHT) * 0.95
    }
}

/// Appends a titled plot.
pub(super) fn plot(page: &mut String, title: &str, lines: &[Line]) {
    let axes = Axes::of(lines);
    let _ = write!(
        page,
        "<h2>{title}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
    );
    grid(page, &axes);
    for (index, (line, colour)) in lines.iter().zip(COLOURS).enumerate() {
        curve(page, &axes, line, colour);
        let at = MARGIN + NAME_WIDTH * (index % NAMED) as f64;
        let y = NAME_HEIGHT * (index / NAMED) as f64;
        let _ = write!(
            page,
            "<rect x=\"{at}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            y + 2.0,
            at + 14.0,
            y + 11.0,
            line.name
        );
    }
    page.push_str("</svg>");
}

fn grid(page: &mut String, axes: &Axes) {
    for step in 0..=STEPS {
        let share = f64::from(step) / f64::from(STEPS);
        let (x, y) = (axes.x(share * axes.x_max), axes.y(share * axes.y_max));
        let _ = write!(
            page,
            "<path d=\"M{MARGIN} {y:.1}H{:.1}\" stroke=\"#e3e8ee\"/><text x=\"2\" y=\"{y:.1}\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            WIDTH - MARGIN,
            short(share * axes.y_max),
            HEIGHT - MARGIN + 16.0,
            short(share * axes.x_max)
        );
    }
}

fn curve(page: &mut String, axes: &Axes, line: &Line, colour: &str) {
    let mut path = String::new();
    for (index, (at, value)) in line.points.iter().enumerate() {
        let pen = if index == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{pen}{:.1} {:.1}", axes.x(*at), axes.y(*value));
    }
    let _ = write!(
        page,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
    );
}

fn short(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0}k", v / 1000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 2.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_and_named_within_the_picture() {
        let names = ["one", "two", "three", "four", "five"];
        let lines = names.map(|name| Line::new(name, vec![(0.0, 0.0), (1.0, 1.0)]));
        let mut page = String::new();
        plot(&mut page, "five", &lines);
        assert_eq!(page.matches("fill=\"none\"").count(), 5);
        for name in names {
            assert!(page.contains(&format!(">{name}</text>")), "{name}");
        }
        let right = MARGIN + NAME_WIDTH * NAMED as f64;
        assert!(right <= WIDTH && 2.0 * NAME_HEIGHT <= MARGIN);
    }
}
