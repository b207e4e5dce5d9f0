//! One body into the claims it makes: a chain and a log each.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use serde_json::{error::Category, value::RawValue};
use usher_domain::ChainId;

use crate::reading::Reason;

/// One log as it was sent, unread.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) chain: ChainId,
    pub(crate) log: &'a str,
}

impl Claim<'_> {
    /// An envelope of this log alone.
    pub(crate) fn body(&self) -> String {
        format!(r#"{{"chainId":{},"log":{}}}"#, self.chain, self.log)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    chain_id: Quantity,
    #[serde(borrow, default, deserialize_with = "present")]
    log: Option<&'a RawValue>,
    #[serde(borrow)]
    logs: Option<Vec<&'a RawValue>>,
}

/// A `null` is a log that is no log, not a missing one.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Splits a body into its logs.
pub(crate) fn split(body: &str) -> Result<Vec<Claim<'_>>, Reason> {
    // serde_json reads a sequence as a struct, too.
    if body.trim_start().starts_with('[') {
        return Err(Reason::NotAnEnvelope("it is an array".to_owned()));
    }
    let envelope = serde_json::from_str::<Envelope<'_>>(body).map_err(|e| match e.classify() {
        Category::Data => Reason::NotAnEnvelope(e.to_string()),
        Category::Io | Category::Syntax | Category::Eof => Reason::NotJson(e.to_string()),
    })?;
    let logs = match (envelope.log, envelope.logs) {
        (Some(log), None) => vec![log],
        (None, Some(logs)) => logs,
        (Some(_), Some(_)) => return Err(Reason::NotAnEnvelope("it has both log and logs".to_owned())),
        (None, None) => return Err(Reason::NotAnEnvelope("it has neither log nor logs".to_owned())),
    };
    let chain = ChainId(envelope.chain_id.0);
    Ok(logs.into_iter().map(|log| Claim { chain, log: log.get() }).collect())
}

/// A number as JSON-RPC writes it (`0x` hex), or as everybody else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantity(pub(crate) u64);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an unsigned 64-bit number, or its text in 0x hex or decimal")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
                let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
                // `from_str_radix` would take a sign.
                if !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
                    return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self));
                }
                u64::from_str_radix(digits, radix)
                    .map(Quantity)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_split_into_its_logs_as_they_were_sent() {
        for chain in ["31337", r#""31337""#, r#""0x7a69""#] {
            let body = format!(r#" {{"source": "x", "chainId": {chain}, "logs": [{{"a":  1}}, null, 7]}}"#);
            let claims = split(&body).unwrap();
            assert!(claims.iter().all(|claim| claim.chain == ChainId(31337)));
            assert_eq!(claims.iter().map(|claim| claim.log).collect::<Vec<_>>(), [r#"{"a":  1}"#, "null", "7"]);
            assert_eq!(claims[0].body(), r#"{"chainId":31337,"log":{"a":  1}}"#);
        }
        assert!(split(r#"{"chainId":1,"logs":[]}"#).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_envelope_says_why() {
        for (body, why) in [
            ("", "not JSON"),
            ("{\"chainId\":1,\"log\":{}", "not JSON"),
            ("[]", "it is an array"),
            ("[31337, {}, []]", "it is an array"),
            ("null", "not an envelope"),
            (r#"{"log":{}}"#, "missing field `chainId`"),
            (r#"{"chainId":1}"#, "neither log nor logs"),
            (r#"{"chainId":1,"logs":null}"#, "neither log nor logs"),
            (r#"{"chainId":1,"log":{},"logs":[]}"#, "both log and logs"),
            (r#"{"chainId":1,"log":{},"log":{}}"#, "duplicate field `log`"),
            (r#"{"chainId":1,"logs":{}}"#, "expected a sequence"),
            (r#"{"chainId":-1,"log":{}}"#, "unsigned 64-bit"),
            (r#"{"chainId":"0x","log":{}}"#, "unsigned 64-bit"),
            (r#"{"chainId":"+1","log":{}}"#, "unsigned 64-bit"),
            (r#"{"chainId":"sei","log":{}}"#, "unsigned 64-bit"),
            (r#"{"chainId":"0x10000000000000000","log":{}}"#, "unsigned 64-bit"),
        ] {
            let err = split(body).unwrap_err().to_string();
            assert!(err.contains(why), "{body}: {err}");
        }
    }
}
