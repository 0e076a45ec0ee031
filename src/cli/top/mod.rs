//! `sealcast top`: what a broker does right now.

mod app;
mod draw;
mod fetch;
mod live;
mod rows;

use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

use super::failure::{Exit, Failure};
use super::output::to_stdout;
use super::table::table;
use super::times;
use fetch::Ops;
use rows::{HEADINGS, Sort, Totals, topics};

/// Watch a broker: topics, rates, who publishes, how far its subscribers have read
///
/// Asks the broker's operations listener, which `sealcast broker --ops` opens on this machine. What it shows any operator
/// of the broker can see; no payload and no key is among it.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The operations listener
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7444", env = "SEALCAST_OPS")]
    ops: Ops,
    /// How often to ask, and over how long rates are taken
    #[arg(long, value_name = "DURATION", value_parser = times::duration, default_value = "1s", env = "SEALCAST_EVERY")]
    every: Duration,
    /// Print one table and end
    #[arg(long, env = "SEALCAST_ONCE", value_parser = FalseyValueParser::new())]
    once: bool,
    /// Print one JSON object and end
    #[arg(long, env = "SEALCAST_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Top {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        // The broker's own clock has milliseconds.
        let every = self.every.max(Duration::from_millis(10));
        if !self.once && !self.json {
            return live::run(&self.ops, every).await;
        }
        let before = self.ops.status().await?;
        tokio::time::sleep(every).await;
        let now = self.ops.status().await?;
        let rows = topics(&now, Some(&before), Sort::Traffic, false);
        if self.json {
            let shown = rows::Shown::new(&now, &rows);
            let json = serde_json::to_string(&shown)
                .map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
            return to_stdout(format!("{json}\n").as_bytes());
        }
        let cells: Vec<_> = rows.iter().map(rows::Row::cells).collect();
        let mut lines = vec![rows::headline(&now), Totals::of(&rows).line(), String::new()];
        lines.extend(table(&HEADINGS, &cells));
        lines.push(String::new());
        to_stdout(lines.join("\n").as_bytes())
    }
}
