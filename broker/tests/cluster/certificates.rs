//! Certificates for a test: X.509 (RFC 5280) with Ed25519 (RFC 8410), as little of it as servers and clients ask for.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const NAME: u8 = 0x06;
const TEXT: u8 = 0x0c;
/// Time until 2049,
const TIME: u8 = 0x17;
/// and after it.
const LATER: u8 = 0x18;
/// `id-Ed25519`, the key's and the signature's algorithm.
const ED25519: &[u8] = &[NAME, 3, 0x2b, 0x65, 0x70];

/// Who signs certificates.
pub struct Authority {
    name: &'static str,
    key: SigningKey,
}

/// Where a certificate stands, and its key.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &'static str, seed: u8) -> Self {
        Self { name, key: SigningKey::from_bytes(&[seed; 32]) }
    }

    /// Its own certificate.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join(format!("{}.pem", self.name));
        // That it may sign others'.
        let may = extension(&[0x55, 0x1d, 0x13], true, &der(SEQUENCE, &[&[0x01, 1, 0xff]]));
        write(&path, "CERTIFICATE", &self.certificate(self.name, &self.key, &may));
        path
    }

    /// A certificate for 127.0.0.1, whichever end that is.
    pub fn pair(&self, dir: &Path, name: &'static str, seed: u8) -> Pair {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let pair = Pair {
            certificate: dir.join(format!("{name}-by-{}.pem", self.name)),
            key: dir.join(format!("{name}-by-{}.key", self.name)),
        };
        let host = extension(&[0x55, 0x1d, 0x11], false, &der(SEQUENCE, &[&[0x87, 4, 127, 0, 0, 1]]));
        write(&pair.certificate, "CERTIFICATE", &self.certificate(name, &key, &host));
        let seed = der(OCTETS, &[&der(OCTETS, &[key.as_bytes()])]);
        let algorithm = der(SEQUENCE, &[ED25519]);
        write(&pair.key, "PRIVATE KEY", &der(SEQUENCE, &[&[INTEGER, 1, 0], &algorithm, &seed]));
        pair
    }

    fn certificate(&self, subject: &str, key: &SigningKey, extension: &[u8]) -> Vec<u8> {
        let algorithm = der(SEQUENCE, &[ED25519]);
        let called = |name: &str| {
            let common = der(SEQUENCE, &[&[NAME, 3, 0x55, 0x04, 0x03], &der(TEXT, &[name.as_bytes()])]);
            der(SEQUENCE, &[&der(SET, &[&common])])
        };
        let bits = |bytes: &[u8]| der(BITS, &[&[0], bytes]);
        let public = key.verifying_key();
        let body = der(
            SEQUENCE,
            &[
                // Version 3.
                &[0xa0, 3, INTEGER, 1, 2],
                &[INTEGER, 1, key.as_bytes()[0] & 0x7f | 1],
                &algorithm,
                &called(self.name),
                &der(SEQUENCE, &[&der(TIME, &[b"700101000000Z"]), &der(LATER, &[b"21500101000000Z"])]),
                &called(subject),
                &der(SEQUENCE, &[&algorithm, &bits(public.as_bytes())]),
                &der(0xa3, &[&der(SEQUENCE, &[extension])]),
            ],
        );
        let signature = self.key.sign(&body);
        der(SEQUENCE, &[&body, &algorithm, &bits(&signature.to_bytes())])
    }
}

fn extension(what: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 1, 0xff] } else { &[] };
    der(SEQUENCE, &[&der(NAME, &[what]), critical, &der(OCTETS, &[value])])
}

/// A value with its tag and its length.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match u16::try_from(content.len()).expect("small") {
        len @ ..0x80 => out.push(len as u8),
        len @ ..0x100 => out.extend([0x81, len as u8]),
        len => out.extend([&[0x82][..], &len.to_be_bytes()].concat()),
    }
    [out, content].concat()
}

fn write(path: &Path, label: &str, der: &[u8]) {
    let lines: Vec<_> = STANDARD.encode(der).as_bytes().chunks(64).map(|it| it.to_vec()).collect();
    let text = String::from_utf8(lines.join(&b'\n')).expect("base64");
    std::fs::write(path, format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"))
        .expect("a file");
}
