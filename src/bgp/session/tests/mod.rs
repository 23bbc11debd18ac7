//! Sessions against each other and against hand-made bytes, with a virtual clock.

mod establish;
mod pair;
