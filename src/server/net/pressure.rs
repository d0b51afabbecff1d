//! Back-pressure: tiny_http's threads read no more than the deciders keep up with.
//!
//! tiny_http reads requests in a thread per connection and queues them without a bound. On few processors hundreds of
//! such threads leave the deciders little time, so that what they have read takes gigabytes. tiny_http offers no hook
//! to hold them back, and each of its requests takes about 17 allocations; so the program's allocator is that hook. Its
//! threads may make [`BUDGET`] allocations together until a decider has caught up ([`caught_up`]), and then sleep in
//! the allocator. All of them asleep, the deciders have the processors.
//!
//! A sleep ends after [`LONGEST`] whatever happens: the thread may hold a lock that others need.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::Timespec;
use rustix::thread::futex;

/// tiny_http's threads inherit this beginning of a name from the thread that makes an HTTP instance.
pub const THREADS: &str = "flint-accept-";

/// Allocations that tiny_http's threads may make together until a decider has caught up: those of about 2000 requests.
const BUDGET: u32 = 32 * 1024;

/// Allocations of one thread that are counted at once: those of four requests. A thread of a client that sends one
/// request after the other seldom comes to pay while others overdraw.
const STEP: u32 = 64;

/// Longest sleep.
const LONGEST: Duration = Duration::from_millis(200);

/// Longest sleep of a thread that accepts connections. It accepts about 8 of them in a step.
const LONGEST_ACCEPTING: Duration = Duration::from_millis(4);

/// Threads that go on when a decider has caught up; more at once would leave it no time again.
const WOKEN: u32 = 32;

/// The thread that accepts connections; 0 if it is not known. It is held back for moments only: if the kernel has no
/// room for a connection, its peer asks again after a second.
static ACCEPTS: AtomicU32 = AtomicU32::new(0);

static SPENT: AtomicU32 = AtomicU32::new(0);
static ROUND: AtomicU32 = AtomicU32::new(0);
static ASLEEP: AtomicU32 = AtomicU32::new(0);

/// Whether threads are held back.
pub fn is_on() -> bool {
    ASLEEP.load(Ordering::Relaxed) > 0
}

/// Called by a decider that has taken all there was and has little left to decide.
pub fn caught_up() {
    // Nearly always little was spent, and other processors need not hear of it.
    if SPENT.load(Ordering::Relaxed) < BUDGET / 2 && !is_on() {
        return;
    }
    SPENT.store(0, Ordering::Relaxed);
    ROUND.fetch_add(1, Ordering::Relaxed);
    if is_on() {
        let _ = futex::wake(&ROUND, futex::Flags::PRIVATE, WOKEN);
    }
}

/// Runs what makes an HTTP instance, and finds out which thread accepts connections for it: tiny_http starts that
/// thread first (`Server::from_listener` in its lib.rs), so it has the lowest number of the new ones.
pub fn note_accepting_thread<T>(make: impl FnOnce() -> T) -> T {
    let threads = || -> Vec<u32> {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
    };
    let before = threads();
    let made = make();
    let first = threads().into_iter().filter(|id| !before.contains(id)).min();
    ACCEPTS.store(first.unwrap_or(0), Ordering::Relaxed);
    made
}

fn own_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// To which part of the program a thread belongs, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Unknown,
    TinyHttp,
    Flint,
}

thread_local! {
    static OWNER: Cell<Owner> = const { Cell::new(Owner::Unknown) };
    static COUNT: Cell<u32> = const { Cell::new(0) };
}

/// The system's allocator, which counts the allocations of tiny_http's threads and holds them back.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: every call is passed on to `System` as it is; what comes before allocates nothing and can't unwind.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold_back();
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        hold_back();
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System`, by this allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for `dealloc` and `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[inline]
fn hold_back() {
    // A thread that ends has no account any more.
    let _ = OWNER.try_with(|owner| match owner.get() {
        Owner::Flint => {}
        Owner::TinyHttp => COUNT.with(|count| {
            count.set(count.get() + 1);
            if count.get() >= STEP {
                count.set(0);
                pay();
            }
        }),
        Owner::Unknown => owner.set(if name_begins_with(THREADS) { Owner::TinyHttp } else { Owner::Flint }),
    });
}

#[cold]
fn pay() {
    let round = ROUND.load(Ordering::Relaxed);
    if SPENT.fetch_add(STEP, Ordering::Relaxed) < BUDGET {
        return;
    }
    let longest = if ACCEPTS.load(Ordering::Relaxed) == own_id() { LONGEST_ACCEPTING } else { LONGEST };
    ASLEEP.fetch_add(1, Ordering::Relaxed);
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(longest.subsec_nanos()) };
    // It ends when a decider has caught up since, or with the time.
    let _ = futex::wait(&ROUND, futex::Flags::PRIVATE, round, Some(&time));
    ASLEEP.fetch_sub(1, Ordering::Relaxed);
}

/// Whether this thread's name begins so, without an allocation.
fn name_begins_with(beginning: &str) -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes to its argument (prctl(2)), and `name` is live and exclusive.
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    result == 0 && name.starts_with(beginning.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_of_tiny_http_are_known_by_the_name_that_they_inherit() {
        let known = |name: &str| {
            let parent = thread::Builder::new().name(name.to_owned());
            parent.spawn(|| thread::spawn(|| name_begins_with(THREADS)).join().unwrap()).unwrap().join().unwrap()
        };
        assert!(known("flint-accept-0") && known("flint-accept-31"));
        assert!(!known("flint-http-0") && !known("flint"));
    }
}
