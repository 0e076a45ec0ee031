//! Who may begin a handshake: it costs the broker much more than the asker, and the asker's address may be forged.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::listener::ListenOptions;

/// Handshakes under way from one source from which on it must prove its address, a count: forged packets then cannot use
/// up the share of the host that they pretend to come from.
const RETRY_ABOVE_PER_SOURCE: usize = 8;

/// Counts handshakes under way.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// Only sources with a handshake under way, so that `max_handshakes` bounds it.
    by_source: HashMap<Source, usize>,
}

/// What is answered to an attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    Admit(Counted),
    ProveAddress,
    Refuse,
}

impl Admission {
    pub(crate) fn ask(self: &Arc<Self>, source: IpAddr, validated: bool, options: &ListenOptions) -> Verdict {
        let source = Source::of(source);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let from_source = counts.by_source.get(&source).copied().unwrap_or(0);
        if counts.total >= options.max_handshakes {
            return Verdict::Refuse;
        }
        if !validated && (counts.total >= options.retry_above || from_source >= RETRY_ABOVE_PER_SOURCE) {
            return Verdict::ProveAddress;
        }
        if from_source >= options.max_handshakes_per_source {
            return Verdict::Refuse;
        }
        counts.total += 1;
        counts.by_source.insert(source, from_source + 1);
        Verdict::Admit(Counted { admission: self.clone(), source })
    }
}

/// One handshake under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    admission: Arc<Admission>,
    source: Source,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        let left = counts.by_source.get(&self.source).map_or(0, |count| count.saturating_sub(1));
        match left {
            0 => counts.by_source.remove(&self.source),
            left => counts.by_source.insert(self.source, left),
        };
    }
}

/// Addresses that one host can choose from count as one: of IPv6 the first 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self::V4(addr.to_bits()),
            IpAddr::V6(addr) => Self::V6((addr.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(total: usize, per_source: usize, retry: usize) -> ListenOptions {
        ListenOptions {
            max_handshakes: total,
            max_handshakes_per_source: per_source,
            retry_above: retry,
            ..ListenOptions::default()
        }
    }

    fn admitted(admission: &Arc<Admission>, source: &str, options: &ListenOptions) -> Option<Counted> {
        match admission.ask(source.parse().unwrap(), true, options) {
            Verdict::Admit(counted) => Some(counted),
            Verdict::ProveAddress => panic!("a validated address was asked again"),
            Verdict::Refuse => None,
        }
    }

    #[test]
    fn one_source_cannot_take_every_place() {
        let (admission, options) = (Arc::default(), options(4, 2, 100));
        let a = [admitted(&admission, "10.0.0.1", &options), admitted(&admission, "10.0.0.1", &options)];
        assert!(admitted(&admission, "10.0.0.1", &options).is_none());
        let b = admitted(&admission, "2001:db8::1", &options);
        let _c = admitted(&admission, "2001:db8::2", &options).unwrap();
        assert!(admitted(&admission, "2001:db8::3", &options).is_none(), "the same /64");
        assert!(admitted(&admission, "10.0.0.2", &options).is_none(), "four are under way");
        drop((a, b));
        assert!(admitted(&admission, "10.0.0.1", &options).is_some());
        assert_eq!(admission.counts.lock().unwrap().by_source.len(), 1, "sources are forgotten");
    }

    #[test]
    fn unproven_addresses_are_asked_under_load() {
        let (admission, options) = (Arc::default(), options(100, 100, 1));
        let ask = |admission: &Arc<Admission>| admission.ask("10.0.0.1".parse().unwrap(), false, &options);
        let first = ask(&admission);
        assert!(matches!(first, Verdict::Admit(_)));
        assert!(matches!(ask(&admission), Verdict::ProveAddress));
        drop(first);
        assert!(matches!(ask(&admission), Verdict::Admit(_)));
    }
}
