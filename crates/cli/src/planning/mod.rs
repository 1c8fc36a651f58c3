//! A plan as people and programs read it: in a terminal, as JSON, and as the document of a change request.

mod checklist;
mod document;
mod dossier;
mod runbook;
mod terminal;

pub use dossier::{Dossier, Inputs, basis};
pub use runbook::{form as runbook_form, write as write_runbook};
pub use terminal::{interval, render, steps_only};
