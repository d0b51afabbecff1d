//! Every bound of the program, with its unit and its reason.
//!
//! Owns: the numbers. Used everywhere. There is no code here: a bound that needs a computation is computed where it
//! is used, from the numbers below. The man pages print these values and a test compares them.

/// Longest key, in bytes of UTF-8. Long enough for a URL path and a tenant; short enough that a million of them are
/// affordable.
pub const MAX_KEY_BYTES: usize = 512;

/// Largest `rate`, `burst` and `cost`, in units. Times [`MAX_PERIOD_MS`] in microseconds it needs 85 bits, hence the
/// 128-bit products.
pub const MAX_UNITS: u64 = 1_000_000_000_000;

/// Most windows of one limit: each is decided, kept and reported separately.
pub const MAX_WINDOWS: usize = 8;

/// Most units of a limit of slots: holds of one key are looked through when it is listed.
pub const MAX_SLOTS: u64 = 1_000_000;

/// Most windows of earlier values that a key keeps, see `limit::counting`: as many as a limit may have.
pub const MAX_RESTING: usize = MAX_WINDOWS;

/// Latest day of the month on which a calendar month, quarter or year may begin.
pub const MAX_ANCHOR: u8 = 31;

/// Shortest period, in milliseconds: the unit in which periods are given and written.
pub const MIN_PERIOD_MS: u64 = 1;

/// Longest period, in milliseconds: 366 days, so that "a year" always fits.
pub const MAX_PERIOD_MS: u64 = 366 * 24 * 3600 * 1000;

/// Longest time an empty token bucket may take to fill, in milliseconds: 1000 years of 366 days. Without it a burst of
/// 10^12 refilled once a year would have a `reset_at` that no calendar can print.
pub const MAX_REFILL_MS: u64 = 1000 * MAX_PERIOD_MS;

/// Most items in one `check_all` or `check_many`.
pub const MAX_ITEMS: usize = 1000;

/// Shortest and longest time that a hold lasts, in milliseconds: 1 s, below which a client could hardly renew it, and
/// 24 hours, after which a crashed one has given back its slots in any case.
pub const HOLD_MS: std::ops::RangeInclusive<u64> = 1000..=24 * 3600 * 1000;

/// How long a hold lasts that says nothing else, in milliseconds.
pub const DEFAULT_HOLD_MS: u64 = 60 * 1000;

/// Open holds at most, by default: about 25 MiB.
pub const MAX_HOLDS: u64 = 100_000;

/// Largest `--max-holds`: 10^7 of them, about 2.5 GiB.
pub const MAX_MAX_HOLDS: u64 = 10_000_000;

/// Holds that have expired or were settled and are remembered at most; the oldest go first.
pub const MAX_REMEMBERED: usize = 100_000;

/// How long these are remembered, in milliseconds: longer than any client repeats a request.
pub const REMEMBER_MS: u64 = 10 * 60 * 1000;

/// Answers that are kept for requests that are sent again, at most; the oldest go first.
pub const MAX_KEPT_ANSWERS: usize = 100_000;

/// Their length together, in bytes: 32 MiB.
pub const MAX_KEPT_BYTES: usize = 32 * 1024 * 1024;

/// Open holds of one key that its status lists at most.
pub const MAX_LISTED_HOLDS: usize = 1000;

/// Longest value of the header `Idempotency-Key`, in characters: a UUID, with what a client may put before it.
pub const MAX_IDEMPOTENCY_KEY: usize = 128;

/// Largest request body, in bytes: a thousand items with keys of the greatest length fit.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Largest body that configures an array of limits, in bytes: about 500 000 of them.
pub const MAX_LIMITS_BYTES: usize = 64 * 1024 * 1024;

/// Most values of which a gate makes a key.
pub const MAX_GATE_PARTS: usize = 8;

/// Longest value that is put unchanged into a gate's key, in bytes; a longer value is replaced by a digest. Also the
/// longest name of a gate or of a header in its key: with all of them a key stays within [`MAX_KEY_BYTES`].
pub const MAX_GATE_VALUE_BYTES: usize = 128;

/// Shortest part of an IPv6 address that identifies a client, in bits, and the usual one.
pub const MIN_IPV6_PREFIX: u64 = 1;
pub const IPV6_PREFIX: u64 = 64;

/// Bodies over [`MAX_BODY_BYTES`] that are taken at once: each is in memory as a whole, and what is read from it too.
pub const MAX_LARGE_BODIES: usize = 1;

/// Longest announced body whose reader tiny_http may drop, in bytes: it allocates as much (`EqualReader::drop`), and
/// touches what has arrived. A connection with a longer body is kept until the process is replaced.
pub const MAX_DROPPED_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Bodies in chunks, or on a Unix socket, that are read at once: each by a thread that waits for it.
pub const MAX_WAITING_BODIES: usize = 16;

/// Part of a long reply that is made at once, in bytes.
pub const REPLY_PART_BYTES: usize = 64 * 1024;

/// Lists of limits longer than [`REPLY_PART_BYTES`] that are sent at once: each keeps up to 16 MiB of keys.
pub const MAX_LONG_LISTS: usize = 16;

/// Backups that are sent at once: each holds files open that a compaction may have removed meanwhile.
pub const MAX_BACKUPS: usize = 2;

/// Time in which a client may take a backup however small it is, in milliseconds.
pub const BACKUP_MS: u64 = 60_000;

/// Bytes of a larger backup for each further second in which a client may take it. After that time it is given up: a
/// client that is slow would keep the space of removed files for ever.
pub const BACKUP_BYTES_PER_SECOND: u64 = 256 * 1024;

/// Most status objects in one page of a listing that names `limit`.
pub const MAX_PAGE: usize = 100_000;

/// Shards of the map of limits. Compaction copies one shard under its lock: with a million limits about 0.1 ms each.
pub const SHARDS: usize = 256;

/// Size at which a segment of the log is closed and the next one begun, in bytes.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Smallest size at which a segment may be closed, in bytes. Below it a segment is little more than its header, and
/// nearly each record makes a file.
pub const MIN_SEGMENT_BYTES: u64 = 1024;

/// Largest size at which a segment may be closed, in bytes. A start reads each segment into memory as a whole.
pub const MAX_SEGMENT_BYTES: u64 = 1024 * 1024 * 1024;

/// Step in which a segment is filled with zeros ahead of the writer, in bytes. Writing into filled space lets
/// fdatasync skip the metadata.
pub const FILL_BYTES: u64 = 1024 * 1024;

/// First step of zero-filling in a freshly opened segment, in bytes: a short command need not write a mebibyte.
pub const FIRST_FILL_BYTES: u64 = 64 * 1024;

/// Largest payload of one frame of the log, in bytes. A batch ends before it; a single record can't reach it.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;

/// Largest record of a check, in bytes: the space that is filled ahead always has room for it. A check of many new keys
/// that would need more has some of it written before.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Default of `--compact-after`, in bytes of log.
pub const COMPACT_AFTER_BYTES: u64 = 64 * 1024 * 1024;

/// Smallest `--compact-after`, in bytes of log. A compaction writes a marker for each of the [`SHARDS`] and a header
/// into the log: at most 26 KiB. The bound is over twice that, or most of the log would be what compactions leave
/// there.
pub const MIN_COMPACT_AFTER_BYTES: u64 = 64 * 1024;

/// Largest `--compact-after`, in bytes of log: 1 TiB, more than any disk of a small server holds.
pub const MAX_COMPACT_AFTER_BYTES: u64 = 1024 * 1024 * 1024 * 1024;

/// Default of `--flush-every-ms`, in milliseconds.
pub const FLUSH_EVERY_MS: u64 = 100;

/// Default of `--flush-every-events`, in records.
pub const FLUSH_EVERY_EVENTS: u64 = 100;

/// Largest `--flush-every-ms`, in milliseconds: one hour.
pub const MAX_FLUSH_EVERY_MS: u64 = 3_600_000;

/// Largest `--flush-every-events`, in records.
pub const MAX_FLUSH_EVERY_EVENTS: u64 = 1_000_000_000;

/// Quiet time after which the log writes an empty frame that covers the last confirmed batch, in milliseconds.
pub const IDLE_MARK_MS: u64 = 20;

/// Time between two looks at whether the files of the log still have their names, in milliseconds.
pub const LOOK_AFTER_FILES_MS: u64 = 1000;

/// Time for which a start on overlayfs waits for an owner that may run in another mount, in milliseconds: more than two
/// of the looks by which an owner notices it.
pub const CLAIM_WAIT_MS: u64 = 2500;

/// Pause before the log tries again to fill space ahead after the disk was full, in milliseconds.
pub const NO_SPACE_RETRY_MS: u64 = 100;

/// Time for which one call of the disk must not have returned for further checks to be refused at once, before anything
/// is changed, in milliseconds.
pub const STALL_MS: u64 = 1000;

/// Longest time a request waits for the disk before it is answered `overloaded`, in milliseconds.
pub const LOG_WAIT_MS: u64 = 10_000;

/// Default of `--max-blocking`: deciders and workers together. Each costs about 13 KiB.
pub const MAX_BLOCKING: usize = 64;

/// Requests that wait for each worker before one more is refused.
pub const QUEUED_PER_WORKER: usize = 4;

/// Requests that wait for workers however few these are.
pub const MIN_QUEUED: usize = 64;

/// Largest `--max-blocking`.
pub const MAX_MAX_BLOCKING: usize = 4096;

/// Default of `--max-connections`.
pub const MAX_CONNECTIONS: usize = 1024;

/// A host that has at most one of so many of the connections that may be open at once has few: they are the last to be
/// ended beyond that number.
pub const FEW_SHARE: usize = 16;

/// Largest `--max-connections`.
pub const MAX_MAX_CONNECTIONS: usize = 65_536;

/// Default of `--idle-timeout`, in milliseconds.
pub const IDLE_TIMEOUT_MS: u64 = 60_000;

/// Smallest `--idle-timeout`, in milliseconds.
pub const MIN_IDLE_TIMEOUT_MS: u64 = 100;

/// Largest `--idle-timeout`, in milliseconds: one day.
pub const MAX_IDLE_TIMEOUT_MS: u64 = 24 * 3600 * 1000;

/// Longest time from the first byte of a request's head to its last, in milliseconds.
pub const HEAD_TIMEOUT_MS: u64 = 10_000;

/// Longest time from the end of a request's head to the end of its body, in milliseconds.
pub const BODY_TIMEOUT_MS: u64 = 10_000;

/// Longest time a client may leave replies unread, in milliseconds.
pub const SEND_TIMEOUT_MS: u64 = 10_000;

/// How long a thread that serves many connections lets one client's full socket hold it up, in milliseconds; then
/// `flint-slow`, or on a Unix socket a worker, sends the rest.
pub const SEND_PATIENCE_MS: u64 = 4;

/// Bytes of its replies that a client must take in [`SEND_TIMEOUT_MS`], if at least this many are pending.
pub const MIN_DRAIN_BYTES: u64 = 16 * 1024;

/// Largest head of a request, in bytes; beyond it the connection is ended.
pub const MAX_HEAD_BYTES: u64 = 64 * 1024;

/// Most header lines of one request. tiny_http spends about 120 bytes on the shortest; with more of them the connection
/// is ended.
pub const MAX_HEADERS: usize = 128;

/// Largest body as it is sent, in bytes, with the frames of its chunks. tiny_http keeps the line with a chunk's
/// length in memory, however long it is.
pub const MAX_BODY_WIRE_BYTES: u64 = 4 * 1024 * 1024;

/// What unfinished heads and bodies of all connections together may take, in bytes of memory; beyond it the connections
/// with the largest are ended.
pub const MAX_UNFINISHED_BYTES: u64 = 48 * 1024 * 1024;

/// Requests of one connection that wait for their turn; one more, and the connection is ended.
pub const MAX_PIPELINED: usize = 1024;

/// Requests that wait for their turn, of all connections together, before [`PIPELINED_ALWAYS`] becomes the bound.
pub const MAX_WAITING: usize = 8192;

/// What the requests that wait for their turn may take together, in bytes of memory, before [`PIPELINED_ALWAYS`] and
/// [`PIPELINED_ALWAYS_BYTES`] become the bounds.
pub const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// Requests of one connection that may wait however many wait in all.
pub const PIPELINED_ALWAYS: usize = 16;

/// What the requests of one connection that wait may take however many wait in all, in bytes of memory.
pub const PIPELINED_ALWAYS_BYTES: usize = 16 * 1024;

/// Connections that tiny_http does not release, at which the server replaces itself by a fresh process image: one for
/// each group of this many descriptors or threads that the system allows. Each keeps two descriptors, a thread and some
/// 30 KiB.
pub const LEAKED_SHARE: u64 = 8;

/// Fewest of these, however little the system allows.
pub const MIN_LEAKED: usize = 16;

/// Most of these, however much the system allows: about 120 MiB.
pub const MAX_LEAKED: usize = 4096;

/// How long a server that replaces itself goes on answering on the connections it has, in milliseconds. They are told
/// to close; new ones wait in the kernel.
pub const RETIRE_MS: u64 = 300;

/// How long a server that stops goes on answering on the connections it has, in milliseconds. They are told to close.
pub const DRAIN_MS: u64 = 500;

/// How long a server that has replaced itself waits for the data directory, in milliseconds.
pub const TAKEOVER_WAIT_MS: u64 = 10_000;

/// Stack of a worker or connection thread, in bytes. The deepest frames are serde_json's and the reply's buffers; zone
/// data is read elsewhere (`limit/zone.rs`).
pub const STACK_BYTES: usize = 256 * 1024;

/// How long a server at its start waits for commands that hold the data directory, in milliseconds.
pub const LOCK_WAIT_MS: u64 = 1000;

/// How long a command waits for its turn at the data directory where no `--wait` says so, in milliseconds.
pub const QUEUE_WAIT_MS: u64 = 10_000;

/// How long a command that settles a hold at its end waits for its turn, in milliseconds: others may end with it.
pub const SETTLE_WAIT_MS: u64 = 60_000;

/// How long a command waits for a connection to a server, in milliseconds.
pub const CONNECT_MS: u64 = 5_000;

/// How long a command waits for the whole reply of a server, in milliseconds: longer than a request may wait for the
/// disk there.
pub const REPLY_MS: u64 = 30_000;

/// As [`REPLY_MS`], for `log compact`, in milliseconds.
pub const COMPACT_REPLY_MS: u64 = 600_000;

/// Largest head of a reply that a command reads, in bytes.
pub const MAX_REPLY_HEAD_BYTES: usize = 16 * 1024;

/// Largest body of a reply that a command reads where it asked for no list, in bytes: a check of a thousand items, each
/// with a key and a pattern of the greatest length and as many windows as there may be.
pub const MAX_REPLY_BYTES: usize = 8 * 1024 * 1024;

/// Room for one status object in a reply, in bytes: a key and a pattern of the greatest length, all of it escaped, as
/// many windows as there may be, as many again below values for a time, and the rest.
pub const MAX_STATUS_BYTES: usize = 8 * 1024;

/// Status objects that a command asks for at once.
pub const LIST_PAGE: usize = 20_000;

/// Default of `max_keys` of a pattern and of `--max-keys`: keys that live under a pattern, or by limits that requests
/// bring. A million of them take about 200 MiB.
pub const MAX_KEYS: u64 = 1_000_000;

/// Largest `max_keys`.
pub const MAX_MAX_KEYS: u64 = 1_000_000_000;

/// Most overflow limits for values that requests bring: each set of values has one, and a client may choose the values.
pub const MAX_OVERFLOWS: u64 = 64;

/// Longest time of one exchange with a store, in milliseconds: connecting, sending again and waiting for replicas
/// included.
pub const STORE_TIMEOUT_MS: u64 = 2000;

/// How much longer a change of many limits at once may take for each of them, in milliseconds.
pub const STORE_KEY_MS: u64 = 1;

/// How long connecting to a store may take, in milliseconds.
pub const STORE_CONNECT_MS: u64 = 500;

/// How long replicas have to confirm what was written, in milliseconds: all but what an exchange needs besides.
pub const STORE_REPLICAS_MS: u64 = 1600;

/// How long a Sentinel or a node of a Cluster has to say who is master, in milliseconds.
pub const STORE_ASK_MS: u64 = 500;

/// How often it is tried whether a store that is away has come back, in milliseconds.
pub const STORE_PROBE_MS: u64 = 250;

/// How often Sentinels and nodes of a Cluster are asked who is master, in milliseconds.
pub const STORE_WATCH_MS: u64 = 1000;

/// How long a store keeps at least what may expire, and the marks of removed keys, in milliseconds: longer than any
/// attempt may still be under way.
pub const STORE_KEEPS_MS: u64 = 60_000;

/// Largest `--replicas`: more than anyone waits for.
pub const MAX_REPLICAS: u32 = 16;
