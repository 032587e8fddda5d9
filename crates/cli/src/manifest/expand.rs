//! `$(NAME)` in commands, arguments and environment values, as the kubelet expands it.

use std::collections::BTreeMap;

/// Replaces each `$(NAME)` that `variables` holds; leaves the others as they stand; `$$` becomes `$`.
///
/// The rule of `k8s.io/kubernetes/third_party/forked/golang/expansion`: unknown names and a `$(` without an
/// end are kept verbatim, so a shell inside the container still sees them.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_and_all_else_is_kept() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("E".to_owned(), String::new())]);
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(E)", ""),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("$(B$(A)", "$(B$(A)"),
            ("ü$(A)ü", "ü1ü"),
        ] {
            assert_eq!(expand(text, &variables), want, "{text}");
        }
    }
}
