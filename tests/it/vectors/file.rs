//! The files of tests/vectors: JSON whose byte strings are hexadecimal.

use std::path::PathBuf;

use bytes::Bytes;
use sealcast_envelope::prekey::PrekeyRing;
use sealcast_envelope::{Message, WrapSecret};
use sealcast_proto::object::{Object, ObjectError, Prekey};
use sealcast_proto::{Hash, Identity, PublicKey, Signed, TopicId};
use serde_json::{Value, json};

/// A JSON value with accessors that fail the test.
pub(super) struct Json(pub(super) Value);

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

pub(super) fn write(name: &str, value: &Value) {
    let text = serde_json::to_string_pretty(value).expect("JSON");
    std::fs::write(path(name), text + "\n").expect("a writable source directory");
}

impl Json {
    pub(super) fn file(name: &str) -> Self {
        let text = std::fs::read_to_string(path(name)).expect("a committed file");
        Self(serde_json::from_str(&text).expect("JSON"))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    pub(super) fn at(&self, name: &str) -> Self {
        Self(self.0[name].clone())
    }

    pub(super) fn list(&self, name: &str) -> Vec<Self> {
        self.0[name].as_array().expect(name).iter().cloned().map(Self).collect()
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0[name].as_str().expect(name)
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().expect(name)
    }

    pub(super) fn own_bytes(&self) -> Bytes {
        unhex(self.0.as_str().expect("hexadecimal"))
    }

    pub(super) fn bytes(&self, name: &str) -> Bytes {
        unhex(self.text(name))
    }

    pub(super) fn optional(&self, name: &str) -> Option<Bytes> {
        self.0[name].as_str().map(unhex)
    }

    pub(super) fn array(&self, name: &str) -> [u8; 32] {
        self.bytes(name).as_ref().try_into().expect("32 bytes")
    }

    pub(super) fn hash(&self, name: &str) -> Hash {
        Hash(self.array(name))
    }

    pub(super) fn topic(&self) -> TopicId {
        TopicId(self.array("topic"))
    }

    pub(super) fn key(&self, name: &str) -> PublicKey {
        PublicKey::from_bytes(&self.bytes(name)).expect("a good key")
    }

    pub(super) fn signed<T: Object>(&self, name: &str) -> Signed<T> {
        self.try_signed(name).expect("lengths of a signed object")
    }

    pub(super) fn try_signed<T: Object>(&self, name: &str) -> Result<Signed<T>, ObjectError> {
        let [body, signature] = [0, 1].map(|at| unhex(self.0[name][at].as_str().expect(name)));
        Signed::from_parts(body, &signature)
    }

    /// The wrap secret of `{prekey, secret}`, by way of a saved ring: the library hands out none of its own.
    pub(super) fn prekey_secret(&self) -> (u32, PrekeyRing) {
        let signed: Signed<Prekey> = self.signed("prekey");
        let body_len = u16::try_from(signed.body().len()).expect("a short body").to_be_bytes();
        let parts: [&[u8]; 5] =
            [&[1, 0, 0, 0, 0], &body_len, signed.body(), signed.signature(), &self.array("secret")];
        let ring = PrekeyRing::decode(&parts.concat()).expect("a prekey and its secret");
        (signed.peek().expect("a prekey").prekey_id, ring)
    }

    /// What a case's slot is opened with.
    pub(super) fn with_wrap_secret<R>(&self, then: impl FnOnce(&WrapSecret) -> R) -> R {
        if !self.has("prekey") {
            return then(&WrapSecret::of_identity(&Identity::from_seed(&self.array("seed"))));
        }
        let (id, ring) = self.prekey_secret();
        then(ring.secret(id).expect("just put there"))
    }
}

/// A message as it stands in the files.
pub(super) fn message(seq: u64, message: &Message) -> Value {
    json!({
        "seq": seq,
        "payload": hex(&message.payload),
        "headers": message.headers,
        "content_type": message.content_type,
        "time_ms": message.time_ms,
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}
