//! How values are written: in the file, in the environment, as flags. What is shown can be read again.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sealcast_proto::PublicKey;
use tracing_subscriber::EnvFilter;

use crate::order::Servers;

/// A value of a setting.
pub(crate) trait Value: Sized {
    /// What to call it on a command line.
    const NAME: &'static str;
    /// Whether TOML writes it without quotes.
    const BARE: bool = false;

    /// Reads it; else says what it should be.
    fn read(text: &str) -> Result<Self, String>;

    /// Writes it; empty: there is none.
    fn show(&self) -> String;
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// As a number of things in memory.
    pub fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("ms", 1), ("s", 1_000)];

/// A whole number and one of these units.
fn with_unit(text: &str, units: &[(&str, u64)], none: u64) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.replace('_', "").parse().ok()?;
    let times = match unit.trim() {
        "" if number == 0 => 1,
        "" => none,
        unit => units.iter().find(|(known, _)| *known == unit)?.1,
    };
    number.checked_mul(times).filter(|_| times > 0)
}

/// The largest unit in which it is whole.
fn in_unit(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, times): &&(&str, u64)| number.is_multiple_of(*times);
    let largest = units.iter().filter(fits).max_by_key(|(_, times)| *times);
    match largest {
        Some((unit, times)) if number > 0 => format!("{}{unit}", number / times),
        _ => "0".into(),
    }
}

impl Value for Size {
    const NAME: &'static str = "SIZE";

    fn read(text: &str) -> Result<Self, String> {
        with_unit(text, &SIZES, 1).map(Self).ok_or_else(|| "a size is written 512KiB, 64MiB or 1GiB".into())
    }

    fn show(&self) -> String {
        in_unit(self.0, &SIZES)
    }
}

impl Value for Duration {
    const NAME: &'static str = "TIME";

    fn read(text: &str) -> Result<Self, String> {
        let ms = with_unit(text, &TIMES, 0);
        ms.map(Self::from_millis).ok_or_else(|| "a time is written 250ms, 30s, 10m, 2h or 7d".into())
    }

    fn show(&self) -> String {
        in_unit(u64::try_from(self.as_millis()).unwrap_or(u64::MAX), &TIMES)
    }
}

macro_rules! counts {
    ($($count:ty),*) => {$(
        impl Value for $count {
            const NAME: &'static str = "COUNT";
            const BARE: bool = true;

            fn read(text: &str) -> Result<Self, String> {
                text.replace('_', "").parse().map_err(|_| "a count is written 1000 or 1_000".into())
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

counts!(u32, usize);

impl Value for bool {
    const NAME: &'static str = "true|false";
    const BARE: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "it is true or false".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for SocketAddr {
    const NAME: &'static str = "ADDR:PORT";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "an address is written 127.0.0.1:7443 or [::1]:7443".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const NAME: &'static str = "PATH";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("it is a path".into()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for Servers {
    const NAME: &'static str = "nats://HOST:PORT,…";

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A host's name or address, IPv6 without brackets, and a port.
impl Value for (String, u16) {
    const NAME: &'static str = "HOST:PORT";

    fn read(text: &str) -> Result<Self, String> {
        let bad = || "a host is written broker.example:7443".to_owned();
        let (name, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let name = match name.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(bad)?,
            None if name.contains(':') => return Err(bad()),
            None => name,
        };
        let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if name.is_empty() || !name.chars().all(may) {
            return Err(bad());
        }
        Ok((name.into(), port))
    }

    fn show(&self) -> String {
        let (name, port) = self;
        if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
    }
}

impl Value for Vec<PublicKey> {
    const NAME: &'static str = "KEY,…";

    fn read(text: &str) -> Result<Self, String> {
        let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty());
        keys.map(|key| key.parse().map_err(|error| format!("{key:?}: {error}"))).collect()
    }

    fn show(&self) -> String {
        self.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl<T: Value> Value for Option<T> {
    const NAME: &'static str = T::NAME;

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::read(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
}

/// What is logged, as `tracing` writes it: a level, or levels by module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl Value for LogFilter {
    const NAME: &'static str = "LEVEL";

    fn read(text: &str) -> Result<Self, String> {
        let bad =
            || "a level is error, warn, info, debug or trace; by module: info,sealcast_broker=debug".into();
        // Alone, a word that is no level would be taken for a module's name, and everything be silent.
        let is_level = |part: &str| part.contains('=') || part.parse::<tracing::Level>().is_ok();
        if text.is_empty() || !text.split(',').all(is_level) || EnvFilter::try_new(text).is_err() {
            return Err(bad());
        }
        Ok(Self(text.into()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people on a terminal, else an object a line.
    #[default]
    Auto,
    /// For people.
    Text,
    /// An object a line.
    Json,
}

const FORMATS: [(LogFormat, &str); 3] =
    [(LogFormat::Auto, "auto"), (LogFormat::Text, "text"), (LogFormat::Json, "json")];

impl Value for LogFormat {
    const NAME: &'static str = "auto|text|json";

    fn read(text: &str) -> Result<Self, String> {
        let found = FORMATS.iter().find(|(_, name)| *name == text);
        found.map(|(format, _)| *format).ok_or_else(|| "it is auto, text or json".into())
    }

    fn show(&self) -> String {
        FORMATS.iter().find(|(format, _)| format == self).map(|(_, name)| (*name).into()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<T: Value + PartialEq + fmt::Debug>(text: &str, value: T) {
        assert_eq!(T::read(text).unwrap(), value, "{text}");
        assert_eq!(T::read(&value.show()).unwrap(), value, "{}", value.show());
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("90m", 5_400_000), ("7d", 604_800_000), ("0", 0)]
        {
            again(text, Duration::from_millis(ms));
        }
        for (text, bytes) in [("512", 512), ("64MiB", 64 << 20), ("1_000KiB", 1_024_000), ("0", 0)] {
            again(text, Size(bytes));
        }
        again("1_000", 1_000_usize);
        again("broker.example:7443", (String::from("broker.example"), 7443));
        again("[::1]:9", (String::from("::1"), 9));
        again("", None::<SocketAddr>);
        again("info,sealcast_broker=debug", LogFilter("info,sealcast_broker=debug".into()));
        again("json", LogFormat::Json);
        assert_eq!((Duration::from_secs(90).show(), Size(3 << 20).show()), ("90s".into(), "3MiB".into()));
    }

    #[test]
    fn what_is_meant_differently_is_refused() {
        for bad in ["", "30", "1.5s", "-1s", "5 weeks", "s", "99999999999999999999d"] {
            assert!(Duration::read(bad).is_err(), "{bad}");
        }
        for bad in ["", "64MB", "1TiB", "MiB", "-1"] {
            assert!(Size::read(bad).is_err(), "{bad}");
        }
        for bad in ["broker.example", "::1:9", ":9", "a:0", "a:x", "[::1:9", "a b:9"] {
            assert!(<(String, u16)>::read(bad).is_err(), "{bad}");
        }
        for bad in ["", "loud", "info,loud", "sealcast_broker=loud"] {
            assert!(LogFilter::read(bad).is_err(), "{bad}");
        }
        assert!(Vec::<PublicKey>::read("abc").is_err() && LogFormat::read("xml").is_err());
    }
}
