//! Text to unchecked shapes: one parse when the text is good, a second one only to say where it is not.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Checked, Error, invalid};

/// Parses `text` as `T` and refuses null bytes in it.
///
/// # Errors
/// [`Error::Json`] with the path of the field, line and column.
pub(crate) fn parse<T: DeserializeOwned>(document: &'static str, text: &[u8]) -> Result<T, Error> {
    let parsed = serde_json::from_slice(text).map_err(|_| locate::<T>(document, text))?;
    refuse_null_bytes(text).map_err(|refusal| Error::Refused { document, refusal })?;
    Ok(parsed)
}

// serde_path_to_error costs on every field, so it runs only when the parse is known to fail.
fn locate<T: DeserializeOwned>(document: &'static str, text: &[u8]) -> Error {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) => {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { format!("{path}: ") };
            Error::Json { document, path, message: error.inner().to_string() }
        }
        // The value itself is fine, so something follows it.
        Ok(_) => {
            let message = deserializer.end().err().map(|error| error.to_string()).unwrap_or_default();
            Error::Json { document, path: String::new(), message }
        }
    }
}

// Every string may end up in a system call, where it would end at the null byte. JSON can write one only as
// an escape, so a document without backslashes, the usual kind, is cleared by one look for that byte.
fn refuse_null_bytes(text: &[u8]) -> Checked<()> {
    if !text.contains(&b'\\') || !text.windows(6).any(|escape| escape == b"\\u0000") {
        return Ok(());
    }
    match serde_json::from_slice::<Value>(text).ok().and_then(|value| null_byte(&value)) {
        Some(field) => invalid(field, "has a null byte"),
        None => Ok(()),
    }
}

fn null_byte(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(values) => {
            values.iter().enumerate().find_map(|(i, value)| Some(join(&format!("[{i}]"), &null_byte(value)?)))
        }
        Value::Object(members) => members.iter().find_map(|(name, value)| {
            if name.contains('\0') {
                return Some(name.replace('\0', "\\0"));
            }
            Some(join(name, &null_byte(value)?))
        }),
        _ => None,
    }
}

fn join(parent: &str, child: &str) -> String {
    let dot = if child.is_empty() || child.starts_with('[') { "" } else { "." };
    format!("{parent}{dot}{child}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn error(text: &str) -> String {
        parse::<json::Config>("config.json", text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_type_is_told_with_its_field_and_place() {
        let text = "{\n \"process\": {\n  \"args\": \"x\"\n }\n}";
        let expected =
            "config.json: process.args: invalid type: string \"x\", expected a sequence at line 3 column 13";
        assert_eq!(error(text), expected);
    }

    #[test]
    fn broken_json_is_told_with_its_place() {
        assert_eq!(
            error("{\"process\": "),
            "config.json: process: EOF while parsing a value at line 1 column 12"
        );
        assert_eq!(error("{} x"), "config.json: trailing characters at line 1 column 4");
    }

    #[test]
    fn a_null_byte_is_found_wherever_it_is() {
        assert_eq!(
            error(r#"{"mounts":[{"options":["a","b\u0000"]}]}"#),
            "config.json: mounts[0].options[1]: has a null byte"
        );
        assert_eq!(
            error(r#"{"annotations":{"a\u0000":"b"}}"#),
            "config.json: annotations.a\\0: has a null byte"
        );
    }

    #[test]
    fn an_escaped_backslash_before_u0000_is_no_null_byte() {
        let text = br#"{"hostname":"a\\u0000"}"#;
        let config: json::Config = parse("config.json", text).unwrap();
        assert_eq!(config.hostname.as_deref(), Some("a\\u0000"));
    }
}
