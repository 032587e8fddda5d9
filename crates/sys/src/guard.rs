//! An allocator for tests that ends a cloned child which allocates or frees.
//!
//! ```ignore
//! #[global_allocator]
//! static GUARD: dunnage_sys::guard::Guard = dunnage_sys::guard::Guard;
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit status of a child that was caught.
pub const CAUGHT: u8 = 99;

/// Set in the child's own copy of memory.
static CHILD: AtomicBool = AtomicBool::new(false);

/// From here on, nothing may be allocated.
pub(crate) fn arm() {
    CHILD.store(true, Ordering::Relaxed);
}

/// The system's allocator, until the process is a cloned child.
#[derive(Debug, Clone, Copy)]
pub struct Guard;

fn check() {
    if CHILD.load(Ordering::Relaxed) {
        crate::raw::exit(CAUGHT);
    }
}

// SAFETY: every method hands its arguments on to `System`, or does not return.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise about the layout is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: the pointer came from `alloc` above with this layout, so from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check();
        // SAFETY: the pointer came from `System` with this layout; the size is the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
