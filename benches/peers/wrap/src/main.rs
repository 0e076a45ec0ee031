//! What it costs to give N members a key, and to take one of them out: ours and others', in one process, in turn.
//!
//! `peers-wrap wrap N`, `peers-wrap removal N`, `peers-wrap best N` (mls-rs where every member has committed before). One
//! thread (RAYON_NUM_THREADS=1). `peers-wrap pace N`: fresh wraps on the clock, with as many threads as that says.
//! `peers-wrap seal SIZE`: full batches of such messages. Prints one JSON object of medians.

#[path = "../../../members.rs"]
mod members;
#[path = "../../../naive.rs"]
mod naive;

mod mls;
mod ours;
mod seal;
mod wrap;

use rustix::time::{ClockId, clock_gettime};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (what, members) = (args[1].as_str(), args[2].parse().expect("a number of members"));
    let result = match what {
        "wrap" => wrap::run(members),
        "removal" => serde_json::json!({
            "members": members,
            "ours": ours::removal(members),
            "openmls": mls::openmls(members),
            "mls_rs": mls::mls_rs(members),
        }),
        "best" => mls::mls_rs_best(members),
        "pace" => wrap::pace(members),
        "seal" => seal::run(members as usize),
        other => panic!("wrap, removal, best, pace or seal, not {other}"),
    };
    println!("{result}");
}

/// Times each is done.
const ROUNDS: usize = 5;

/// Runs it, and says how much CPU time this process took for it, seconds: other programs do not count.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let from = cpu_s();
    let result = std::hint::black_box(work());
    (cpu_s() - from, result)
}

fn cpu_s() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
