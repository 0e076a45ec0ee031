//! The committed corpora, through the very functions that are fuzzed.
//!
//! One test: a target counts the heap of the whole process, so nothing may run beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sealcast_fuzz_targets::{TARGETS, Target};

/// All corpora together, bytes: they are there to be read again with every change.
const MAX_CORPORA: u64 = 200_000;

#[test]
fn every_input_holds_and_every_stage_is_reached() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut names = BTreeSet::new();
    let mut bytes = 0;
    for target in TARGETS {
        names.insert(target.name.to_owned());
        let inputs = inputs(&root.join(target.name));
        bytes += inputs.iter().map(|(_, input)| input.len() as u64).sum::<u64>();
        let corpus = replay(target, inputs.iter().map(|(path, input)| (path.display().to_string(), input)));
        missing(target, "its corpus", &corpus);
        let seeds = (target.seeds)();
        let seeds = replay(target, seeds.iter().enumerate().map(|(n, input)| (format!("seed {n}"), input)));
        missing(target, "its seeds", &seeds);
    }
    assert!(bytes <= MAX_CORPORA, "the corpora are {bytes} bytes: `cargo fuzz cmin` makes them smaller");
    let found: BTreeSet<String> = list(&root).iter().filter_map(|dir| name(dir)).collect();
    assert_eq!(found, names, "a corpus without a target, or a target without a corpus");
}

/// Runs each input twice: what it comes to must not depend on anything else.
fn replay<'a>(
    target: &Target,
    inputs: impl Iterator<Item = (String, &'a Vec<u8>)>,
) -> BTreeSet<&'static str> {
    let mut stages = BTreeSet::new();
    for (name, input) in inputs {
        // Shown only if it fails: which input it was.
        println!("{}: {name}", target.name);
        let reached = target.check(input);
        assert_eq!(target.check(input), reached, "not the same twice");
        stages.extend(reached.stages());
    }
    stages
}

fn missing(target: &Target, of: &str, reached: &BTreeSet<&str>) {
    let stages: BTreeSet<&str> = target.stages.iter().copied().collect();
    assert_eq!(*reached, stages, "{}: what {of} reaches is not what it should", target.name);
}

fn inputs(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    list(dir).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}
