//! The one place where names and texts become part of a statement.

pub use postgres_protocol::escape::escape_literal as literal;

/// Returns `name` as a quoted identifier.
pub fn quote(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// Returns `schema.name`, both quoted.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// Returns `value` as it stands in a libpq connection string: in single quotes, with quotes and backslashes escaped.
pub fn conninfo_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_their_quotes() {
        assert_eq!(quote(r#"we"ird"#), r#""we""ird""#);
        assert_eq!(qualified("a", "B c"), r#""a"."B c""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(conninfo_value(r"a'b\c"), r"'a\'b\\c'");
    }
}
