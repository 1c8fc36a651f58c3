//! A document of headings, tables and checklists, as Markdown and as one HTML page that needs nothing else.

use maud::{Markup, html};

use crate::page::{inline, page};

const STYLE: &str = include_str!("document.css");

/// A document.
pub struct Document {
    /// Above the title.
    pub kicker: String,
    /// Its title.
    pub title: String,
    /// Under the title, a line each.
    pub facts: Vec<String>,
    /// Its chapters.
    pub sections: Vec<Section>,
    /// At the very end.
    pub footer: String,
}

/// A chapter.
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What it is, in a sentence; may be empty.
    pub note: String,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A piece of a chapter.
pub enum Block {
    /// A sub-heading.
    Heading(String),
    /// Sentences.
    Text(String),
    /// Points.
    List(Vec<String>),
    /// Statements to paste.
    Code(String),
    /// Rows under a heading.
    Table(Vec<String>, Vec<Vec<String>>),
    /// What has to be ticked off.
    Checklist(Vec<Item>),
}

/// A point of a checklist.
pub struct Item {
    /// It holds already.
    pub done: bool,
    /// What has to hold.
    pub what: String,
    /// Who or what says so.
    pub proof: Proof,
}

/// Who or what says that a point holds.
pub enum Proof {
    /// pgleap, by a step or a command.
    Program(String),
    /// A person, who signs.
    Person(String),
}

impl Section {
    /// Begins a chapter.
    pub fn new(title: &str, note: &str) -> Self {
        Self { title: title.to_owned(), note: note.to_owned(), blocks: Vec::new() }
    }

    /// Adds a piece.
    #[must_use]
    pub fn with(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }
}

const LINE: &str = "____________________";

impl Document {
    /// Returns it as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n{}\n", self.title, self.kicker);
        self.facts.iter().for_each(|fact| text.push_str(&format!("\n{fact}\n")));
        for section in &self.sections {
            text.push_str(&format!("\n## {}\n", section.title));
            if !section.note.is_empty() {
                text.push_str(&format!("\n{}\n", section.note));
            }
            section.blocks.iter().for_each(|block| text.push_str(&format!("\n{}\n", block.markdown())));
        }
        text.push_str(&format!("\n---\n\n{}\n", self.footer));
        text
    }

    /// Returns it as a page.
    pub fn html(&self) -> String {
        let main = html! {
            header {
                p.kicker { (self.kicker) }
                h1 { (self.title) }
                @for fact in &self.facts { p.facts { (inline(fact)) } }
            }
            @for section in &self.sections {
                section {
                    h2 { (section.title) }
                    @if !section.note.is_empty() { p.note { (inline(&section.note)) } }
                    @for block in &section.blocks { (block.html()) }
                }
            }
        };
        let footer = html! { (self.footer) };
        page(&self.title, STYLE, &main, &footer).into_string()
    }
}

impl Block {
    fn markdown(&self) -> String {
        let cell = |text: &String| text.replace('|', "\\|").replace('\n', " ");
        let row = |cells: &[String]| format!("| {} |", cells.iter().map(cell).collect::<Vec<_>>().join(" | "));
        match self {
            Self::Heading(text) => format!("### {text}"),
            Self::Text(text) => text.clone(),
            Self::List(items) => items.iter().map(|item| format!("* {item}")).collect::<Vec<_>>().join("\n"),
            Self::Code(text) => format!("```text\n{}\n```", text.replace("```", "` ` `")),
            Self::Table(head, rows) => {
                let rule = format!("|{}", " --- |".repeat(head.len()));
                let rows = rows.iter().map(|cells| row(cells));
                [row(head), rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
            }
            Self::Checklist(items) => items
                .iter()
                .map(|item| {
                    let mark = if item.done { "x" } else { " " };
                    match &item.proof {
                        Proof::Program(how) => format!("- [{mark}] {}  \n  proven by {how}", item.what),
                        Proof::Person(who) => format!("- [{mark}] {}  \n  signed, {who}: {LINE}", item.what),
                    }
                })
                .collect::<Vec<_>>()
                .join("\n"),
        }
    }

    fn html(&self) -> Markup {
        match self {
            Self::Heading(text) => html! { h3 { (inline(text)) } },
            Self::Text(text) => html! { p { (inline(text)) } },
            Self::List(items) => html! { ul { @for item in items { li { (inline(item)) } } } },
            Self::Code(text) => html! { pre { code { (text) } } },
            Self::Table(head, rows) => html! {
                div.scroll {
                    table {
                        @if head.iter().any(|cell| !cell.is_empty()) {
                            thead { tr { @for cell in head { th { (cell) } } } }
                        }
                        tbody { @for row in rows { tr { @for (nth, cell) in row.iter().enumerate() {
                            td class={ @if nth == 0 { "name" } } { (inline(cell)) }
                        } } } }
                    }
                }
            },
            Self::Checklist(items) => html! {
                ul.checks {
                    @for item in items {
                        li class={ @if item.done { "done" } } {
                            span.box { @if item.done { "✓" } }
                            div {
                                div { (inline(&item.what)) }
                                @match &item.proof {
                                    Proof::Program(how) => div.proof { "proven by " (inline(how)) },
                                    Proof::Person(who) => div.sign { "signed, " (inline(who)) ": " span.line {} },
                                }
                            }
                        }
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let items = vec![
            Item { done: true, what: "it is so".into(), proof: Proof::Program("`pgleap check`".into()) },
            Item { done: false, what: "all are told".into(), proof: Proof::Person("the owner".into()) },
        ];
        Document {
            kicker: "change request".into(),
            title: "a → b".into(),
            facts: vec!["of `db1`".into()],
            sections: vec![
                Section::new("One", "a note")
                    .with(Block::Table(vec!["A".into(), "B".into()], vec![vec!["x|y".into(), "<b>".into()]]))
                    .with(Block::Checklist(items)),
            ],
            footer: "made by hand".into(),
        }
    }

    #[test]
    fn markdown_has_boxes_to_tick_and_lines_to_sign() {
        let text = document().markdown();
        for part in [
            "# a → b",
            "## One\n\na note",
            "| x\\|y | <b> |",
            "- [x] it is so  \n  proven by `pgleap check`",
            "- [ ] all are told  \n  signed, the owner: ____",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
    }

    #[test]
    fn page_escapes_what_it_is_given_and_needs_nothing_else() {
        let page = document().html();
        assert!(page.contains("&lt;b&gt;") && page.contains("<code>db1</code>"), "{page}");
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"), "{page}");
    }
}
