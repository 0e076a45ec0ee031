//! Inputs larger than any corpus holds: what their limits keep off the heap.

use sealcast_fuzz_targets::heap_of;
use sealcast_proto::limits::{MAX_OPS, MAX_OPS_BYTES};
use sealcast_proto::roster::{RosterError, decode_ops};

#[test]
fn operations_are_counted_before_they_are_held() {
    // An empty operation: the smallest, and so the most of them.
    let mut most = [0x0a, 0].repeat(MAX_OPS_BYTES / 2);
    let mut refused = None;
    let taken = heap_of(|| refused = Some(decode_ops(&most)));
    assert_eq!(refused, Some(Err(RosterError::TooMany("operations"))));
    assert!(taken < 4096, "{taken} bytes for operations that nobody may send");

    most.truncate(2 * MAX_OPS);
    let taken = heap_of(|| refused = Some(decode_ops(&most)));
    assert!(matches!(refused, Some(Err(RosterError::Malformed(_)))));
    assert!(taken < 4 << 20, "{taken} bytes");
}
