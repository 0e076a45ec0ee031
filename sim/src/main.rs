//! Runs many seeds and says what they find, or replays one.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use sealcast_sim::{Sweep, run};

/// Runs the simulator: publishers, a broker and subscribers in a world that a seed decides.
#[derive(Parser)]
#[command(name = "sealcast-sim", version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this one alone.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Print what happens, a line a step (with --seed).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Threads; by default as many as there are processors.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let report = run(seed, None, arguments.trace);
        for line in &report.trace {
            println!("{line}");
        }
        return match report.failure {
            None => {
                println!("seed {seed}: everything held");
                ExitCode::SUCCESS
            }
            Some(failure) => {
                println!("seed {seed}: {failure}");
                ExitCode::FAILURE
            }
        };
    }
    let begun = Instant::now();
    let sweep = Sweep { threads: arguments.threads, keep_going: true, flaw: None };
    let found = sweep.run(arguments.from..arguments.from + arguments.seeds);
    for (seed, failure) in &found.failures {
        println!("seed {seed}: {failure}");
        println!("    cargo run -p sealcast-sim --release -- --seed {seed} --trace");
    }
    for (name, count) in found.tally.named() {
        println!("{count:>12} {name}");
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} seeds in {seconds:.1} s, {} failures", found.seeds, found.failures.len());
    if found.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
