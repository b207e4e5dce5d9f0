//! Turns real bytes into hostile ones, by decisions that are bytes themselves.
//!
//! The keys of a room are new in every process, so a fuzzer that stored ciphertexts would store noise. What it stores
//! and varies instead are the decisions: which real message to take, and what to do to it.

/// The most bytes one decision adds.
const GROWTH_MAX: usize = 1 << 16;
/// Lengths and numbers that parsers stumble over: TLS vectors (RFC 9420 section 2.1.2) and protobuf varints.
const LENGTHS: [&[u8]; 8] = [
    &[0x00],
    &[0x3f],
    &[0x7f, 0xff],
    &[0xbf, 0xff, 0xff, 0xff],
    &[0xc0],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff],
];

/// Decisions read from bytes; all are 0 once the bytes are used up.
#[derive(Debug, Clone)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Decisions from the start of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether no byte is left to decide by.
    pub fn used_up(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of two.
    pub fn yes(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `count`; 0 if that is 0.
    pub fn below(&mut self, count: usize) -> usize {
        let bytes = match count {
            0 | 1 => return 0,
            2..=0x100 => 1,
            _ => 4,
        };
        (0..bytes).fold(0, |number, _| number << 8 | usize::from(self.byte())) % count
    }

    /// One of `items`.
    pub fn pick<'b, T>(&mut self, items: &'b [T]) -> Option<&'b T> {
        items.get(self.below(items.len()))
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// `seed` after up to seven changes: bits, lengths, ends, middles, parts of `others`, protobuf fields.
pub fn mutate(seed: &[u8], others: &[Vec<u8>], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..choices.below(8) {
        bytes = change(bytes, others, choices);
    }
    bytes
}

/// Takes one of `seeds` and changes it as [`mutate`] does; now and then takes the rest of the decisions as they are.
pub fn hostile(seeds: &[Vec<u8>], choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.byte() == 0xff {
        return choices.rest().to_vec();
    }
    let seed = choices.pick(seeds).cloned().unwrap_or_default();
    mutate(&seed, seeds, choices)
}

fn change(mut bytes: Vec<u8>, others: &[Vec<u8>], choices: &mut Choices<'_>) -> Vec<u8> {
    let kind = choices.below(12);
    let at = choices.below(bytes.len());
    match kind {
        0 => {
            let bit = choices.below(8);
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        1 => {
            let value = choices.byte();
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value);
        }
        2 => bytes.truncate(at),
        3 => {
            let value = choices.byte();
            bytes.resize(bytes.len() + choices.below(GROWTH_MAX), value);
        }
        4 => {
            let end = at + choices.below(bytes.len() - at + 1);
            bytes.drain(at..end);
        }
        5 => {
            let end = at + choices.below(bytes.len() - at + 1);
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        6 => {
            let other = choices.pick(others).cloned().unwrap_or_default();
            let from = choices.below(other.len());
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        7 => {
            let length = *choices.pick(&LENGTHS).expect("there are some");
            let end = (at + length.len()).min(bytes.len());
            bytes.splice(at..end, length.iter().copied());
        }
        8 => {
            let length = *choices.pick(&LENGTHS).expect("there are some");
            bytes.splice(at..at, length.iter().copied());
        }
        _ => bytes = change_field(&bytes, choices),
    }
    bytes
}

/// A field of a protobuf message, on the wire.
struct Field<'a> {
    /// Key and value.
    whole: &'a [u8],
    key: u64,
    /// The value of a field with a length: a text, bytes or a message.
    content: Option<&'a [u8]>,
}

/// Drops, repeats or changes one field of a protobuf message, at any depth. Other bytes stay as they are.
fn change_field(message: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let Some(fields) = fields(message).filter(|fields| !fields.is_empty()) else { return message.to_vec() };
    let (chosen, what) = (choices.below(fields.len()), choices.below(8));
    let mut changed = Vec::with_capacity(message.len());
    for (number, field) in fields.iter().enumerate() {
        match (number == chosen, what, field.content) {
            (false, ..) => changed.extend(field.whole),
            (true, 0, _) => {}
            (true, 1, _) => changed.extend([field.whole, field.whole].concat()),
            (true, 2, _) => {
                put_varint(&mut changed, field.key);
                changed.extend(choices.pick(&LENGTHS).copied().expect("there are some"));
            }
            (true, 3, Some(_)) => put_field(&mut changed, field.key, &[]),
            (true, 4, Some(content)) => put_field(&mut changed, field.key, &change(content.to_vec(), &[], choices)),
            (true, _, Some(content)) => put_field(&mut changed, field.key, &change_field(content, choices)),
            (true, ..) => {
                put_varint(&mut changed, field.key);
                put_varint(&mut changed, u64::from(choices.byte()));
            }
        }
    }
    changed
}

fn put_field(message: &mut Vec<u8>, key: u64, content: &[u8]) {
    put_varint(message, key);
    put_varint(message, content.len() as u64);
    message.extend(content);
}

fn put_varint(message: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, message);
}

/// The contents of all fields numbered `number` of a protobuf message that have a length.
pub fn contents_of(message: &[u8], number: u64) -> Vec<&[u8]> {
    let fields = fields(message).unwrap_or_default();
    fields.into_iter().filter(|field| field.key >> 3 == number).filter_map(|field| field.content).collect()
}

/// The fields of a protobuf message; `None` if the bytes are none.
fn fields(mut message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let mut rest = message;
        let key = prost::encoding::decode_varint(&mut rest).ok()?;
        let mut content = None;
        let length = match key & 7 {
            0 => {
                prost::encoding::decode_varint(&mut rest).ok()?;
                0
            }
            1 => 8,
            2 => {
                let length = usize::try_from(prost::encoding::decode_varint(&mut rest).ok()?).ok()?;
                content = Some(rest.get(..length)?);
                length
            }
            5 => 4,
            _ => return None,
        };
        rest = rest.get(length..)?;
        let (whole, after) = message.split_at(message.len() - rest.len());
        fields.push(Field { whole, key, content });
        message = after;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_decisions_nothing_changes() {
        let seeds = [b"one".to_vec(), b"two".to_vec()];
        assert_eq!(hostile(&seeds, &mut Choices::new(&[])), b"one");
        assert_eq!(hostile(&seeds, &mut Choices::new(&[0, 1])), b"two");
        assert_eq!(hostile(&seeds, &mut Choices::new(b"\xffraw")), b"raw");
    }

    #[test]
    fn a_field_within_a_field_is_dropped_and_lengths_stay_right() {
        // Field 1 holds a message with the fields 1 (varint 5) and 2 (text "ab").
        let message = [0x0a, 6, 0x08, 5, 0x12, 2, b'a', b'b'];
        let dropped = change_field(&message, &mut Choices::new(&[5, 1, 0]));
        assert_eq!(dropped, [0x0a, 2, 0x08, 5]);
        assert!(change_field(&message, &mut Choices::new(&[0])).is_empty());
    }

    #[test]
    fn every_decision_can_be_taken_on_every_length() {
        for length in [0, 1, 2, 300] {
            let seeds = [vec![7; length], b"other".to_vec()];
            for kind in 0..12 {
                for choice in [0, 1, 0x80, 0xff] {
                    let program = [&[1, kind][..], &[choice; 16]].concat();
                    assert!(mutate(&seeds[0], &seeds, &mut Choices::new(&program)).len() <= length * 2 + GROWTH_MAX);
                }
            }
        }
    }
}
