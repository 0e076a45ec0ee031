//! What the live view holds, and what keys do to it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use sealcast_broker::ops::{BrokerStatus, TopicStatus};

use super::rows::{Row, Sort, topics};

/// The live view.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) now: BrokerStatus,
    before: Option<BrokerStatus>,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    /// The topic whose publishers and subscribers are shown: it stays the same wherever it moves in the table.
    selected: Option<String>,
    /// Connections instead of publishers and subscribers.
    pub(super) connections: bool,
    /// Why the last question was not answered.
    pub(super) failed: Option<String>,
}

impl App {
    pub(super) fn new(now: BrokerStatus) -> Self {
        Self {
            now,
            before: None,
            sort: Sort::Traffic,
            reversed: false,
            selected: None,
            connections: false,
            failed: None,
        }
    }

    /// Takes the next answer.
    pub(super) fn answered(&mut self, now: BrokerStatus) {
        self.before = Some(std::mem::replace(&mut self.now, now));
        self.failed = None;
    }

    /// Takes notice that there was none: what was shown last stays.
    pub(super) fn failed(&mut self, why: String) {
        self.failed = Some(why);
    }

    /// The rows in their order.
    pub(super) fn rows(&self) -> Vec<Row> {
        topics(&self.now, self.before.as_ref(), self.sort, self.reversed)
    }

    /// Which row is selected; the first where none was chosen.
    pub(super) fn selected(&self, rows: &[Row]) -> Option<usize> {
        let chosen = rows.iter().position(|row| Some(&row.id) == self.selected.as_ref());
        chosen.or((!rows.is_empty()).then_some(0))
    }

    /// The topic of that row.
    pub(super) fn topic(&self, rows: &[Row]) -> Option<&TopicStatus> {
        let id = &rows.get(self.selected(rows)?)?.id;
        self.now.topics.iter().find(|topic| topic.id == *id)
    }

    /// Takes a key; says whether to go on.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        // In a raw terminal Ctrl-C is a key like any other.
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code != KeyCode::Char('c');
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('t') => self.sort = Sort::Traffic,
            KeyCode::Char('l') => self.sort = Sort::Lag,
            KeyCode::Char('u') => self.sort = Sort::Subscribers,
            KeyCode::Char('s') => self.sort = Sort::Size,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('c') => self.connections = !self.connections,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            _ => {}
        }
        true
    }

    fn step(&mut self, by: isize) {
        let rows = self.rows();
        let Some(at) = self.selected(&rows) else { return };
        let to = at.saturating_add_signed(by).min(rows.len().saturating_sub(1));
        self.selected = rows.get(to).map(|row| row.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{broker, topic};
    use super::*;

    #[test]
    fn keys_sort_select_and_quit() {
        let all = vec![topic("aa", "x", 900, 1), topic("bb", "z", 300, 5), topic("cc", "y", 600, 0)];
        let mut app = App::new(broker(100_000, vec![]));
        app.answered(broker(101_000, all.clone()));
        let press = |app: &mut App, code| app.key(KeyEvent::new(code, KeyModifiers::NONE));
        let at = |app: &App| app.topic(&app.rows()).unwrap().id.clone();
        assert_eq!(at(&app), "aa");
        assert!(press(&mut app, KeyCode::Down) && press(&mut app, KeyCode::Char('j')));
        assert_eq!(at(&app), "bb", "the last by traffic");
        press(&mut app, KeyCode::Down);
        assert_eq!(at(&app), "bb", "there is none below");
        // The selection follows its topic.
        press(&mut app, KeyCode::Char('l'));
        assert_eq!((app.selected(&app.rows()), at(&app)), (Some(0), "bb".into()));
        press(&mut app, KeyCode::Char('r'));
        assert_eq!(app.selected(&app.rows()), Some(2));
        app.answered(broker(102_000, all[..1].to_vec()));
        assert_eq!(at(&app), "aa", "the selected one is gone");
        app.answered(broker(103_000, vec![]));
        assert!(app.topic(&app.rows()).is_none());
        assert!(press(&mut app, KeyCode::Up));

        assert!(!press(&mut app, KeyCode::Char('q')) && !press(&mut app, KeyCode::Esc));
        assert!(!app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        let released = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert!(app.key(released));
    }
}
