//! Subscribe.
mod cursor;
mod event;
mod inbox;
mod ledger;
mod wire;
