//! Checks `linux.namespaces`.

use std::path::PathBuf;

use crate::error::{Checked, Within as _, invalid, unsupported};
use crate::json;
use crate::namespace::{Namespace, NamespaceKind, Namespaces};

impl Namespaces {
    pub(crate) fn check(listed: Vec<json::Namespace>) -> Checked<Self> {
        let mut namespaces = Self::default();
        for (i, entry) in listed.into_iter().enumerate() {
            namespaces.add(entry).within(|| format!("namespaces[{i}]"))?;
        }
        Ok(namespaces)
    }

    fn add(&mut self, entry: json::Namespace) -> Checked<()> {
        let kind = kind(&entry.kind.unwrap_or_default())?;
        let decision = self.get_mut(kind);
        // The specification demands the refusal of duplicates.
        if decision.is_own() {
            return invalid("type", format!("{} is listed twice", kind.as_str()));
        }
        *decision = match entry.path.filter(|path| !path.is_empty()) {
            None => Namespace::New,
            Some(path) if path.starts_with('/') => Namespace::Join(PathBuf::from(path)),
            Some(path) => return invalid("path", format!("{path:?} is not absolute")),
        };
        Ok(())
    }
}

fn kind(word: &str) -> Checked<NamespaceKind> {
    match word {
        "user" => unsupported("type", "user namespaces are"),
        "time" => unsupported("type", "time namespaces are"),
        "" => invalid("type", "is missing"),
        _ => match NamespaceKind::ALL.into_iter().find(|kind| kind.as_str() == word) {
            Some(kind) => Ok(kind),
            None => invalid("type", format!("{word:?} is no kind of namespace")),
        },
    }
}
