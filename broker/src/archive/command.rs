//! `sealcast-broker export` and `sealcast-broker import`.

use std::path::PathBuf;

use sealcast_proto::{TopicId, TopicLink};

use super::{ArchiveError, Counts, export, import};
use crate::cli;

/// Writes topics into a file, as a copy or for another broker; the broker must not be running
#[derive(Debug, Clone, clap::Args)]
pub struct Export {
    /// Which topics: an id or a link; without any, all
    #[arg(value_name = "TOPIC", value_parser = topic)]
    pub topics: Vec<TopicId>,
    /// Where the broker keeps its data [default: the platform's data directory]
    #[arg(long, env = "SEALCAST_BROKER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The file, which must not exist
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Takes up the topics that another broker exported; the broker must not be running
#[derive(Debug, Clone, clap::Args)]
pub struct Import {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where the broker keeps its data [default: the platform's data directory]
    #[arg(long, env = "SEALCAST_BROKER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
}

impl Export {
    /// Does it; returns what there is to say.
    pub fn run(self) -> Result<String, ArchiveError> {
        let data = self.data.unwrap_or_else(cli::default_data);
        let Counts { topics, records, bytes, .. } = export(&data, &self.topics, &self.output)?;
        Ok(format!("exported {topics} topics, {records} records, {bytes} bytes; all verified"))
    }
}

impl Import {
    /// Does it; returns what there is to say.
    pub fn run(self) -> Result<String, ArchiveError> {
        let data = self.data.unwrap_or_else(cli::default_data);
        let Counts { topics, known, records, .. } = import(&self.file, &data)?;
        Ok(format!("verified {topics} topics, {records} records; {known} topics were here already"))
    }
}

fn topic(text: &str) -> Result<TopicId, String> {
    match text.parse::<TopicLink>() {
        Ok(link) => Ok(link.topic),
        Err(_) => text.parse().map_err(|_| format!("{text:?} is no topic's id or link")),
    }
}
