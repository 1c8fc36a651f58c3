//! What only AWS can say: its prices, by the account's own credentials.

pub mod prices;
