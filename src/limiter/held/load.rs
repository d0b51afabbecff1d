//! The table of holds where holds and keys are records that are kept elsewhere: how they come in, and how what an
//! operation did is undone.

use super::book::Book;
use super::outside::HoldLook;
use super::pledge::{Pledge, Taken};

impl Book {
    /// What holds were looked at since this was last asked, and whether one found no number. What was remembered to be
    /// put back stays for [`Book::undo`].
    pub fn end_noting(&mut self) -> (Vec<HoldLook>, bool) {
        self.outside.as_mut().map(|outside| outside.end_noting()).unwrap_or_default()
    }

    /// Forgets what was remembered, or puts it back.
    pub fn undo(&mut self, looks: Option<Vec<HoldLook>>) {
        let Some(outside) = &mut self.outside else { return };
        let rows = outside.take_rows();
        let Some(looks) = looks else { return };
        for (number, before) in looks {
            self.load_hold(number, before);
        }
        for (hash, rows) in rows {
            self.load_rows(hash, &rows);
        }
    }

    /// Replaces what is known of a hold; the slots that it takes are known of its keys.
    pub fn load_hold(&mut self, number: u64, pledge: Option<Pledge>) {
        self.take_out(number);
        if let Some(pledge) = pledge {
            self.put_in(pledge);
        }
    }

    /// Replaces the open holds of a key.
    pub fn load_rows(&mut self, hash: u64, rows: &[Taken]) {
        for row in self.rows(hash) {
            self.remove_row(hash, row.until, row.number);
        }
        for row in rows {
            self.add_row(hash, *row);
        }
    }
}
