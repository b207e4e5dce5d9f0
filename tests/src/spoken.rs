//! Whether something secret was said.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Every form in which a program may say bytes.
pub fn forms(secret: &[u8]) -> BTreeSet<String> {
    let numbers = |separator: &str| secret.iter().map(u8::to_string).collect::<Vec<_>>().join(separator);
    let mut forms = BTreeSet::from([
        hex::encode(secret),
        hex::encode_upper(secret),
        numbers(", "),
        numbers(","),
        secret.escape_ascii().to_string(),
        // As it stands in a JSON text.
        secret.escape_ascii().to_string().replace('\\', "\\\\"),
    ]);
    forms.extend(std::str::from_utf8(secret).map(str::to_owned));
    // Within something longer the secret begins at any of three places of a group of four digits.
    for start in 0..3 {
        let whole = &secret[start..secret.len() - (secret.len() - start) % 3];
        let text = STANDARD.encode(whole);
        forms.insert(text.replace('+', "-").replace('/', "_"));
        forms.insert(text);
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_in_each_form() {
        let secret = [0xfb, 0xef, 7, 34, 200, 65];
        let spoken = [
            format!("{secret:?}"),
            format!("{:?}", secret.to_vec()),
            STANDARD.encode([&[1], &secret[..], &[2, 3]].concat()),
            STANDARD.encode([&[1, 9], &secret[..], &[2]].concat()),
            format!("b\"{}\"", secret.escape_ascii()),
            format!("0x{}", hex::encode(secret)),
        ];
        for text in spoken {
            assert!(forms(&secret).iter().any(|form| text.contains(form)), "{text}");
        }
    }
}
