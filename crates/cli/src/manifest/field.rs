//! Reading typed fields from a tree, with the path of each kept for messages.
//!
//! A [`Fields`] is taken apart name by name and then asked to refuse whatever is left: a field that nobody
//! took is a field that would be ignored, and a Pod that means something else than it says is worse than an
//! error. Every reader answers `None` once it has reported a fault, so decoding goes on to find the next.

use std::str::FromStr;

use super::problem::Report;
use super::yaml::{Key, Node, Place, Value};
use crate::quantity::Quantity;

/// One value with its path.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    node: &'a Node,
    /// Where the key of this value stands; that is where an unwanted field is pointed out.
    key_at: Place,
    path: String,
    report: &'a Report,
}

/// The fields of one mapping.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pairs: Vec<(&'a Key, &'a Node)>,
    known: Vec<&'static str>,
    at: Place,
    path: String,
    report: &'a Report,
}

impl<'a> Field<'a> {
    /// The whole document.
    pub(crate) fn root(node: &'a Node, report: &'a Report) -> Self {
        Self { node, key_at: node.at, path: String::new(), report }
    }

    /// Where the value stands.
    pub(crate) fn at(&self) -> Place {
        self.node.at
    }

    /// Reports a fault of the value.
    pub(crate) fn fault(&self, text: impl Into<String>) {
        self.report.add(self.node.at, &self.path, text);
    }

    /// Reports that the field itself is unwanted.
    pub(crate) fn refuse(&self, text: impl Into<String>) {
        self.report.add(self.key_at, &self.path, text);
    }

    fn mismatch<T>(&self, wanted: &str) -> Option<T> {
        let quote = match (&self.node.value, wanted) {
            (Value::Scalar { text, quoted: false }, "a string") => format!("; write \"{text}\""),
            _ => String::new(),
        };
        self.fault(format!("{wanted} is wanted, this is {}{quote}", self.node.kind()));
        None
    }

    /// A string. Numbers and booleans are not strings here, as they are none to Kubernetes.
    pub(crate) fn string(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, .. } if self.node.kind() == "a string" => Some(text),
            _ => self.mismatch("a string"),
        }
    }

    /// The characters of a scalar, whatever it is, without a fault when it is none.
    pub(crate) fn plain(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// A string that is not empty.
    pub(crate) fn name(&self) -> Option<&'a str> {
        let text = self.string()?;
        if text.is_empty() {
            self.fault("must not be empty");
            return None;
        }
        Some(text)
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Scalar { text, quoted: false } if self.node.kind() == "a boolean" => {
                Some(matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "on"))
            }
            _ => self.mismatch("true or false"),
        }
    }

    /// A whole number within the type, and within `range`.
    pub(crate) fn integer<T>(&self, range: std::ops::RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let text = match &self.node.value {
            Value::Scalar { text, quoted: false } if self.node.kind() == "a number" => text,
            _ => return self.mismatch("a whole number"),
        };
        match text.parse::<T>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.fault(format!("{text} is not a whole number from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    /// A quantity of zero or more; plain numbers need no quotes.
    pub(crate) fn quantity(&self) -> Option<Quantity> {
        let text = match &self.node.value {
            Value::Scalar { text, .. } if matches!(self.node.kind(), "a string" | "a number") => text,
            _ => return self.mismatch("a quantity such as 500m or 64Mi"),
        };
        match text.parse::<Quantity>() {
            Ok(amount) if amount.is_negative() => {
                self.fault(format!("{text} is less than nothing"));
                None
            }
            Ok(amount) => Some(amount),
            Err(error) => {
                self.fault(error.to_string());
                None
            }
        }
    }

    /// One of the given words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.fault(format!("`{text}` is not one of {}", words.join(", ")));
        }
        found
    }

    pub(crate) fn items(&self) -> Vec<Field<'a>> {
        let Value::Sequence(items) = &self.node.value else {
            self.mismatch::<()>("a list");
            return Vec::new();
        };
        let field = |(index, node): (usize, &'a Node)| Field {
            node,
            key_at: node.at,
            path: format!("{}[{index}]", self.path),
            report: self.report,
        };
        items.iter().enumerate().map(field).collect()
    }

    pub(crate) fn strings(&self) -> Vec<String> {
        self.items().iter().filter_map(Field::string).map(str::to_owned).collect()
    }

    pub(crate) fn fields(&self) -> Fields<'a> {
        let pairs = match &self.node.value {
            Value::Mapping(pairs) => pairs.iter().map(|(key, node)| (key, node)).collect(),
            _ => {
                self.mismatch::<()>("a mapping");
                Vec::new()
            }
        };
        Fields { pairs, known: Vec::new(), at: self.node.at, path: self.path.clone(), report: self.report }
    }
}

impl<'a> Fields<'a> {
    /// The field of this name, if it says anything.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.known.push(name);
        let index = self.pairs.iter().position(|(key, _)| key.name == name)?;
        let (key, node) = self.pairs.remove(index);
        (!node.is_null()).then(|| self.field(key, node))
    }

    /// The field of this name, reported when it is missing.
    pub(crate) fn need(&mut self, name: &'static str) -> Option<Field<'a>> {
        let found = self.take(name);
        if found.is_none() {
            self.missing(name, "is missing");
        }
        found
    }

    /// Reports that `name` is missing.
    pub(crate) fn missing(&self, name: &str, text: &str) {
        self.report.add(self.at, &join(&self.path, name), text);
    }

    /// Passes over fields that change nothing here.
    pub(crate) fn pass(&mut self, names: &[&'static str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Refuses fields that Kubernetes has and `pod run` has not, each with the reason or the way out.
    pub(crate) fn refuse(&mut self, names: &[(&'static str, &str)]) {
        for (name, reason) in names {
            if let Some(field) = self.take(name) {
                field.refuse(format!("is not supported: {reason}"));
            }
        }
    }

    /// A boolean that may only be false.
    pub(crate) fn refuse_true(&mut self, names: &[(&'static str, &str)]) {
        for (name, reason) in names {
            if let Some(field) = self.take(name)
                && field.boolean() == Some(true)
            {
                field.refuse(format!("is not supported: {reason}"));
            }
        }
    }

    /// All fields whatever their names, for mappings such as labels.
    pub(crate) fn take_all(&mut self) -> Vec<(&'a str, Field<'a>)> {
        let pairs = std::mem::take(&mut self.pairs);
        pairs.into_iter().map(|(key, node)| (key.name.as_str(), self.field(key, node))).collect()
    }

    /// Refuses by name whatever nobody took.
    pub(crate) fn finish(self) {
        for (key, _) in &self.pairs {
            let near = self
                .known
                .iter()
                .filter(|known| strsim::damerau_levenshtein(known, &key.name) <= 2)
                .min_by_key(|known| strsim::damerau_levenshtein(known, &key.name));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let text = format!("is no field that dunnage knows{hint}");
            self.report.add(key.at, &join(&self.path, &key.name), text);
        }
    }

    fn field(&self, key: &Key, node: &'a Node) -> Field<'a> {
        Field { node, key_at: key.at, path: join(&self.path, &key.name), report: self.report }
    }
}

/// `parent.name`; names with dots, as in labels, stand in brackets.
fn join(parent: &str, name: &str) -> String {
    if name.contains(['.', '/']) {
        format!("{parent}[{name}]")
    } else if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}
