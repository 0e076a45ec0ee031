//! Files by somebody who knows the format, and makes the checksum hold.

use std::path::Path;

use super::*;

const MAGIC: &[u8] = b"sealcast export 1\n";
/// A batch that retention took, a record of the log: one that is the last of its publisher may be missing, and nobody who
/// has only the file could tell.
const DIGEST: u8 = 5;
const RECORD: u8 = 6;
/// From here on: what a topic may have or not.
const HEAD: u8 = 7;
const DONE: u8 = 9;

/// What stands in an export: kinds and payloads.
fn items(file: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut items = Vec::new();
    let mut rest = &file[MAGIC.len()..];
    while rest[0] != 0 {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        items.push((rest[0], rest[5..5 + length].to_vec()));
        rest = &rest[5 + length..];
    }
    items
}

fn file(items: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (kind, payload) in items {
        out.push(*kind);
        out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend(payload);
    }
    let sum = <sha2::Sha256 as sha2::Digest>::digest(&out);
    out.extend([0, 0, 0, 0, 32]);
    out.extend(sum);
    out
}

/// What becomes of it; the directory it was to go to holds nothing if it was refused.
fn imported(path: &Path, bytes: &[u8]) -> Result<Counts, ArchiveError> {
    std::fs::write(path, bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let done = import(path, dir.path());
    if done.is_err() {
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "the directory is as it was");
    }
    done
}

/// An export of a past whose beginning retention took, and where to put forged ones.
async fn exported() -> (Past, Vec<(u8, Vec<u8>)>, PathBuf) {
    let past = Past::new(12_000).await;
    let path = past.file("copy");
    export(&past.data(), &[], &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let items = items(&bytes);
    assert!(file(&items) == bytes, "what is taken apart here is put together again");
    let forged = past.file("forged");
    (past, items, forged)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_that_somebody_signed_can_be_changed() {
    let (_past, items, path) = exported().await;
    let mut broken = 0;
    for (n, (kind, payload)) in items.iter().enumerate() {
        // A record's offset and time are the broker's own word.
        let unsigned = match *kind {
            1 | RECORD => 16,
            2 | 3 | DIGEST => 8,
            _ => 0,
        };
        for at in (unsigned..payload.len()).step_by(61) {
            let mut forged = items.clone();
            forged[n].1[at] ^= 0x10;
            match imported(&path, &file(&forged)) {
                Ok(_) => panic!("byte {at} of item {n}, kind {kind}, was changed and nobody noticed"),
                Err(ArchiveError::Damaged { .. }) => broken += 1,
                Err(error) => {
                    assert!(
                        matches!(error, ArchiveError::DamagedFile(_) | ArchiveError::Store(_)),
                        "{error}"
                    );
                }
            }
        }
    }
    assert!(broken > 100, "{broken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_left_out_put_elsewhere_or_put_in_twice() {
    let (_past, items, path) = exported().await;
    let refused = |items: &[(u8, Vec<u8>)], what: &str| match imported(&path, &file(items)) {
        Err(ArchiveError::Damaged { .. } | ArchiveError::DamagedFile(_)) => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: nobody noticed"),
    };
    let mut shorter = 0;
    for (n, (kind, _)) in items.iter().enumerate() {
        let what = |did: &str| format!("item {n} of {}, kind {kind}, {did}", items.len());
        let without: Vec<_> = [&items[..n], &items[n + 1..]].concat();
        match *kind {
            DIGEST | RECORD if imported(&path, &file(&without)).is_ok() => shorter += 1,
            HEAD..DONE => {}
            _ => refused(&without, &what("left out")),
        }
        if !(HEAD..DONE).contains(kind) {
            refused(&[&items[..=n], &items[n..]].concat(), &what("twice"));
        }
        if *kind < HEAD {
            let mut swapped = items.clone();
            swapped.swap(n, n + 1);
            refused(&swapped, &what("after the next one"));
        }
        refused(&items[..n.max(1)], &what("and all that follows left out"));
    }
    assert!(shorter <= 2, "of each publisher, what it published last: {shorter}");
    refused(&[&items[..], &items[..]].concat(), "the topic twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_another_topic_is_refused() {
    let (mut past, own, path) = exported().await;
    past.world.start().await;
    let (other, parsed, signed) = crate::hand::genesis(9);
    let (owner, client) = (past.world.client(1).await, past.world.client(2).await);
    owner.create(&signed).await.unwrap();
    let mut admin = crate::hand::Admin::new(other, &parsed);
    owner.append(other, &admin.add(&[(2, Role::Publisher), (3, Role::Reader)])).await.unwrap();
    let (mut pipe, mut hand) = client.publisher(other, 2, &admin, &[3]).await;
    pipe.batch(&mut hand, b"of the other topic").await;
    drop((owner, client, pipe));
    past.world.broker.take().unwrap().shutdown().await;
    let others = past.file("others");
    export(&past.data(), &[other], &others).unwrap();
    let others = items(&std::fs::read(others).unwrap());
    let mut tried = 0;
    for (n, (kind, payload)) in own.iter().enumerate().filter(|(_, (kind, _))| *kind < HEAD) {
        for (_, foreign) in others.iter().filter(|(other, _)| other == kind) {
            // Where the file says that it stands may be forged too.
            let place = match *kind {
                1 | 4 => 0,
                RECORD => 16,
                _ => 8,
            };
            let mut forged = own.clone();
            forged[n].1 = [&payload[..place], &foreign[place..]].concat();
            let error = imported(&path, &file(&forged)).unwrap_err();
            assert!(matches!(error, ArchiveError::Damaged { .. }), "item {n}, kind {kind}: {error}");
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}
