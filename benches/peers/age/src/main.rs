//! age by hand: a file key wrapped for N recipients. Prints one JSON object.
//!
//! `peers-age wrap N`: a file of 32 bytes for N recipients. `peers-age message SIZE N`: one message as one age file for N
//! recipients, encrypted and, by one of them, decrypted. (Only there: of 1,000 the last one takes 12 s to find its stanza.)

use std::io::{Read as _, Write as _};

use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| args[at].parse::<usize>().expect("a number");
    let (size, count) = match args[1].as_str() {
        "wrap" => (32, number(2)),
        "message" => (number(2), number(3)),
        other => panic!("wrap or message, not {other}"),
    };
    let identities: Vec<_> = (0..count).map(|_| age::x25519::Identity::generate()).collect();
    let recipients: Vec<_> = identities.iter().map(age::x25519::Identity::to_public).collect();
    let message = vec![7; size];
    // Enough at a time to be told apart from the clock.
    let times = (2_000 / count).max(1);
    let (mut encrypt, mut decrypt, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let from = cpu_s();
        let mut file = Vec::new();
        for _ in 0..times {
            let all = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
            let encryptor = age::Encryptor::with_recipients(all).expect("recipients");
            file.clear();
            let mut writer = encryptor.wrap_output(&mut file).expect("a header");
            writer.write_all(&message).expect("memory");
            writer.finish().expect("memory");
        }
        encrypt.push((cpu_s() - from) * 1e6 / times as f64);
        bytes = file.len();
        if args[1] == "wrap" {
            continue;
        }
        let last = identities.last().expect("one");
        let from = cpu_s();
        let decryptor = age::Decryptor::new(&file[..]).expect("a header");
        let mut reader = decryptor.decrypt(std::iter::once(last as &dyn age::Identity)).expect("its key");
        let mut got = Vec::new();
        reader.read_to_end(&mut got).expect("whole");
        decrypt.push((cpu_s() - from) * 1e6);
        assert_eq!(got, message);
    }
    let encrypt = median(encrypt);
    let mut result = serde_json::json!({
        "recipients": count,
        "size": size,
        "encrypt_us": encrypt,
        "encrypt_us_per_recipient": encrypt / count as f64,
        "bytes": bytes,
    });
    if !decrypt.is_empty() {
        result["decrypt_us"] = median(decrypt).into();
    }
    println!("{result}");
}

/// CPU time of this process: other programs do not count.
fn cpu_s() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
