//! What must never be found in the store, however it is written.

use std::collections::BTreeMap;

/// So many bytes tell secrets apart at first sight.
const START: usize = 8;

/// Keys, and what people say to each other.
#[derive(Default)]
pub(crate) struct Secrets {
    by_start: BTreeMap<[u8; START], Vec<Vec<u8>>>,
}

impl Secrets {
    /// Whether the secret is a new one.
    pub(crate) fn add(&mut self, secret: Vec<u8>) -> bool {
        let start = *secret.first_chunk().expect("a secret has 8 bytes at least");
        let known = self.by_start.entry(start).or_default();
        let new = !known.contains(&secret);
        if new {
            known.push(secret);
        }
        new
    }

    /// Whether one of them is in there, as it is or in hex.
    pub(crate) fn are_in(&self, bytes: &[u8]) -> bool {
        let digits = bytes.split(|byte| !byte.is_ascii_hexdigit()).filter(|run| run.len() >= 2 * START);
        // Within something longer a secret may begin at an odd digit.
        let decoded =
            digits.flat_map(|run| [run, &run[1..]]).filter_map(|run| hex::decode(&run[..run.len() / 2 * 2]).ok());
        self.are_raw_in(bytes) || decoded.into_iter().any(|bytes| self.are_raw_in(&bytes))
    }

    fn are_raw_in(&self, bytes: &[u8]) -> bool {
        (0..bytes.len().saturating_sub(START - 1)).any(|at| {
            let rest = &bytes[at..];
            let start: &[u8; START] = rest.first_chunk().expect("the last places are left out");
            self.by_start.get(start).is_some_and(|secrets| secrets.iter().any(|secret| rest.starts_with(secret)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_whatever_it_is_part_of() {
        let mut secrets = Secrets::default();
        let secret: Vec<u8> = (100..132).collect();
        assert!(secrets.add(secret.clone()));
        assert!(!secrets.add(secret.clone()));
        let within = |text: String| format!("\"{text}\"").into_bytes();
        for told in [
            secret.clone(),
            [&[1, 2, 3], &secret[..], &[4]].concat(),
            within(hex::encode(&secret)),
            within(hex::encode_upper(&secret)),
            within(format!("f{}00", hex::encode(&secret))),
        ] {
            assert!(secrets.are_in(&told), "{told:?}");
        }
        let mut altered = secret.clone();
        altered[31] ^= 1;
        for told in [altered, secret[..31].to_vec(), Vec::new(), within(hex::encode(&secret[..20]))] {
            assert!(!secrets.are_in(&told), "{told:?}");
        }
    }
}
