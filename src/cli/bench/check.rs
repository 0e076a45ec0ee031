//! What a message holds, so that whoever gets it can tell which one it is and when it was due.
//!
//! `number u64 ‖ due µs u64 ‖ part u8 ‖ filling`

use bytes::Bytes;

/// Number, time and part, bytes; one more, so that there is a filling to compare.
pub(super) const MIN_SIZE: usize = HEAD + 1;
const HEAD: usize = 17;

/// Which part of a run a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Before the measuring: connections are warm and the first key is wrapped when it arrives.
    First,
    Measured,
    /// The last one of its publisher.
    Last,
}

/// Makes a publisher's messages, and knows them again.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    filling: Bytes,
}

impl Pattern {
    /// For messages of so many bytes, [`MIN_SIZE`] or more.
    pub(super) fn new(size: usize) -> Self {
        Self { filling: (0..size.saturating_sub(HEAD)).map(|at| (at % 251) as u8).collect() }
    }

    pub(super) fn message(&self, number: u64, due_us: u64, part: Part) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEAD + self.filling.len());
        message.extend_from_slice(&number.to_be_bytes());
        message.extend_from_slice(&due_us.to_be_bytes());
        message.push(part as u8);
        message.extend_from_slice(&self.filling);
        message
    }

    /// Number, time and part; `None`: nobody here published this.
    fn read(&self, message: &[u8]) -> Option<(u64, u64, Part)> {
        let (number, rest) = message.split_first_chunk()?;
        let (due_us, rest) = rest.split_first_chunk()?;
        let (part, filling) = rest.split_first()?;
        let part = [Part::First, Part::Measured, Part::Last].into_iter().find(|p| *p as u8 == *part)?;
        (filling == self.filling).then_some((u64::from_be_bytes(*number), u64::from_be_bytes(*due_us), part))
    }
}

/// What one subscriber expects of one publisher: everything, once, in order.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pattern: Pattern,
    next: u64,
    done: bool,
}

impl Check {
    pub(super) fn new(pattern: Pattern) -> Self {
        Self { pattern, next: 0, done: false }
    }

    /// The next message: when it was due, and which part it is. Or why it cannot be the next.
    pub(super) fn take(&mut self, message: &[u8]) -> Result<(u64, Part), String> {
        let next = self.next;
        let Some((number, due_us, part)) = self.pattern.read(message) else {
            return Err(format!("message {next} is not as it was published"));
        };
        match number {
            _ if number > next || self.done => {
                return Err(format!("message {number} came where {next} was due: something is lost"));
            }
            _ if number < next => return Err(format!("message {number} came again or too late")),
            _ => {}
        }
        self.next += 1;
        self.done = part == Part::Last;
        Ok((due_us, part))
    }

    /// How many came.
    pub(super) fn taken(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(messages: &[Vec<u8>]) -> Result<(u64, Part), String> {
        let mut check = Check::new(Pattern::new(40));
        let mut last = Err("none".to_owned());
        for message in messages {
            last = check.take(message);
            if last.is_err() {
                assert!(!check.done);
                break;
            }
        }
        last
    }

    #[test]
    fn every_message_is_known_again() {
        for size in [MIN_SIZE, 100, 70_000] {
            let pattern = Pattern::new(size);
            let message = pattern.message(0, 77, Part::Last);
            assert_eq!(message.len(), size);
            let mut check = Check::new(pattern);
            assert_eq!(check.take(&message), Ok((77, Part::Last)));
            assert!(check.done && check.taken() == 1);
        }
    }

    #[test]
    fn loss_repetition_disorder_and_damage_are_found() {
        let pattern = Pattern::new(40);
        let message = |number| pattern.message(number, 5, Part::Measured);
        assert_eq!(taken(&[message(0), message(1), message(2)]), Ok((5, Part::Measured)));
        assert!(taken(&[message(0), message(2)]).unwrap_err().contains("lost"));
        assert!(taken(&[message(1)]).unwrap_err().contains("lost"));
        assert!(taken(&[message(0), message(0)]).unwrap_err().contains("again"));
        assert!(taken(&[message(0), message(1), message(0)]).unwrap_err().contains("again"));
        for at in [16, 17, 39] {
            let mut damaged = message(1);
            damaged[at] ^= 0x80;
            assert!(taken(&[message(0), damaged]).unwrap_err().contains("not as it was"), "{at}");
        }
        assert!(taken(&[message(0)[..30].to_vec()]).is_err());
    }

    #[test]
    fn nothing_follows_the_last() {
        let pattern = Pattern::new(40);
        let mut check = Check::new(pattern.clone());
        check.take(&pattern.message(0, 1, Part::Last)).unwrap();
        assert!(check.take(&pattern.message(1, 1, Part::Measured)).is_err());
    }
}
