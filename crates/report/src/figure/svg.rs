//! Drawing through plotters' SVG backend. Colours are Okabe and Ito's; markers differ too, so that colour alone
//! carries nothing.

use super::{Figure, Kind, Point};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane = plotters::coord::types::RangedCoordf64;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Plane, Plane>>;

const SIZE: (u32, u32) = (960, 480);
const GREY: RGBColor = RGBColor(90, 90, 90);
const COLOURS: [RGBColor; 6] = [
    RGBColor(110, 110, 110),
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
];

fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// Plotters' errors as text: the backend writes into memory, so none is expected.
fn said<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

pub(super) fn draw(figure: &Figure) -> Result<String, String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(said)?;
        let (head, body) = root.split_vertically(64);
        heading(figure, &head)?;
        chart(figure, &body)?;
        root.present().map_err(said)?;
    }
    Ok(text)
}

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

/// The title, and under it the legend: a marker and a label per series.
fn heading(figure: &Figure, area: &Area) -> Result<(), String> {
    area.draw(&Text::new(figure.title.clone(), (16, 12), font(20))).map_err(said)?;
    let mut left = 24;
    let mut entry = |label: &str, place: Option<usize>| -> Result<(), String> {
        match place {
            Some(place) => mark(area, place, (left, 48), colour(place))?,
            None => hollow(area, (left, 48), GREY)?,
        }
        area.draw(&Text::new(label.to_string(), (left + 10, 40), font(16))).map_err(said)?;
        left += 36 + 7 * label.chars().count() as i32;
        Ok(())
    };
    for one in &figure.series {
        entry(&one.label, Some(one.place))?;
    }
    if figure.series.iter().flat_map(|one| &one.points).any(|point| point.paper.is_some()) {
        entry("the paper's value", None)?;
    }
    Ok(())
}

/// The marker of a series at a pixel: circle, triangle, filled square, diamond, in turn.
fn mark(area: &Area, place: usize, at: (i32, i32), colour: RGBColor) -> Result<(), String> {
    let (x, y) = at;
    match place % 4 {
        0 => area.draw(&Circle::new(at, 4, colour.filled())),
        1 => area.draw(&Polygon::new(vec![(x, y - 5), (x + 5, y + 4), (x - 5, y + 4)], colour.filled())),
        2 => area.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], colour.filled())),
        _ => area.draw(&Polygon::new(vec![(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)], colour.filled())),
    }
    .map_err(said)
}

/// The hollow square of the paper's values.
fn hollow(area: &Area, (x, y): (i32, i32), colour: RGBColor) -> Result<(), String> {
    let square = Rectangle::new([(x - 5, y - 5), (x + 5, y + 5)], colour.stroke_width(2));
    area.draw(&square).map_err(said)
}

fn chart(figure: &Figure, area: &Area) -> Result<(), String> {
    let points = || figure.series.iter().flat_map(|one| &one.points);
    let heights = points().flat_map(|p| p.run.map(|s| [s.min, s.max]).into_iter().flatten().chain(p.paper));
    let (low, high) = match figure.range {
        Some([low, high]) => (low, high),
        None => padded(heights, 0.06),
    };
    let (left, right) = match figure.kind {
        Kind::Dots => (0.0, figure.categories.len().max(1) as f64),
        Kind::Lines => padded(points().filter_map(|p| p.x).map(f64::log10), 0.06),
    };
    // A value on the frame keeps its whole marker: the plane is a little larger than the axis.
    let slack = 0.03 * (high - low);
    let mut chart = ChartBuilder::on(area)
        .margin_left(12)
        .margin_right(24)
        .x_label_area_size(56)
        .y_label_area_size(64)
        .build_cartesian_2d(left..right, low - slack..high + slack)
        .map_err(said)?;
    let decimals = if high - low < 0.1 { 3 } else { 2 };
    let y_text = |y: &f64| format!("{y:.decimals$}");
    let x_text = |x: &f64| format!("{:.1e}", 10f64.powf(*x));
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .label_style(font(15))
        .y_labels(6)
        .y_label_formatter(&y_text)
        .y_desc(figure.y_label.clone());
    match figure.kind {
        Kind::Dots => mesh.disable_x_mesh().x_labels(0),
        Kind::Lines => mesh.x_labels(5).x_label_formatter(&x_text).x_desc(figure.x_label.clone()),
    };
    mesh.draw().map_err(said)?;
    if figure.kind == Kind::Dots {
        categories(figure, &chart, area, low - slack)?;
    }
    for one in &figure.series {
        let offset = |p: &Point| match figure.kind {
            Kind::Dots => p.category as f64 + 0.5 + spread(figure, one.place),
            Kind::Lines => p.x.map_or(f64::NAN, f64::log10),
        };
        if figure.kind == Kind::Lines {
            let mut line: Vec<(f64, f64)> =
                one.points.iter().filter_map(|p| p.run.map(|s| (offset(p), s.median))).filter(finite).collect();
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            chart.draw_series(LineSeries::new(line, colour(one.place).stroke_width(1))).map_err(said)?;
        }
        for point in &one.points {
            draw_point(&chart, area, offset(point), point, one.place)?;
        }
    }
    Ok(())
}

fn draw_point(chart: &Chart, area: &Area, x: f64, point: &Point, place: usize) -> Result<(), String> {
    let base = area.get_base_pixel();
    let pixel = |y: f64| {
        let (px, py) = chart.backend_coord(&(x, y));
        (px - base.0, py - base.1)
    };
    let colour = colour(place);
    if let Some(paper) = point.paper.filter(|paper| finite(&(x, *paper))) {
        hollow(area, pixel(paper), colour)?;
    }
    let Some(run) = point.run else { return Ok(()) };
    let whole = run.median.is_finite() && run.max.is_finite() && run.min.is_finite();
    if !whole {
        // A broken run has no place on the axes and must not vanish either: a word at the foot of its column.
        let (px, py) = pixel(chart.as_coord_spec().get_y_range().start);
        let style = font(15).color(&colour).pos(Pos::new(HPos::Center, VPos::Bottom));
        area.draw(&Text::new("NaN", (px, py - 4), style)).map_err(said)?;
    } else if x.is_finite() {
        if run.max > run.min {
            let (top, bottom) = (pixel(run.max), pixel(run.min));
            let cap = |(px, py): (i32, i32)| vec![(px - 4, py), (px + 4, py)];
            for path in [vec![top, bottom], cap(top), cap(bottom)] {
                area.draw(&PathElement::new(path, colour.stroke_width(1))).map_err(said)?;
            }
        }
        mark(area, place, pixel(run.median), colour)?;
    }
    Ok(())
}

/// Labels under the categories, and a line between neighbours.
fn categories(figure: &Figure, chart: &Chart, area: &Area, floor: f64) -> Result<(), String> {
    let base = area.get_base_pixel();
    let top = chart.plotting_area().get_pixel_range().1.start - base.1;
    for (index, label) in figure.categories.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(index as f64 + 0.5, floor));
        let style = font(16).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(label.clone(), (x - base.0, y - base.1 + 12), style)).map_err(said)?;
        if index > 0 {
            let (x, y) = chart.backend_coord(&(index as f64, floor));
            let line = vec![(x - base.0, top), (x - base.0, y - base.1)];
            area.draw(&PathElement::new(line, RGBColor(200, 200, 200))).map_err(said)?;
        }
    }
    Ok(())
}

/// Where a series stands within its category, from the middle: neighbours are 48 pixels apart, less where the series
/// would take more than 60 % of the category.
fn spread(figure: &Figure, place: usize) -> f64 {
    let count = figure.series.len();
    let index = figure.series.iter().position(|one| one.place == place).unwrap_or(0);
    let gaps = count.saturating_sub(1) as f64;
    let step = (0.6 / gaps.max(1.0)).min(48.0 * figure.categories.len() as f64 / f64::from(SIZE.0));
    step * (index as f64 - 0.5 * gaps)
}

fn finite(at: &(f64, f64)) -> bool {
    at.0.is_finite() && at.1.is_finite()
}

/// The range of finite values, widened by a share of itself on both sides; 0 to 1 for no values.
fn padded(values: impl Iterator<Item = f64>, share: f64) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let pad = if high > low { share * (high - low) } else { 0.5 * low.abs().max(1.0) * share };
    (low - pad, high + pad)
}
