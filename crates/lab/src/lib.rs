//! A laboratory on this machine: a real source under a real PgBouncer, a schema that is not a toy, and applications that
//! write to it. The demo and the tests drive the same one.

mod application;
mod lab;

pub use application::{Application, Applied};
pub use lab::{Lab, LabError, LabSpec, ROLES};
