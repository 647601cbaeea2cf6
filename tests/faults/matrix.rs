//! The rows, and how they are played.

use crate::scene::Scene;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// Rows that run side by side: most of them wait for something.
const PLAYERS: usize = 4;

/// What a row does; it says what came of it.
type Play = Box<dyn FnOnce(&mut Scene) -> String + Send>;

struct Row {
    fault: String,
    mode: &'static str,
    point: String,
    expected: String,
    play: Play,
}

struct Played {
    line: String,
    surprise: Option<String>,
    time: Duration,
}

/// All rows.
#[derive(Default)]
pub(crate) struct Rows(Vec<Row>);

impl Rows {
    /// A fault, in a mode, at a point, what is expected, and how it is played.
    pub(crate) fn add(
        &mut self,
        fault: impl Into<String>,
        mode: &'static str,
        point: impl Into<String>,
        expected: impl Into<String>,
        play: impl FnOnce(&mut Scene) -> String + Send + 'static,
    ) {
        let (fault, point, expected) = (fault.into(), point.into(), expected.into());
        self.0.push(Row { fault, mode, point, expected, play: Box::new(play) });
    }

    /// Plays all of them, writes the table, and returns the surprises.
    pub(crate) fn play(self) -> Vec<String> {
        let wanted = std::env::var("PAGEHERD_FAULTS").unwrap_or_default();
        let rows = self
            .0
            .into_iter()
            .filter(|row| format!("{},{},{}", row.fault, row.mode, row.point).contains(&wanted));
        let queue = Mutex::new(rows.enumerate());
        let done = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..PLAYERS {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap().next();
                        let Some((number, row)) = next else { return };
                        let played = play(row);
                        done.lock().unwrap().push((number, played));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap();
        done.sort_by_key(|(number, _)| *number);
        report(done.into_iter().map(|(_, played)| played).collect())
    }
}

fn play(row: Row) -> Played {
    let start = Instant::now();
    let mut scene = Scene::new();
    let got = catch_unwind(AssertUnwindSafe(|| (row.play)(&mut scene)));
    let mut got = got.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("stopped: {}", words.unwrap_or("?"))
    });
    let left = scene.leftovers();
    if !left.is_empty() {
        let _ = write!(got, "; left: {}", left.join(", "));
    }
    let cell = |text: &str| {
        let plain = text.replace(['"', '\n'], " ");
        if plain.contains(',') { format!("\"{plain}\"") } else { plain }
    };
    let cells = [&row.fault, row.mode, &row.point, &row.expected, &got].map(cell);
    let surprise = (got != row.expected).then(|| {
        format!(
            "{} / {} / {}: expected {}; got {got}",
            row.fault, row.mode, row.point, row.expected
        )
    });
    Played { line: cells.join(","), surprise, time: start.elapsed() }
}

fn report(played: Vec<Played>) -> Vec<String> {
    let mut table = "fault,mode,point,expected,got\n".to_owned();
    played.iter().for_each(|row| table.extend([&row.line, "\n"]));
    print!("{table}");
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    fs::write(target.join("faults.csv"), table).unwrap();
    let points = played.len();
    let slowest = played.iter().max_by_key(|row| row.time);
    if let Some(row) = slowest {
        println!("slowest, {:.1} s: {}", row.time.as_secs_f64(), row.line);
    }
    let surprises: Vec<String> = played.into_iter().filter_map(|row| row.surprise).collect();
    println!("{points} fault points, {} surprises", surprises.len());
    surprises
}
