//! Sessions against each other and against hand-made bytes, with a virtual clock.

mod establish;
mod hand;
mod negotiate;
mod pair;
mod random;
mod restart;
mod splits;
mod stop;
mod table;
