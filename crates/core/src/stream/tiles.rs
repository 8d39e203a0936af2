//! Arithmetic of windows: event time is cut into tiles, and a window is a
//! number of whole tiles that starts at a multiple of its step.

use super::settings::Window;

/// Times that are handled: 36,000 years around 1970. All arithmetic on them
/// and on the spans below stays within 64 bits.
pub(crate) const TIME_LIMIT: i64 = 1 << 60;
/// The longest window, lateness or shift: 2,283 years.
pub(crate) const SPAN_LIMIT: i64 = 1 << 56;

/// Before every window of every time that is handled.
pub(crate) const BEGINNING: i64 = -(1 << 61);

/// A window in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// Length of a tile in microseconds.
    tile: i64,
    /// Tiles of a window.
    pub per_window: i64,
    /// Tiles from one start to the next.
    step: i64,
    /// Shift of tile 0 against the epoch.
    offset: i64,
}

impl Tiles {
    /// The tiles of a window for `each_event`, or why there are none.
    pub fn new(window: Window) -> Result<Self, String> {
        let (size, slide, offset) = match window {
            Window::Tumbling { size, offset } => (size, size, offset),
            Window::Hopping { size, slide, offset } => (size, slide, offset),
            Window::Rolling { tile, tiles, offset } => {
                let size = tile.checked_mul(tiles).ok_or("it is too long")?;
                (size, tile, offset)
            }
        };
        if slide <= 0 || size < slide {
            return Err("its slide must be positive and not longer than the window".to_owned());
        }
        if size > SPAN_LIMIT || !(-SPAN_LIMIT..=SPAN_LIMIT).contains(&offset) {
            return Err("it is too long".to_owned());
        }
        let tile = greatest_common_divisor(size, slide);
        Ok(Self { tile, per_window: size / tile, step: slide / tile, offset })
    }

    /// The tile of a time.
    #[inline]
    pub fn tile_of(&self, time: i64) -> i64 {
        (time - self.offset).div_euclid(self.tile)
    }

    /// When a tile starts.
    #[inline]
    pub fn start_of(&self, tile: i64) -> i64 {
        tile * self.tile + self.offset
    }

    /// Of the windows that hold the tile the one that ends first: its first
    /// tile and the tile behind its last.
    #[inline]
    pub fn first_window_with(&self, tile: i64) -> (i64, i64) {
        if self.step == 1 {
            return (tile + 1 - self.per_window, tile + 1);
        }
        let start = ((tile - self.per_window).div_euclid(self.step) + 1) * self.step;
        (start, start + self.per_window)
    }

    /// The numbers of all windows that hold the tile.
    #[inline]
    pub fn windows_with(&self, tile: i64) -> std::ops::RangeInclusive<i64> {
        (tile - self.per_window).div_euclid(self.step) + 1..=tile.div_euclid(self.step)
    }

    /// Start and end in time of a window by its number.
    #[inline]
    pub fn bounds(&self, window: i64) -> (i64, i64) {
        let start = self.start_of(window * self.step);
        (start, start + self.per_window * self.tile)
    }

    /// Whether a tile is one of a time that is handled.
    pub fn is_tile(&self, tile: i64) -> bool {
        (self.tile_of(-TIME_LIMIT)..=self.tile_of(TIME_LIMIT)).contains(&tile)
    }

    /// Whether a window holds such a tile.
    pub fn is_window(&self, window: i64) -> bool {
        let (first, last) = (self.windows_with(self.tile_of(-TIME_LIMIT)), self.windows_with(self.tile_of(TIME_LIMIT)));
        (*first.start()..=*last.end()).contains(&window)
    }

    /// How many tiles `span` microseconds can reach back beyond a tile.
    pub fn reach(&self, span: i64) -> i64 {
        span / self.tile + i64::from(span % self.tile != 0)
    }
}

fn greatest_common_divisor(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_in_exactly_the_windows_that_cover_it() {
        let shapes = [(7, 1, 0), (7, 7, 3), (6, 4, -1), (10, 4, 2), (5, 3, 100)];
        for (size, slide, offset) in shapes {
            let tiles = Tiles::new(Window::Hopping { size, slide, offset }).unwrap();
            for time in -50..50 {
                let windows: Vec<_> = tiles.windows_with(tiles.tile_of(time)).map(|w| tiles.bounds(w)).collect();
                let covering: Vec<_> = (-120..120)
                    .map(|n| (n * slide + offset, n * slide + offset + size))
                    .filter(|(start, end)| (*start..*end).contains(&time))
                    .collect();
                assert_eq!(windows, covering, "{size} {slide} {offset} at {time}");
                let (first, behind) = tiles.first_window_with(tiles.tile_of(time));
                assert_eq!((tiles.start_of(first), tiles.start_of(behind)), covering[0]);
            }
        }
    }

    #[test]
    fn windows_with_gaps_or_without_length_are_refused() {
        for (size, slide) in [(1, 2), (0, 0), (5, 0), (5, -1), (i64::MAX, 1)] {
            assert!(Tiles::new(Window::Hopping { size, slide, offset: 0 }).is_err());
        }
        assert!(Tiles::new(Window::Rolling { tile: i64::MAX, tiles: 2, offset: 0 }).is_err());
    }
}
