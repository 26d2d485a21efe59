//! Cases beside their references, measured in the same run.

use crate::goal::Goal;
use crate::report::Grid;
use crate::statistics::Spread;

/// A measured case beside its reference.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Row {
    /// What was measured.
    what: String,
    /// What else this run showed: text that follows the name, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
    /// The figure, in the table's unit.
    figure: Spread,
    /// A second figure, where the table has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    also: Option<Spread>,
    /// The figure divided by the reference's, round by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
}

/// A figure divided by that of a reference in the same round.
#[derive(Clone, Debug, serde::Serialize)]
struct Ratio {
    /// The reference.
    of: String,
    spread: Spread,
    /// The most that it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
}

/// Rows with one heading.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Table {
    title: String,
    /// The unit of the figures.
    unit: String,
    /// The unit of the second figures, or nothing.
    also: String,
    /// In the order of the runs.
    rows: Vec<Row>,
    /// Goals that are not the ratio of one row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    further: Vec<Goal>,
}

impl Row {
    /// Creates a row of one figure for each round.
    pub(crate) fn new(what: impl Into<String>, figures: &[f64]) -> Self {
        Self {
            what: what.into(),
            note: String::new(),
            figure: Spread::of(figures.to_vec()),
            also: None,
            ratio: None,
        }
    }

    /// Adds text that follows the name.
    pub(crate) fn noted(mut self, note: String) -> Self {
        self.note = note;
        self
    }

    /// Adds a second figure.
    pub(crate) fn with(mut self, also: Spread) -> Self {
        self.also = Some(also);
        self
    }

    /// Adds the ratio to a reference, and the most that it should be.
    pub(crate) fn against(
        mut self,
        of: impl Into<String>,
        spread: Spread,
        goal: Option<f64>,
    ) -> Self {
        self.ratio = Some(Ratio {
            of: of.into(),
            spread,
            goal,
        });
        self
    }

    fn cells(&self, has_also: bool) -> Vec<String> {
        let mut cells = vec![
            format!("{}{}", self.what, self.note),
            self.figure.to_string(),
        ];
        if has_also {
            cells.push(self.also.map_or_else(String::new, |it| it.to_string()));
        }
        let ratio = self.ratio.as_ref();
        cells.push(ratio.map_or_else(String::new, |it| format!("{} of {}", it.spread, it.of)));
        cells.push(ratio.map_or_else(String::new, Ratio::verdict));
        cells
    }
}

impl Table {
    pub(crate) fn new(
        title: impl Into<String>,
        unit: impl Into<String>,
        rows: impl IntoIterator<Item = Row>,
    ) -> Self {
        Self {
            title: title.into(),
            unit: unit.into(),
            also: String::new(),
            rows: rows.into_iter().collect(),
            further: Vec::new(),
        }
    }

    /// Names the unit of the second figures.
    pub(crate) fn with(mut self, unit: &str) -> Self {
        unit.clone_into(&mut self.also);
        self
    }

    /// Adds goals that are not the ratio of one row.
    pub(crate) fn and_goals(mut self, goals: impl IntoIterator<Item = Goal>) -> Self {
        self.further.extend(goals);
        self
    }

    /// Returns the goals of the rows, and the further ones.
    fn goals(&self) -> Vec<Goal> {
        let of_rows = self.rows.iter().filter_map(|row| {
            let ratio = row.ratio.as_ref()?;
            // A row is there again for each further reference.
            let what = row.what.trim_end_matches(" (again)");
            Some(Goal::at_most(
                ratio.goal?,
                format!("of {}", ratio.of),
                format!("{}: {what}", self.title),
                ratio.spread,
            ))
        });
        of_rows.chain(self.further.iter().cloned()).collect()
    }

    /// Returns the table as text, with its goals.
    pub(crate) fn grid(&self) -> Grid {
        let has_also = !self.also.is_empty();
        let also = has_also.then_some(self.also.as_str());
        let head: Vec<&str> = ["case", &self.unit]
            .into_iter()
            .chain(also)
            .chain(["ratio", "goal"])
            .collect();
        let mut grid = Grid::new(&self.title, &head);
        grid.rows
            .extend(self.rows.iter().map(|row| row.cells(has_also)));
        grid.goals = self.goals();
        grid.remarks = self.further.iter().map(Goal::sentence).collect();
        grid
    }
}

impl Ratio {
    fn verdict(&self) -> String {
        self.goal.map_or_else(String::new, |most| {
            Goal::at_most(most, "", "", self.spread).verdict()
        })
    }
}
