//! How the live view looks.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row as Cells, Table, TableState};
use sealcast_broker::ops::{BrokerStatus, TopicStatus};

use super::app::App;
use super::rows::{HEADINGS, Totals, headline};
use crate::cli::say::{bytes, clean, grouped};
use crate::cli::times::span;

const KEYS: &str = "q quit · ↑↓ topic · sort by: t traffic, l lag, u subscribers, s size, n name · r reverse · c connections";

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let rows = app.rows();
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(4),
        Constraint::Percentage(40),
        Constraint::Length(1),
    ]);
    let [head, totals, table, detail, foot] = areas.areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(Line::styled(headline(&app.now), bold)), head);
    let line = match &app.failed {
        Some(why) => Line::styled(clean(why), Style::new().add_modifier(Modifier::REVERSED)),
        None => Line::raw(Totals::of(&rows).line()),
    };
    frame.render_widget(Paragraph::new(line), totals);

    let by = format!(" topics by {}{} ", app.sort.name(), if app.reversed { ", reversed" } else { "" });
    let cells: Vec<_> = rows.iter().map(|row| row.cells()).collect();
    grid(frame, table, &by, &HEADINGS, &cells, app.selected(&rows));
    if app.connections {
        connections(frame, detail, &app.now);
    } else if let Some(topic) = app.topic(&rows) {
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(detail);
        publishers(frame, left, topic, app.now.time_ms);
        subscribers(frame, right, topic, app.now.time_ms);
    }
    frame.render_widget(Paragraph::new(KEYS), foot);
}

fn publishers(frame: &mut Frame<'_>, area: Rect, topic: &TopicStatus, now_ms: u64) {
    let rows = topic.publishers.iter().map(|publisher| {
        vec![
            short(&publisher.identity),
            publisher.epoch_time_ms.map_or("–".into(), |began_ms| since(began_ms, now_ms)),
            grouped(publisher.batches),
            publisher.last_offset.map_or("–".into(), grouped),
            if publisher.streams > 0 { "connected".into() } else { "away".into() },
        ]
    });
    let headings = ["publisher", " epoch age", " batches", " last offset", "now"];
    let title = format!(" publishers of {} ", clean(&topic.name));
    grid(frame, area, &title, &headings, &rows.collect::<Vec<_>>(), None);
}

fn subscribers(frame: &mut Frame<'_>, area: Rect, topic: &TopicStatus, now_ms: u64) {
    let rows = topic.subscribers.iter().map(|subscriber| {
        vec![
            short(&subscriber.identity),
            since(subscriber.since_ms, now_ms),
            grouped(subscriber.position),
            grouped(subscriber.lag),
            bytes(subscriber.delivered_bytes),
        ]
    });
    let headings = ["subscriber", " for", " position", " lag", " delivered"];
    let title = format!(" subscribers of {} ", clean(&topic.name));
    grid(frame, area, &title, &headings, &rows.collect::<Vec<_>>(), None);
}

fn connections(frame: &mut Frame<'_>, area: Rect, now: &BrokerStatus) {
    let rows = now.connections.iter().map(|connection| {
        vec![
            short(&connection.identity),
            clean(&connection.from),
            clean(&connection.agent),
            since(connection.since_ms, now.time_ms),
            connection.streams.to_string(),
            format!("{}.{} ms", connection.rtt_us / 1000, connection.rtt_us % 1000 / 100),
        ]
    });
    let headings = ["identity", "from", "agent", " for", " streams", " round trip"];
    grid(frame, area, " connections ", &headings, &rows.collect::<Vec<_>>(), None);
}

/// A table in a frame; a column whose heading begins with a blank is aligned to the right.
fn grid(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    headings: &[&str],
    rows: &[Vec<String>],
    selected: Option<usize>,
) {
    let width = |at: usize, heading: &str| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        let widest = cells.chain([heading.trim().chars().count()]).max().unwrap_or(0);
        Constraint::Length(u16::try_from(widest).unwrap_or(u16::MAX))
    };
    let cell = |at: usize, text: &str| {
        let line = Line::raw(text.to_owned());
        let right = headings.get(at).is_some_and(|heading| heading.starts_with(' '));
        Cell::from(if right { line.right_aligned() } else { line })
    };
    let line = |cells: &[String]| {
        Cells::new(cells.iter().enumerate().map(|(at, text)| cell(at, text)).collect::<Vec<_>>())
    };
    let names: Vec<String> = headings.iter().map(|heading| heading.trim().to_owned()).collect();
    let table = Table::new(
        rows.iter().map(|row| line(row)),
        headings.iter().enumerate().map(|(at, heading)| width(at, heading)),
    )
    .header(line(&names).style(Style::new().add_modifier(Modifier::BOLD)))
    .column_spacing(2)
    .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
    .block(Block::new().borders(Borders::TOP).title(title.to_owned()));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

fn short(identity: &str) -> String {
    clean(identity).chars().take(12).collect()
}

fn since(then_ms: u64, now_ms: u64) -> String {
    // Seconds: nobody reads the rest of a moving view.
    span(now_ms.saturating_sub(then_ms) / 1000 * 1000)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::super::rows::tests::{broker, topic};
    use super::*;

    /// The screen as lines.
    fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn app() -> App {
        let before = broker(118_000, vec![topic("aabbccddee", "prices", 1_000, 0)]);
        let now = broker(
            120_000,
            vec![topic("aabbccddee", "prices", 21_000, 4), topic("ffeeddccbb", "alerts", 0, 0)],
        );
        let mut app = App::new(before);
        app.answered(now);
        app
    }

    #[test]
    fn topics_publishers_and_subscribers_are_drawn() {
        let lines = screen(&app(), 120, 20);
        assert_eq!(lines[0], "sealcast 0.1.0 seal1brokerk, ready, up 1m, 1 connection, 2 topics");
        assert_eq!(lines[1], "100 records/s, 9.8 KiB/s in, 19.5 KiB/s out");
        assert!(lines[2].starts_with(" topics by traffic ──"), "{lines:#?}");
        assert_eq!(
            lines[3],
            "topic     name    records/s     in/s     out/s  records      size  members  publishers  subscribers  max lag"
        );
        assert_eq!(
            lines[4],
            "aabbccdd  prices        100  9.8 KiB  19.5 KiB        8  20.5 KiB        3           1            1        4"
        );
        assert!(lines[5].starts_with("ffeeddcc  alerts"), "{lines:#?}");
        let detail = lines.iter().position(|line| line.starts_with(" publishers of prices ")).unwrap();
        assert!(lines[detail].contains(" subscribers of prices "), "{lines:#?}");
        let (left, right) = lines[detail + 2].split_at(60);
        assert_eq!(
            left.split_whitespace().collect::<Vec<_>>(),
            ["seal1publish", "1m", "3", "9", "connected"]
        );
        assert_eq!(
            right.split_whitespace().collect::<Vec<_>>(),
            ["seal1reader", "1m", "6", "4", "4.9", "KiB"]
        );
        assert!(lines[19].starts_with("q quit"), "{lines:#?}");
    }

    #[test]
    fn connections_and_failures_are_drawn() {
        let mut app = app();
        app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::NONE));
        app.failed("no answer in time".into());
        let lines = screen(&app, 120, 20);
        assert_eq!(lines[1], "no answer in time");
        let at = lines.iter().position(|line| line.starts_with(" connections ──")).unwrap();
        let row: Vec<_> = lines[at + 2].split_whitespace().collect();
        assert_eq!(row, ["seal1reader", "127.0.0.1:5000", "sealcast/0.1.0", "1m", "2", "0.2", "ms"]);
        assert!(!lines.iter().any(|line| line.contains(" publishers of ")));
    }

    /// However small the terminal and however little there is to show.
    #[test]
    fn any_size_will_do() {
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 100)] {
            screen(&app(), width, height);
            screen(&App::new(broker(60_000, vec![])), width, height);
        }
    }
}
