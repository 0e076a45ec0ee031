//! An identity's prekeys: the file on its disk, and what a thief of every version of it would hold.

use sealcast_envelope::PrekeyRing;

/// See the module.
#[derive(Default)]
pub(crate) struct Ring {
    file: Vec<u8>,
    /// Every version that held a new prekey; nothing in here is ever erased.
    pub(crate) stolen: Vec<Vec<u8>>,
    /// Whether a prekey's time was over.
    pub(crate) purged: bool,
}

impl Ring {
    /// Reads the file.
    pub(crate) fn load(&self) -> PrekeyRing {
        if self.file.is_empty() {
            return PrekeyRing::new();
        }
        PrekeyRing::decode(&self.file).expect("it reads what it wrote")
    }

    /// Replaces the file.
    pub(crate) fn save(&mut self, ring: &PrekeyRing, is_new: bool) {
        self.file = ring.encode().to_vec();
        if is_new {
            self.stolen.push(self.file.clone());
        }
    }
}
