//! The shell of every page that pgleap writes: it needs nothing else, no scripts, no fonts, no network.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The look of every page.
const STYLE: &str = include_str!("page.css");

/// Returns a page. `style` is what it needs beyond the common look.
pub fn page(title: &str, style: &str, main: &Markup, footer: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(style)) }
            }
            body {
                main { (main) }
                footer { (footer) }
            }
        }
    }
}

/// Sets what is between backticks as code.
pub fn inline(text: &str) -> Markup {
    html! {
        @for (nth, part) in text.split('`').enumerate() {
            @if nth % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}
