//! Plots.

use std::ops::Range;

use plotters::prelude::{
    ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoFont as _, IntoLogRange as _,
    LineSeries, PathElement, RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::Failure;
use crate::report::Plot;
use crate::statistics::short;

const SIZE: (u32, u32) = (860, 460);

/// Returns the colour of a line, which is the same in every plot.
fn colour(name: &str) -> RGBColor {
    match name {
        "kernel inotify" => RGBColor(0x5a, 0x5a, 0x5a),
        "AgentFS kqueue" => RGBColor(0xe0, 0x7b, 0x1a),
        "AgentFS native" => RGBColor(0x2b, 0x8a, 0x3e),
        _ => RGBColor(0x1f, 0x6f, 0xb4),
    }
}

/// Returns a plot as SVG, with both axes logarithmic. Text is left to the browser's fonts.
pub(crate) fn svg(plot: &Plot) -> Result<String, Failure> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || plot.lines.iter().flat_map(|line| &line.points);
        let mut chart = ChartBuilder::on(&area)
            .caption(&plot.title, ("sans-serif", 18).into_font())
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(76)
            .build_cartesian_2d(
                span(points().map(|it| it.0)).log_scale(),
                span(points().map(|it| it.1)).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc(&plot.x)
            .y_desc(&plot.y)
            .x_label_formatter(&|it| axis(*it))
            .y_label_formatter(&|it| axis(*it))
            .light_line_style(RGBColor(0xee, 0xee, 0xee))
            .label_style(("sans-serif", 13))
            .draw()?;
        for line in &plot.lines {
            let colour = colour(&line.name);
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            if line.points.len() < 20 {
                let dots = line
                    .points
                    .iter()
                    .map(|at| Circle::new(*at, 3, colour.filled()));
                chart.draw_series(dots)?;
            }
        }
        chart
            .configure_series_labels()
            .position(free_corner(plot))
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(0xcc, 0xcc, 0xcc))
            .label_font(("sans-serif", 13))
            .draw()?;
        area.present()?;
    }
    Ok(text)
}

/// Returns the corner on the left where lines that rise or fall leave room.
fn free_corner(plot: &Plot) -> SeriesLabelPosition {
    let falls = plot.lines.iter().any(|line| match line.points.as_slice() {
        [first, .., last] => first.1 > last.1,
        _ => false,
    });
    if falls {
        SeriesLabelPosition::LowerLeft
    } else {
        SeriesLabelPosition::UpperLeft
    }
}

/// Returns the range from a bit below the least to a bit above the greatest.
fn span(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let greatest = values.fold(0.0, f64::max);
    if !least.is_finite() || greatest <= 0.0 {
        return 0.1..10.0;
    }
    (least.max(1e-9) * 0.8)..(greatest.max(least * 1.01) * 1.6)
}

fn axis(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", trimmed(v / 1e6)),
        v if v >= 1e4 => format!("{}k", trimmed(v / 1e3)),
        v => trimmed(v),
    }
}

fn trimmed(value: f64) -> String {
    let text = short(value);
    match text.split_once('.') {
        Some((whole, part)) if part.chars().all(|it| it == '0') => whole.to_owned(),
        _ => text,
    }
}
