//! Where settings come from: the file, over it the environment, over it flags. What is in none has its default.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{SETTINGS, Setting};
use crate::config::Config;

/// What every environment variable of the broker begins with.
pub const PREFIX: &str = "SEALCAST_BROKER_";
/// Names the file, as `--config` does.
const FILE_VARIABLE: &str = "SEALCAST_BROKER_CONFIG";
/// How many letters may be wrong in a key for which another one is proposed, a count.
const TYPOS: usize = 4;

/// Where a setting's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is in none of the others.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Settings that cannot be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The file is no TOML.
    #[error("the configuration {} is not TOML: {why}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        why: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {key:?}")]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// What stands there.
        key: String,
        /// The setting that is perhaps meant, as it is written there.
        nearest: Option<String>,
    },
    /// The value is none.
    #[error("{origin}: {key} cannot be {text:?}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// Which setting.
        key: &'static str,
        /// What stands there.
        text: String,
        /// What it should be.
        why: String,
    },
}

impl SettingsError {
    /// What to do about it, one line.
    pub fn hint(&self) -> String {
        match self {
            Self::File { .. } => "give another file with --config, or none".into(),
            Self::Toml { .. } => "key = \"value\", a line each, without sections".into(),
            Self::Unknown { nearest: Some(nearest), .. } => format!("perhaps {nearest} is meant"),
            Self::Unknown { nearest: None, .. } => "`sealcast-broker check` lists the settings".into(),
            Self::Value { why, .. } => why.clone(),
        }
    }
}

/// Where to look for settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file; `None`: the variable `SEALCAST_BROKER_CONFIG` may name it.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// Flags: the setting's key and the value.
    pub flags: Vec<(&'static str, String)>,
}

/// A configuration, and where each setting of it comes from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The configuration.
    pub config: Config,
    origins: Vec<Origin>,
}

impl Sources {
    /// Reads everything anew.
    pub fn effective(&self, defaults: Config) -> Result<Effective, SettingsError> {
        let mut out = Effective { config: defaults, origins: vec![Origin::Default; SETTINGS.len()] };
        let named = self.environment.iter().find(|(name, _)| name == FILE_VARIABLE);
        let file = self.file.clone().or_else(|| named.map(|(_, path)| path.into()));
        if let Some(path) = file {
            out.file(&path)?;
        }
        for (name, text) in &self.environment {
            if let Some(key) = name.strip_prefix(PREFIX).filter(|_| name != FILE_VARIABLE) {
                let as_written = |key: &str| format!("{PREFIX}{}", key.to_uppercase());
                out.set(&key.to_lowercase(), text, Origin::Variable(name.clone()), as_written)?;
            }
        }
        for (key, text) in &self.flags {
            out.set(key, text, Origin::Flag(flag(key)), flag)?;
        }
        Ok(out)
    }
}

/// A setting's flag.
pub(crate) fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

impl Effective {
    fn file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| SettingsError::File { path: path.into(), error: Arc::new(error) })?;
        let table = text
            .parse::<toml::Table>()
            .map_err(|error| SettingsError::Toml { path: path.into(), why: error.to_string() })?;
        for (key, value) in table {
            let origin = Origin::File(path.into());
            let Some(text) = plain(&value) else {
                return Err(SettingsError::Toml {
                    path: path.into(),
                    why: format!("{key} is no single value"),
                });
            };
            self.set(&key, &text, origin, str::to_owned)?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        key: &str,
        text: &str,
        origin: Origin,
        as_written: impl Fn(&str) -> String,
    ) -> Result<(), SettingsError> {
        let found = SETTINGS.iter().zip(&mut self.origins).find(|(setting, _)| setting.key == key);
        let Some((setting, from)) = found else {
            return Err(SettingsError::Unknown {
                key: as_written(key),
                nearest: nearest(key).map(as_written),
                origin,
            });
        };
        if let Err(why) = (setting.read)(&mut self.config, text) {
            return Err(SettingsError::Value { origin, key: setting.key, text: text.into(), why });
        }
        *from = origin;
        Ok(())
    }

    /// Every setting with where it comes from.
    pub fn settings(&self) -> impl Iterator<Item = (&'static Setting, &Origin)> {
        SETTINGS.iter().zip(&self.origins)
    }

    /// As a configuration file that says the same.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for (setting, origin) in self.settings() {
            let line = match setting.toml(&self.config) {
                Some(value) => format!("{} = {value}", setting.key),
                None => format!("# {} is not set", setting.key),
            };
            out.push_str(&format!("{line:<44} # {origin}\n"));
        }
        out
    }
}

/// A single value, or a list of them, as a flag would be given it.
fn plain(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(yes) => yes.to_string(),
        toml::Value::Array(values) => {
            let values: Option<Vec<_>> = values.iter().map(|value| value.as_str()).collect();
            values?.join(",")
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}

/// The setting whose key is most like `key`.
fn nearest(key: &str) -> Option<&'static str> {
    let keys = SETTINGS.iter().map(|setting| (distance(key, setting.key), setting.key));
    let (typos, nearest) = keys.min()?;
    (typos <= TYPOS.min(key.chars().count() / 2)).then_some(nearest)
}

/// Letters to insert, remove or replace to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for (pair, to) in row.windows(2).zip(&b) {
            let &[diagonal, above] = pair else { continue };
            let left = next.last().copied().unwrap_or(0);
            next.push((diagonal + usize::from(from != *to)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(
        file: Option<&str>,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Effective, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.toml");
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let sources = Sources {
            file: file.map(|text| {
                std::fs::write(&path, text).unwrap();
                path.clone()
            }),
            environment: own(environment),
            flags: flags.iter().map(|(key, text)| (*key, (*text).into())).collect(),
        };
        sources.effective(Config::new("data"))
    }

    #[test]
    fn flags_are_over_the_environment_and_that_over_the_file() {
        let file = "connections = 10\nhello = \"1s\"\nstreams = 8\nops = \"127.0.0.1:1\"\n";
        let environment = [("SEALCAST_BROKER_HELLO", "2s"), ("SEALCAST_BROKER_STREAMS", "9"), ("HOME", "x")];
        let out = sources(Some(file), &environment, &[("streams", "10")]).unwrap();
        let limits = &out.config.limits;
        assert_eq!((limits.connections, limits.hello.as_secs(), limits.streams), (10, 2, 10));
        assert_eq!(out.config.ops, Some("127.0.0.1:1".parse().unwrap()));
        let origin = |key| out.settings().find(|(setting, _)| setting.key == key).unwrap().1.clone();
        assert!(matches!(origin("connections"), Origin::File(_)));
        assert_eq!(origin("hello"), Origin::Variable("SEALCAST_BROKER_HELLO".into()));
        assert_eq!(origin("streams"), Origin::Flag("--streams".into()));
        assert_eq!(origin("stall"), Origin::Default);
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_one() {
        let refused = |result: Result<Effective, SettingsError>| {
            let error = result.unwrap_err();
            (error.to_string(), error.hint())
        };
        let (error, hint) = refused(sources(Some("conections = 10\n"), &[], &[]));
        assert!(error.contains("\"conections\"") && hint == "perhaps connections is meant", "{error} {hint}");
        let (error, hint) = refused(sources(None, &[("SEALCAST_BROKER_LISTN", "x")], &[]));
        assert!(error.contains("SEALCAST_BROKER_LISTN"), "{error}");
        assert_eq!(hint, "perhaps SEALCAST_BROKER_LISTEN is meant");
        let (_, hint) = refused(sources(Some("zzz = 1\n"), &[], &[]));
        assert!(hint.contains("check"), "{hint}");
        let (error, _) = refused(sources(Some("[limits]\nconnections = 10\n"), &[], &[]));
        assert!(error.contains("limits"), "{error}");
        let (error, hint) = refused(sources(Some("stall = 30\n"), &[], &[]));
        assert!(error.contains("stall cannot be \"30\"") && hint.contains("30s"), "{error} {hint}");
    }

    #[test]
    fn what_is_shown_says_the_same_again() {
        let key = crate::hand::key(3).to_string();
        let file = format!("owners = [\"{key}\"]\nlog = \"debug\"\nretain_bytes = \"5GiB\"\n");
        let first = sources(Some(&file), &[], &[]).unwrap().to_toml();
        let again = sources(Some(&first), &[], &[]).unwrap();
        let values = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.rsplit_once(" # ").unwrap().0.trim().to_owned()).collect()
        };
        assert_eq!(values(&first), values(&again.to_toml()));
        assert!(
            first.contains(&format!("owners = [\"{key}\"]")) && first.contains("# ops is not set"),
            "{first}"
        );
    }

    #[test]
    fn distances_are_those_of_letters() {
        for (a, b, expected) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "abd", 1), ("ab", "abc", 1), ("", "ab", 2)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
