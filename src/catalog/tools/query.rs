//! Arguments of MCP for a tool that takes some of them in its query.
//!
//! Decides which arguments travel in the query and how they are spelt there. Never looks at what a value means.

use std::borrow::Cow;

use form_urlencoded::Serializer;
use serde_json::value::RawValue;

use super::Post;
use crate::mcp::{
    members::{Members, text},
    splice::Splice,
};

impl Post {
    /// The arguments that travel in the query, as the query, and the others, as the body: both of a call by MCP, whose
    /// arguments are one object. None where they are no such object.
    ///
    /// A list is the name with each of its values (OpenAPI 3.1, style `form`), an object its JSON, and `null` nothing.
    pub fn split<'a>(&self, arguments: &'a str) -> Option<(String, Cow<'a, str>)> {
        let members = Members::read(arguments)?;
        let is_moved = |name: &str| self.arguments_in_query.iter().any(|moved| moved == name);
        if !members.iter().any(|(name, _)| is_moved(name)) {
            return Some((String::new(), arguments.into()));
        }
        let mut query = Serializer::new(String::new());
        for (name, value) in members.iter().filter(|(name, _)| is_moved(name)) {
            match serde_json::from_str::<Vec<&RawValue>>(value) {
                Ok(values) => values.iter().for_each(|value| append(&mut query, name, value.get())),
                Err(_) => append(&mut query, name, value),
            }
        }
        let body = Splice::new(arguments).remake(&members, is_moved, &[]).finish();
        Some((query.finish(), body.into()))
    }
}

fn append(query: &mut Serializer<'_, String>, name: &str, value: &str) {
    if value != "null" {
        query.append_pair(name, &text(value).unwrap_or(value.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &str, expected: Option<(&str, &str)>) {
        let arguments_in_query = ["page", "a b"].map(str::to_owned).into();
        let post = Post { path: "/t".into(), query: Vec::new(), arguments_in_query };
        let found = post.split(arguments);
        let found = found.as_ref().map(|(query, body)| (query.as_str(), &**body));
        assert_eq!(found, expected, "{arguments}");
    }

    #[test]
    fn arguments_of_the_query_leave_the_body_and_all_else_stays() {
        check(r#"{ "x" : 1.0 }"#, Some(("", r#"{ "x" : 1.0 }"#)));
        check(r#"{"page":2,"x":1.0}"#, Some(("page=2", r#"{"x":1.0}"#)));
        check(
            r#"{"page":"a&b=c d","a b":[1,"\u00e9",null]}"#,
            Some(("page=a%26b%3Dc+d&a+b=1&a+b=%C3%A9", "{}")),
        );
        check(r#"{"page":null,"a b":{"c":1}}"#, Some(("a+b=%7B%22c%22%3A1%7D", "{}")));
        for no in ["", "[]", "7", r#"{"page":1,"page":2}"#] {
            check(no, None);
        }
    }
}
