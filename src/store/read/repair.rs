//! The repair reader: reads a damaged data directory for what is left of it. Changes no file.
//!
//! Tried in this order: the newest snapshot with the log after it up to the first damaged place; where that snapshot is
//! damaged, an older snapshot that is still there with all segments after it, or segment 1; then what can be read of
//! the newest snapshot, each of whose frames is valid by itself, with the log after it; and where that is nothing, an
//! older state after all, without the segments that are missing after it.

use std::path::Path;

use super::found::{Damage, Files, Recovered, Replay, Stop};
use super::recovery::Reader;
use crate::error::{Error, Result};
use crate::store::files::disk::ReadDisk;
use crate::store::files::names::Name;
use crate::store::format::frame::{self, FileHeader, FileKind};

/// What was read, and what was not.
#[derive(Debug, Default)]
pub struct RepairRead {
    /// What was read.
    pub found: Recovered,
    /// The damaged places that were met.
    pub damages: Vec<Damage>,
    /// Limits of a damaged snapshot that could not be read.
    pub lost_limits: u64,
    /// What could not be taken over from the log.
    pub lost: Lost,
}

/// What the log holds after a damaged place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes from there to the end of the log, without zero-filled space.
    pub bytes: u64,
    /// Frames among them that are whole.
    pub frames: u64,
    /// Records in these.
    pub events: u64,
    /// Records that were there when the log was last closed cleanly, and are in no file.
    pub missing: u64,
    /// The highest sequence number that is lost, as far as is known.
    pub last_sequence: Option<u64>,
}

/// Reads what is left into a replay that `fresh` makes (`fresh(true)`: one that takes records about limits that are not
/// there), and returns it. `None` if nothing can be read at all.
///
/// # Errors
/// `unsupported` for another version of the format; `io`.
pub fn read_for_repair<R: Replay>(
    dir: &Path,
    disk: &dyn ReadDisk,
    fresh: impl Fn(bool) -> R,
) -> Result<(Option<R>, RepairRead)> {
    let files = Files::list(dir, disk)?;
    let newest = files.snapshots.last().copied();
    // Each history, and whether what is left of its snapshot will do.
    let mut histories = vec![(newest, false)];
    if let Some(newest) = newest {
        let (whole, broken): (Vec<_>, Vec<_>) = older(&files, newest).partition(|(_, whole)| *whole);
        histories.extend(whole.iter().map(|(snapshot, _)| (*snapshot, false)));
        histories.push((Some(newest), true));
        histories.extend(broken.iter().map(|(snapshot, _)| (*snapshot, false)));
    }
    let mut damages = Vec::new();
    for (snapshot, skip) in histories {
        match read(dir, disk, &files, snapshot, fresh(skip), skip)? {
            Ok((replay, mut done)) => {
                // With `skip` it meets the damaged places of the snapshot again, one by one.
                if !skip {
                    done.damages.splice(..0, damages);
                }
                return Ok((Some(replay), done));
            }
            Err(damage) if !skip => damages.push(damage),
            Err(_) => {}
        }
    }
    Ok((None, RepairRead { damages, ..RepairRead::default() }))
}

/// The beginnings before the newest snapshot from which the log can be read, the latest first, each with whether it
/// goes on from there to that snapshot without a gap.
fn older(files: &Files, newest: u64) -> impl Iterator<Item = (Option<u64>, bool)> {
    let older = files.snapshots.iter().rev().skip(1).map(|number| Some(*number)).chain([None]);
    older.filter_map(move |snapshot| {
        let (first, segments) = (snapshot.unwrap_or(1), files.after(snapshot));
        let unbroken = (first..).zip(segments).take_while(|(expected, number)| *expected == **number).count() as u64;
        (unbroken > 0).then_some((snapshot, first + unbroken >= newest))
    })
}

/// Reads one history up to the first damaged place. `Err` where that place is in the snapshot, or if there is none
/// and the log cannot be begun; with `skip` what is left of the snapshot will do.
fn read<R: Replay>(
    dir: &Path,
    disk: &dyn ReadDisk,
    files: &Files,
    snapshot: Option<u64>,
    mut replay: R,
    skip: bool,
) -> Result<std::result::Result<(R, RepairRead), Damage>> {
    let mut reader = Reader::new(dir, disk, &mut replay);
    reader.skipped = skip.then(Vec::new);
    let end = reader.read(files, snapshot);
    let Reader { found, skipped, lost_limits, closed, .. } = reader;
    let begun = found.events > 0 || found.snapshot_bytes > 0 || !found.segments.is_empty();
    let mut damages = skipped.unwrap_or_default();
    let mut lost = Lost::default();
    match end {
        Ok(()) => {}
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Damaged(damage)) if !begun => return Ok(Err(damage)),
        Err(Stop::Damaged(damage)) => {
            lost = lost_after(dir, disk, files, &found, &damage)?;
            let known = lost.last_sequence.max(Some(found.next_sequence.saturating_sub(1)));
            if let Some(closed) = closed.filter(|closed| Some(closed.last) > known) {
                lost.missing = closed.last - known.unwrap_or(0);
                lost.last_sequence = Some(closed.last);
            }
            damages.push(damage);
        }
    }
    Ok(Ok((replay, RepairRead { found, damages, lost_limits, lost })))
}

/// Counts what the segments hold after the place.
fn lost_after(dir: &Path, disk: &dyn ReadDisk, files: &Files, found: &Recovered, damage: &Damage) -> Result<Lost> {
    let mut lost = Lost::default();
    for number in files.after(found.snapshot).iter().filter(|number| !found.segments.contains(number)) {
        let path = Name::Segment(*number).path(dir);
        let file = disk.read(&path).map_err(|error| Error::io("read", &path, &error))?;
        let begin = if path == damage.file { damage.offset.unwrap_or(0) as usize } else { 0 };
        let rest = &file[begin.min(file.len())..];
        lost.bytes += frame::without_zeros(rest) as u64;
        let Ok(header) = FileHeader::decode(&file, FileKind::Segment) else { continue };
        for (_, head, _) in frame::scan(rest, header.salt, header.kind).filter(|(_, head, _)| head.records > 0) {
            lost.frames += 1;
            lost.events += u64::from(head.records);
            lost.last_sequence = lost.last_sequence.max(head.first.checked_add(u64::from(head.records) - 1));
        }
    }
    Ok(lost)
}
