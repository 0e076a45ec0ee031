//! A target, and the rule that all of them share: the heap an input takes is bounded by the input.

use peak_alloc::PeakAlloc;

use crate::Reached;

/// Counts what is on the heap. Here, so that whatever runs a target counts.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Something to be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Names its corpus and its fuzz target.
    pub name: &'static str,
    /// Runs one input. Panics where something does not hold.
    pub run: fn(&[u8], &mut Reached),
    /// Every stage that `run` can mark.
    pub stages: &'static [&'static str],
    /// The most heap an input may take at any one time: bytes in all, and bytes for each byte of input.
    pub heap: (usize, usize),
    /// Inputs that together reach every stage: what a corpus begins from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Runs one input and checks what it took of the heap.
    ///
    /// The count is the process's: nothing else may run beside it.
    pub fn check(&self, input: &[u8]) -> Reached {
        let mut reached = Reached::default();
        let taken = heap_of(|| (self.run)(input, &mut reached));
        let (all, each) = self.heap;
        let most = all + each * input.len();
        assert!(taken <= most, "{} bytes of input took {taken} bytes of heap, more than {most}", input.len());
        reached
    }
}

/// The most that `run` held of the heap at any one time, bytes. The count is the process's.
pub fn heap_of(run: impl FnOnce()) -> usize {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    run();
    HEAP.peak_usage().saturating_sub(before)
}
