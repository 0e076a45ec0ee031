//! What several test modules share.

use crate::wrap::WrapSecret;

/// Hexadecimal to bytes.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// RFC 9180, appendix A.7, base setup.
pub(crate) struct Vector(serde_json::Value);

impl Vector {
    pub(crate) fn load() -> Self {
        let text = include_str!("../../tests/vectors/rfc9180-x25519-export-only-base.json");
        Self(serde_json::from_str(text).unwrap())
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        hex(self.0[name].as_str().unwrap())
    }

    pub(crate) fn array(&self, name: &str) -> [u8; 32] {
        self.bytes(name).try_into().unwrap()
    }

    pub(crate) fn secret(&self, name: &str) -> WrapSecret {
        WrapSecret::from_bytes(&self.array(name))
    }

    /// `(exporter_context, value)` pairs of 32 bytes.
    pub(crate) fn exports(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let exports = self.0["exports"].as_array().unwrap();
        let field = |export: &serde_json::Value, name: &str| hex(export[name].as_str().unwrap());
        exports.iter().map(|export| (field(export, "exporter_context"), field(export, "value"))).collect()
    }
}
