//! `docs/operations.md` names every setting and every metric as they are.

use std::path::Path;

use sealcast_broker::Config;
use sealcast_broker::ops::METRICS;
use sealcast_broker::settings::SETTINGS;

fn settings() -> String {
    let config = Config::new("the platform's data directory");
    let mut out = String::from("| key | takes | default | live | |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let value = setting.value(&config);
        let value = if value.is_empty() { "–".into() } else { format!("`{value}`") };
        let live = if setting.live { "yes" } else { "" };
        let kind = setting.kind().replace('|', "\\|");
        out.push_str(&format!("| `{}` | {kind} | {value} | {live} | {} |\n", setting.key, setting.what));
    }
    out
}

fn metrics() -> String {
    let mut out = String::from("| name | kind | label | |\n|---|---|---|---|\n");
    for metric in METRICS {
        let kind = if metric.is_counter { "counter" } else { "gauge" };
        let label = match metric.label {
            None => String::new(),
            Some((label @ ("version" | "topic"), _)) => format!("`{label}`"),
            Some((label, values)) => format!("`{label}`: {}", values.join(", ")),
        };
        out.push_str(&format!("| `{}` | {kind} | {label} | {} |\n", metric.name, metric.help));
    }
    out
}

/// To write the tables anew: SEALCAST_WRITE_PAGE=1 cargo test -p sealcast-broker --test it page
#[test]
fn the_page_for_operators_names_every_setting_and_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut expected = page.clone();
    for (name, table) in [("settings", settings()), ("metrics", metrics())] {
        let (before, rest) = expected.split_once(&format!("<!-- {name} -->\n")).unwrap();
        let (_, after) = rest.split_once(&format!("<!-- /{name} -->\n")).unwrap();
        expected = format!("{before}<!-- {name} -->\n{table}<!-- /{name} -->\n{after}");
    }
    if std::env::var_os("SEALCAST_WRITE_PAGE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(
        page == expected || std::env::var_os("SEALCAST_WRITE_PAGE").is_some(),
        "it should say:\n{expected}"
    );
}

#[test]
fn the_shipped_settings_are_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/broker.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let owner = crate::hand::key(1);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    std::fs::write(&file, text.replace("owners = []", &format!("owners = [\"{owner}\"]"))).unwrap();
    let sources = sealcast_broker::settings::Sources { file: Some(file), ..Default::default() };
    let effective = sources.effective(Config::new(dir.path())).unwrap();
    effective.config.check().unwrap();
    assert_eq!(effective.config.ops, Some("127.0.0.1:7444".parse().unwrap()));
}
