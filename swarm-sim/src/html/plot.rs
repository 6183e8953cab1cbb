//! Lines over axes, as SVG.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 250.0;
/// Around the lines: numbers of the vertical axis, the legend, numbers and unit of the horizontal axis.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 38.0;
/// A plot has no more lines than these.
const COLOURS: [&str; 6] = [
    "#1668b8", "#e8590c", "#15803d", "#7c3aed", "#db2777", "#475569",
];
/// Names of lines in a row of the legend, their width, and the height of a row.
const NAMED: usize = 4;
const NAME_WIDTH: f64 = 160.0;
const NAME_HEIGHT: f64 = 14.0;
/// Lines of the grid in each direction, beside that of zero, at most.
const STEPS_MAX: f64 = 6.0;

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

/// What a plot shows, and in which units.
pub(super) struct Titles {
    pub(super) plot: &'static str,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
}

/// Where values lie on the picture.
struct Axes {
    x_max: f64,
    x_step: Step,
    y_max: f64,
    y_step: Step,
}

impl Axes {
    fn of(lines: &[Line]) -> Self {
        assert!(lines.len() <= COLOURS.len(), "a line without a colour");
        let points = || lines.iter().flat_map(|line| &line.points);
        let x_max = points().map(|p| p.0).fold(1.0, f64::max);
        let highest = points().map(|p| p.1).fold(0.0, f64::max);
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let y_step = Step::up_to(highest);
        Self {
            x_max,
            x_step: Step::up_to(x_max),
            y_max: (highest / y_step.size).ceil() * y_step.size,
            y_step,
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - TOP - BOTTOM)
    }
}

/// From one line of the grid to the next: a number that people count in.
struct Step {
    size: f64,
    /// Digits after the point that it needs.
    decimals: usize,
}

impl Step {
    fn up_to(max: f64) -> Self {
        let sizes = (-7..).flat_map(|exponent| {
            let size = move |digit: f64| Self {
                size: digit * 10f64.powi(exponent),
                decimals: usize::try_from(-exponent).unwrap_or(0),
            };
            [1.0, 2.0, 5.0].map(size)
        });
        let mut fitting = sizes.skip_while(|step| step.size * STEPS_MAX < max);
        fitting.next().expect("sizes grow without end")
    }

    /// Zero, and all of its multiples up to `max`, with their texts.
    fn marks(&self, max: f64) -> impl Iterator<Item = (f64, String)> {
        let count = (max / self.size + 1e-6) as u32;
        (0..=count).map(|step| {
            let value = f64::from(step) * self.size;
            (value, format!("{value:.*}", self.decimals))
        })
    }
}

/// Appends a titled plot.
pub(super) fn plot(page: &mut String, titles: &Titles, lines: &[Line]) {
    let axes = Axes::of(lines);
    let title = titles.plot;
    let _ = write!(
        page,
        "<h2>{title}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
    );
    grid(page, &axes);
    let _ = write!(
        page,
        "<text x=\"2\" y=\"{:.1}\">{}</text>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        TOP - 14.0,
        titles.y,
        WIDTH - RIGHT,
        HEIGHT - 6.0,
        titles.x
    );
    for (index, (line, colour)) in lines.iter().zip(COLOURS).enumerate() {
        curve(page, &axes, line, colour);
        let at = LEFT + NAME_WIDTH * (index % NAMED) as f64;
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
    for (value, text) in axes.y_step.marks(axes.y_max) {
        let y = axes.y(value);
        let _ = write!(
            page,
            "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#e3e8ee\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (value, text) in axes.x_step.marks(axes.x_max) {
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
            axes.x(value),
            HEIGHT - BOTTOM + 15.0
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

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: Titles = Titles {
        plot: "five lines",
        x: "seconds",
        y: "Mbit/s",
    };

    fn drawn(points: &[(f64, f64)]) -> String {
        let names = ["one", "two", "three", "four", "five"];
        let lines = names.map(|name| Line::new(name, points.to_vec()));
        let mut page = String::new();
        plot(&mut page, &TITLES, &lines);
        page
    }

    #[test]
    fn every_line_is_drawn_and_named_within_the_picture() {
        let page = drawn(&[(0.0, 0.0), (1.0, 1.0)]);
        assert_eq!(page.matches("fill=\"none\"").count(), 5);
        for name in ["one", "two", "three", "four", "five", TITLES.x, TITLES.y] {
            assert!(page.contains(&format!(">{name}</text>")), "{name}");
        }
        let right = LEFT + NAME_WIDTH * NAMED as f64;
        assert!(right <= WIDTH && 2.0 * NAME_HEIGHT <= TOP - 24.0);
    }

    #[test]
    fn axes_are_marked_with_round_numbers() {
        let page = drawn(&[(0.0, 0.0), (119.0, 17_321.0)]);
        for mark in ["0", "20", "100", "5000", "15000", "20000"] {
            assert!(page.contains(&format!(">{mark}</text>")), "{mark}: {page}");
        }
        assert!(!page.contains(">120</text>"), "past the last second");
        let page = drawn(&[(0.0, 0.0), (10.0, 0.999)]);
        for mark in ["0.0", "0.2", "1.0", "2", "10"] {
            assert!(page.contains(&format!(">{mark}</text>")), "{mark}: {page}");
        }
    }

    #[test]
    fn what_never_happened_is_drawn_as_a_flat_line() {
        let page = drawn(&[(0.0, 0.0), (60.0, 0.0)]);
        assert!(
            page.contains(">0.8</text>") && !page.contains("NaN"),
            "{page}"
        );
    }
}
