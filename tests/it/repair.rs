//! `flint log repair`, from the outside.

use serde_json::json;

use crate::util::{flint, frames, log_files, segments};

#[test]
fn a_way_out_of_corruption() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("to"));
    let to_text = to.to_str().unwrap();
    let run = flint(&dir, &["limit", "add", "k", "--rate", "100", "--per", "366d"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for _ in 0..5 {
        assert_eq!(flint(&dir, &["limit", "check", "k", "--cost", "3"]).code, Some(0));
    }
    let segment = segments(&dir).pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // After that of the clock, frames with records and marks take turns: the fourth check's.
    let at = frames(&bytes).0[9];
    bytes[at + 41] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let before = log_files(&dir);
    for (command, code) in [(["doctor"].as_slice(), 1), (&["limit", "status", "k"], 3), (&["limit", "check", "k"], 3)] {
        let run = flint(&dir, command);
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!((run.out + &run.err).contains("a new directory with `flint log repair`"), "{command:?}");
    }

    let run = flint(&dir, &["log", "repair", "--to", to_text]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    let place = format!("{} is damaged at offset {at}: ", segment.display());
    for line in [
        "kept: 1 limit, from no snapshot and 5 events in 5 frames, up to record 5",
        &format!("damaged: {place}"),
        "including 1 frame that can be read, with 1 event, up to record 7",
        &format!("written to {to_text}; the old directory was not changed"),
    ] {
        assert!(run.out.contains(line), "{line}: {}", run.out);
    }
    assert!(log_files(&dir) == before, "the damaged directory was changed");
    let status = flint(&to, &["limit", "status", "k", "--json"]).json();
    assert_eq!((&status["total_allowed"], &status["total_allowed_cost"]), (&3.into(), &9.into()), "{status}");
    assert_eq!(flint(&to, &["doctor"]).code, Some(0));
    assert_eq!(flint(&to, &["limit", "check", "k"]).code, Some(0));

    // The destination is taken now.
    let run = flint(&dir, &["log", "repair", "--to", to_text]);
    assert!(run.code == Some(2) && run.err.contains("is not empty"), "{run:?}");
    let run = flint(&dir, &["log", "repair"]);
    assert!(run.code == Some(2) && run.err.contains("--to NEWDIR is missing"), "{run:?}");
    let run = flint(&dir, &["log", "repair", "--to", ""]);
    assert!(run.code == Some(2) && run.err.contains("--to"), "{run:?}");

    let other = parent.path().join("other");
    let run = flint(&dir, &["--json", "log", "repair", "--to", other.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let done = run.json();
    assert_eq!(
        done["kept"],
        json!({"limits": 1, "snapshot": null, "frames": 5, "events": 5, "last_sequence": 5}),
        "{done}"
    );
    assert_eq!(done["lost"]["events"], 1, "{done}");
    assert_eq!(done["lost"]["last_sequence"], 7, "{done}");
    assert_eq!((&done["ok"], &done["damaged"][0]["offset"]), (&true.into(), &at.into()), "{done}");

    // With nothing before the damage there is nothing to save.
    bytes[66] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let none = parent.path().join("none");
    let run = flint(&dir, &["log", "repair", "--to", none.to_str().unwrap()]);
    assert!(run.code == Some(3) && run.err.contains("nothing can be recovered"), "{run:?}");
    assert!(!none.exists());
}
