//! The log, on stderr.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use crate::settings::{LogFilter, LogFormat};

/// The storage engine names a damaged place at every read; the broker itself says it once.
const ENGINE: &str =
    "fjall=warn,lsm_tree=warn,lsm_tree::vlog::blob_file::reader=off,lsm_tree::table::block=off";

type Reload = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Logs from now on: for people on a terminal, else an object a line, unless `as_what` says which. Does nothing if the
/// program logs already.
pub(crate) fn init(what: &LogFilter, as_what: LogFormat) {
    let is_text = match as_what {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let (filter, log) = (filter(what), tracing_subscriber::fmt());
    // Fails where logging is set up already: then so be it.
    if is_text {
        let log = log.with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
        let log = log.with_filter_reloading();
        let handle = log.reload_handle();
        if log.try_init().is_ok() {
            keep(handle);
        }
    } else {
        let log = log.json().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
        let log = log.with_filter_reloading();
        let handle = log.reload_handle();
        if log.try_init().is_ok() {
            keep(handle);
        }
    }
}

/// Logs this from now on.
pub(crate) fn set(what: &LogFilter) {
    if RELOAD.get().is_some_and(|reload| !reload(filter(what))) {
        tracing::error!("the log's level could not be changed");
    }
}

fn keep<S: Send + Sync + 'static>(handle: Handle<EnvFilter, S>) {
    // Set once: only the first `try_init` succeeds.
    let _ = RELOAD.set(Box::new(move |filter| handle.reload(filter).is_ok()));
}

/// The operator's word stands after, and so over, ours. It was checked when it was read.
fn filter(what: &LogFilter) -> EnvFilter {
    EnvFilter::new(format!("{ENGINE},{}", what.as_str()))
}
