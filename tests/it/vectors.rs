//! Vectors of a second implementation (tests/vectors/sealcast.py): what it wrote we read, what we wrote it reads, and
//! what must be refused both refuse by the same name. Here the committed files alone are needed; the other direction
//! is `tests/vectors/check.sh`.
//!
//! ```text
//! python.json    a conversation made by Python: roster, prekeys, epochs, batches, beacons
//! rust.json      the like, made by vectors/make.rs; SEALCAST_VECTORS=write writes it anew
//! negative.json  material and the failure's name, one case each; some unusual encodings are accepted
//! ```

mod file;
mod make;
mod negative;
mod read;

use file::Json;

#[test]
fn what_python_wrote_every_member_reads() {
    read::check(&Json::file("python.json"));
}

#[test]
fn what_we_wrote_every_member_reads() {
    read::check(&Json::file("rust.json"));
}

/// The formats did not change: the same inputs give the same bytes as on the day the file was committed.
#[test]
fn what_we_write_is_the_committed_file() {
    let made = make::conversation();
    if std::env::var("SEALCAST_VECTORS").is_ok_and(|it| it == "write") {
        file::write("rust.json", &made);
    }
    // Compared as values: the bytes of every object are in them, the file's line breaks are not.
    assert!(made == Json::file("rust.json").0, "rust.json is not what is made now; see vectors.rs");
}

#[test]
fn what_must_be_refused_is_refused_by_name() {
    let file = Json::file("negative.json");
    let cases = file.list("cases");
    assert!(cases.len() >= 200, "only {} cases", cases.len());
    let wrong: Vec<String> =
        cases.iter().filter_map(|case| negative::check(case, &file.at("given")).err()).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
