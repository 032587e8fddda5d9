//! An object of a configuration, read key by key; errors say which key it was.
//!
//! Keys are found in any case, as Go's decoder finds them, because containerd sends those of `portMappings` and
//! `bandwidth` in upper case; null is the same as nothing.

use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::error::{DECODE, Error, Result, UNSUPPORTED_FIELD};

/// An object and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// The value is no object.
    pub(crate) fn of(path: &str, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| wrong(path, value, "an object"))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Where a key is, as people write it.
    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        let exact = self.map.get(key);
        let any_case =
            || self.map.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        exact.or_else(any_case).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| wrong(&self.at(key), value, "a string"))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// A text that is read as something.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let parsed = text.parse().map_err(|error: T::Err| {
            Error::config(format!("{} {text:?} cannot be used", self.at(key))).because(error)
        })?;
        Ok(Some(parsed))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        Ok(Some(value.as_bool().ok_or_else(|| wrong(&self.at(key), value, "true or false"))?))
    }

    /// A number that is not negative and fits.
    pub(crate) fn number<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        Ok(Some(number.ok_or_else(|| wrong(&self.at(key), value, "a number in range"))?))
    }

    /// The values of a list, each with its place; none when the key is not there.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<(String, &'a Value)>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(value) => elements(&self.at(key), value),
        }
    }

    /// The objects of a list.
    pub(crate) fn objects(&self, key: &str) -> Result<Vec<Self>> {
        self.list(key)?.into_iter().map(|(path, value)| Self::of(&path, value)).collect()
    }

    /// The texts of a list.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>> {
        let text = |(path, value): (String, &Value)| {
            value.as_str().map(str::to_owned).ok_or_else(|| wrong(&path, value, "a string"))
        };
        self.list(key)?.into_iter().map(text).collect()
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>> {
        self.get(key).map(|value| Self::of(&self.at(key), value)).transpose()
    }

    /// Keys with their values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// Refuses every key that is not known, by name. Keys of the specification itself have a slash.
    pub(crate) fn refuse_others(&self, known: &[&str]) -> Result<()> {
        let is_known =
            |key: &str| key.contains('/') || known.iter().any(|known| known.eq_ignore_ascii_case(key));
        let Some((key, value)) = self.map.iter().find(|(key, _)| !is_known(key)) else { return Ok(()) };
        let similar = |known: &&&str| strsim::osa_distance(known, key);
        let closest = known.iter().min_by_key(similar).filter(|known| similar(known) <= 2);
        let error = Error::new(UNSUPPORTED_FIELD, format!("unknown key {} with value {value}", self.at(key)));
        Err(match closest {
            Some(known) => error.because(format!("is {} meant?", self.at(known))),
            None => error,
        })
    }

    /// Refuses an option that is asked for and does not exist here.
    pub(crate) fn refuse_if(&self, key: &str, asked: bool, instead: &str) -> Result<()> {
        if !asked {
            return Ok(());
        }
        let value = self.get(key).cloned().unwrap_or_default();
        Err(Error::new(UNSUPPORTED_FIELD, format!("{} with value {value} is not supported", self.at(key)))
            .because(instead))
    }
}

/// The values of a list, each with its place.
pub(crate) fn elements<'a>(path: &str, value: &'a Value) -> Result<Vec<(String, &'a Value)>> {
    let list = value.as_array().ok_or_else(|| wrong(path, value, "a list"))?;
    Ok(list.iter().enumerate().map(|(number, value)| (format!("{path}[{number}]"), value)).collect())
}

fn wrong(path: &str, value: &Value, wanted: &str) -> Error {
    let what = if path.is_empty() { "the configuration" } else { path };
    Error::new(DECODE, format!("{what} is not {wanted}")).because(format!("it is {value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_found_in_any_case_and_null_is_nothing() {
        let value = json!({"HostPort": 80, "mtu": null});
        let fields = Fields::of("", &value).unwrap();
        assert_eq!(fields.number::<u16>("hostPort").unwrap(), Some(80));
        assert_eq!(fields.number::<u32>("mtu").unwrap(), None);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_value_and_what_may_be_meant() {
        let value = json!({"isGatway": true, "cni.dev/attachments": []});
        let error = Fields::of("ipam", &value).unwrap().refuse_others(&["isGateway", "ipMasq"]).unwrap_err();
        assert_eq!(error.code, UNSUPPORTED_FIELD);
        assert_eq!(error.msg, "unknown key ipam.isGatway with value true");
        assert_eq!(error.details, "is ipam.isGateway meant?");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        let value = json!({"mtu": "1500", "bridge": 1, "vlan": -1});
        let fields = Fields::of("", &value).unwrap();
        assert_eq!(fields.number::<u32>("mtu").unwrap_err().msg, "mtu is not a number in range");
        assert_eq!(fields.text("bridge").unwrap_err().msg, "bridge is not a string");
        assert_eq!(fields.number::<u16>("vlan").unwrap_err().code, DECODE);
    }
}
