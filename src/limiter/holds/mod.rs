//! Holds: units that are taken now and whose final cost is reported later, and slots that are taken until they are
//! given back. Besides, what is spent and given back without a decision.
//!
//! A hold on windows is a check with a record of its own: what it takes is spent at once. Settling it spends more, or
//! gives back into what it came from. Everything that changes the table of holds does so under its lock, which is taken
//! after those of the shards, and queues its record there.
//!
//! Each module may use only those after it in this list: `once`, `settle`, `renew`, `hold`, `known`, `refund`.

mod hold;
mod known;
pub mod once;
mod refund;
mod renew;
mod settle;
