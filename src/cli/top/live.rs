//! The live view: keys and the clock move it, until q.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use sealcast_broker::ops::BrokerStatus;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::app::App;
use super::draw::draw;
use super::fetch::Ops;
use crate::cli::failure::Failure;
use crate::cli::signals::Stop;

/// How soon the thread that waits for keys notices that nobody wants them any more.
const LOOK_UP: Duration = Duration::from_millis(100);

/// What the terminal says.
enum Told {
    Key(KeyEvent),
    /// Another size, or the focus came back: draw again.
    Redraw,
}

/// Shows it until somebody quits.
pub(super) async fn run(ops: &Ops, every: Duration) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "this is no terminal: there is nothing to draw on and no key to wait for",
        )
        .hint("`sealcast top --once` prints one table, --json one object"));
    }
    // Before the screen is taken: a mistake is to be read.
    let mut app = App::new(ops.status().await?);
    let stop = Stop::listen();
    let mut terminal = ratatui::try_init().map_err(|error| Failure::io("use the terminal", &error))?;
    let shown = show(&mut terminal, &mut app, ops, every, stop).await;
    ratatui::restore();
    shown.map_err(|error| Failure::io("draw on the terminal", &error))
}

async fn show(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    ops: &Ops,
    every: Duration,
    mut stop: Stop,
) -> io::Result<()> {
    let (mut told, mut answers) = (listen(), ask(ops.clone(), every));
    loop {
        terminal.draw(|frame| draw(frame, app))?;
        tokio::select! {
            () = stop.asked() => return Ok(()),
            said = told.recv() => match said {
                Some(Told::Key(key)) if !app.key(key) => return Ok(()),
                Some(Told::Key(_) | Told::Redraw) => {}
                None => return Ok(()),
            },
            answer = answers.recv() => match answer {
                Some(Ok(now)) => app.answered(now),
                Some(Err(failure)) => app.failed(failure.message().to_owned()),
                None => return Ok(()),
            },
        }
    }
}

/// Asks again and again, however many keys are pressed meanwhile.
fn ask(ops: Ops, every: Duration) -> mpsc::Receiver<Result<BrokerStatus, Failure>> {
    let (tell, told) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            sleep(every).await;
            if tell.send(ops.status().await).await.is_err() {
                return;
            }
        }
    });
    told
}

/// Waits for keys on a thread of its own: reading a terminal blocks.
fn listen() -> mpsc::Receiver<Told> {
    let (tell, told) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !tell.is_closed() {
            let event = match event::poll(LOOK_UP) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let say = match event {
                Ok(Event::Key(key)) => Told::Key(key),
                Ok(_) => Told::Redraw,
                // The terminal is gone.
                Err(_) => return,
            };
            if tell.blocking_send(say).is_err() {
                return;
            }
        }
    });
    told
}
