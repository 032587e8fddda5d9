//! YAML text to a tree in which every node knows its line and column.
//!
//! Owns the shape of the text and nothing of Kubernetes. Scalars keep the characters that were written and
//! whether they were quoted, because `0.1` must stay exact until a [`Quantity`](crate::quantity::Quantity)
//! reads it and because `value: yes` is a string to one YAML and a boolean to another.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span};

/// A place in the text, counted from 1 as editors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// One node and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Scalar { text: String, quoted: bool },
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) at: Place,
    pub(crate) name: String,
}

/// Text that is not the one YAML document wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct YamlError {
    pub(crate) at: Place,
    pub(crate) text: String,
}

/// Nodes a text may become once its aliases are written out: far beyond any Pod, far below what hurts.
const MAX_NODES: usize = 100_000;

/// Reads the single document of `text`.
pub(crate) fn read(text: &str) -> Result<Node, YamlError> {
    let mut tree = Tree { events: Events::of(text)?, anchors: HashMap::new(), nodes: 0 };
    let Some((event, span)) = tree.events.next() else {
        return Err(error(Place { line: 1, column: 1 }, "the file is empty; a Pod is wanted"));
    };
    let root = tree.node(event, span)?;
    match tree.events.next() {
        None => Ok(root),
        Some((_, span)) => Err(error(place(span.start), "a second document; one Pod to a file")),
    }
}

impl Node {
    /// Whether nothing is said: `~`, `null`, or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        let Value::Scalar { text, quoted: false } = &self.value else { return false };
        matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// What it is, for a message.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Scalar { .. } if self.is_null() => "nothing",
            Value::Scalar { quoted: true, .. } => "a string",
            Value::Scalar { text, .. } if is_boolean(text) => "a boolean",
            Value::Scalar { text, .. } if is_number(text) => "a number",
            Value::Scalar { .. } => "a string",
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::Sequence(items) => items.iter().map(Self::count).sum(),
            Value::Mapping(pairs) => pairs.iter().map(|(_, node)| node.count()).sum(),
        }
    }
}

/// Booleans of YAML 1.1, which is what the API server's reader takes them to be.
fn is_boolean(text: &str) -> bool {
    const WORDS: [&str; 6] = ["true", "false", "yes", "no", "on", "off"];
    WORDS.iter().any(|word| {
        let capital = format!("{}{}", word[..1].to_ascii_uppercase(), &word[1..]);
        text == *word || text == word.to_ascii_uppercase() || text == capital
    })
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && (digits.parse::<f64>().is_ok()
            || digits.strip_prefix("0x").is_some_and(|hex| u64::from_str_radix(hex, 16).is_ok())
            || digits.strip_prefix("0o").is_some_and(|octal| u64::from_str_radix(octal, 8).is_ok()))
}

/// The events that make nodes: no comments, no document marks.
struct Events<'a> {
    list: std::vec::IntoIter<(Event<'a>, Span)>,
}

impl<'a> Events<'a> {
    fn of(text: &'a str) -> Result<Self, YamlError> {
        let mut list = Vec::new();
        for next in Parser::new_from_str(text) {
            let (event, span) =
                next.map_err(|e| error(place(*e.marker()), &format!("not YAML: {}", e.info())))?;
            if matches!(
                event,
                Event::Scalar(..)
                    | Event::Alias(_)
                    | Event::SequenceStart(..)
                    | Event::SequenceEnd
                    | Event::MappingStart(..)
                    | Event::MappingEnd
            ) {
                list.push((event, span));
            }
        }
        Ok(Self { list: list.into_iter() })
    }

    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        self.list.next()
    }
}

struct Tree<'a> {
    events: Events<'a>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Tree<'_> {
    /// The node that starts with this event.
    fn node(&mut self, event: Event<'_>, span: Span) -> Result<Node, YamlError> {
        let at = place(span.start);
        self.nodes += 1;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => {
                (anchor, Value::Scalar { text: text.into_owned(), quoted: style != ScalarStyle::Plain })
            }
            Event::SequenceStart(_, anchor, _) => (anchor, Value::Sequence(self.items()?)),
            Event::MappingStart(_, anchor, _) => (anchor, Value::Mapping(self.pairs()?)),
            Event::Alias(anchor) => return self.alias(anchor, at),
            _ => return Err(error(at, "not YAML: a node is missing here")),
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// A copy of what the anchor names, placed where it is used.
    fn alias(&mut self, anchor: usize, at: Place) -> Result<Node, YamlError> {
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(error(at, "an alias inside the node it names"));
        };
        self.nodes += target.count();
        if self.nodes > MAX_NODES {
            return Err(error(at, "the aliases of this file multiply beyond any Pod"));
        }
        Ok(Node { at, value: target.value.clone() })
    }

    fn items(&mut self) -> Result<Vec<Node>, YamlError> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.events.next() {
            if matches!(event, Event::SequenceEnd) {
                break;
            }
            items.push(self.node(event, span)?);
        }
        Ok(items)
    }

    fn pairs(&mut self) -> Result<Vec<(Key, Node)>, YamlError> {
        let mut pairs: Vec<(Key, Node)> = Vec::new();
        while let Some((event, span)) = self.events.next() {
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = key(self.node(event, span)?)?;
            if let Some((first, _)) = pairs.iter().find(|(first, _)| first.name == key.name) {
                let text = format!("`{}` is given twice, first in line {}", key.name, first.at.line);
                return Err(error(key.at, &text));
            }
            let Some((event, span)) = self.events.next() else { break };
            pairs.push((key, self.node(event, span)?));
        }
        Ok(pairs)
    }
}

fn key(node: Node) -> Result<Key, YamlError> {
    match node.value {
        Value::Scalar { text, quoted: false } if text == "<<" => {
            Err(error(node.at, "merge keys (`<<`) are not read; write the fields out"))
        }
        Value::Scalar { text, .. } => Ok(Key { at: node.at, name: text }),
        _ => Err(error(node.at, "a key must be a plain word")),
    }
}

fn place(mark: Marker) -> Place {
    // The parser counts columns from 0.
    Place { line: mark.line(), column: mark.col() + 1 }
}

fn error(at: Place, text: &str) -> YamlError {
    YamlError { at, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(node: &Node) -> &[(Key, Node)] {
        let Value::Mapping(pairs) = &node.value else { panic!("{node:?}") };
        pairs
    }

    #[test]
    fn every_node_knows_where_it_stands() {
        let root = read("a: 1\nlist:\n  - x: 0.10\n    y: 'no'\n").unwrap();
        let list = &pairs(&root)[1];
        assert_eq!(list.0.at, Place { line: 2, column: 1 });
        let Value::Sequence(items) = &list.1.value else { panic!() };
        let x = &pairs(&items[0])[0].1;
        assert_eq!(x.at, Place { line: 3, column: 8 });
        assert_eq!(x.value, Value::Scalar { text: "0.10".to_owned(), quoted: false });
        let y = &pairs(&items[0])[1].1;
        assert_eq!(y.value, Value::Scalar { text: "no".to_owned(), quoted: true });
        assert_eq!(y.kind(), "a string");
    }

    #[test]
    fn an_alias_is_a_copy_of_its_anchor() {
        let root = read("a: &x {k: v}\nb: *x\n").unwrap();
        assert_eq!(pairs(&root)[0].1.value, pairs(&root)[1].1.value);
        assert_eq!(pairs(&root)[1].1.at, Place { line: 2, column: 4 });
    }

    #[test]
    fn aliases_that_multiply_are_stopped() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let names = vec![format!("*a{}", level - 1); 10].join(", ");
            text += &format!("a{level}: &a{level} [{names}]\n");
        }
        assert!(read(&text).unwrap_err().text.contains("multiply"));
    }

    #[test]
    fn a_key_given_twice_is_an_error_at_the_second() {
        let twice = read("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(twice.at, Place { line: 3, column: 1 });
        assert_eq!(twice.text, "`a` is given twice, first in line 1");
    }

    #[test]
    fn text_that_is_not_one_document_is_refused() {
        assert!(read("").unwrap_err().text.contains("empty"));
        assert_eq!(read("a: 1\n---\nb: 2\n").unwrap_err().at.line, 3);
        assert_eq!(read("a: 1\n  b: [\n").unwrap_err().at.line, 2);
        assert!(read("a: &x {b: *x}\n").is_err());
        assert!(read("a: {<<: {b: 1}}\n").unwrap_err().text.contains("merge keys"));
    }

    #[test]
    fn words_are_told_apart_from_booleans_and_numbers() {
        for (text, kind) in [
            ("yes", "a boolean"),
            ("True", "a boolean"),
            ("yEs", "a string"),
            ("12", "a number"),
            ("-1.5e3", "a number"),
            ("0x1f", "a number"),
            ("1.2.3", "a string"),
            ("500m", "a string"),
            ("~", "nothing"),
            ("\"1\"", "a string"),
        ] {
            let root = read(&format!("k: {text}\n")).unwrap();
            assert_eq!(pairs(&root)[0].1.kind(), kind, "{text}");
        }
    }
}
