//! Rows of words, numbered without gaps, kept narrow: the words of 64 rows
//! beside each other take one, two, four or eight bytes each, as many as the
//! greatest of them needs. A double is as narrow as a number when it is one.
//! Rows become wider where they must, and narrow again when they are restored.

use super::plan::WordKind;

/// Rows of one allocation: growing never copies the slab.
const CHUNK_SHIFT: usize = 6;
pub(crate) const CHUNK: usize = 1 << CHUNK_SHIFT;

/// Bytes of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    One,
    Two,
    Four,
    Eight,
}

impl Width {
    pub fn bytes(self) -> usize {
        1 << self as usize
    }

    /// The narrowest in which a word can be kept.
    #[inline]
    pub fn of(word: u64, kind: WordKind) -> Self {
        if u8::pack(word, kind).is_some() {
            Self::One
        } else if u16::pack(word, kind).is_some() {
            Self::Two
        } else if u32::pack(word, kind).is_some() {
            Self::Four
        } else {
            Self::Eight
        }
    }
}

/// A word as it is kept.
pub(crate) trait Cell: Copy + Default {
    /// A word that is a number, a place of a blob, or the bits of anything.
    fn number(self) -> u64;
    /// A word that is a double.
    fn double(self) -> f64;
    /// `None` where the word does not fit.
    fn pack(word: u64, kind: WordKind) -> Option<Self>;

    #[inline]
    fn word(self, kind: WordKind) -> u64 {
        if kind == WordKind::Double { self.double().to_bits() } else { self.number() }
    }
}

macro_rules! narrow {
    ($($cell:ty),*) => {$(
        impl Cell for $cell {
            #[inline]
            fn number(self) -> u64 {
                u64::from(self)
            }

            #[inline]
            fn double(self) -> f64 {
                f64::from(self)
            }

            #[inline]
            fn pack(word: u64, kind: WordKind) -> Option<Self> {
                if kind != WordKind::Double {
                    return Self::try_from(word).ok();
                }
                // Also refuses -0.0, whose bits are not those of 0.
                let cell = f64::from_bits(word) as Self;
                (f64::from(cell).to_bits() == word).then_some(cell)
            }
        }
    )*};
}

narrow!(u8, u16, u32);

impl Cell for u64 {
    #[inline]
    fn number(self) -> u64 {
        self
    }

    #[inline]
    fn double(self) -> f64 {
        f64::from_bits(self)
    }

    #[inline]
    fn pack(word: u64, _: WordKind) -> Option<Self> {
        Some(word)
    }
}

/// The words of some rows, all of one width.
#[derive(Debug)]
pub(crate) enum Cells {
    One(Box<[u8]>),
    Two(Box<[u16]>),
    Four(Box<[u32]>),
    Eight(Box<[u64]>),
}

/// Does the same for each width: `by_width!(cells, slice => …)`.
macro_rules! by_width {
    ($cells:expr, $slice:ident => $body:expr) => {
        match $cells {
            $crate::stream::slab::Cells::One($slice) => $body,
            $crate::stream::slab::Cells::Two($slice) => $body,
            $crate::stream::slab::Cells::Four($slice) => $body,
            $crate::stream::slab::Cells::Eight($slice) => $body,
        }
    };
}
pub(crate) use by_width;

impl Cells {
    fn empty(width: Width, count: usize) -> Self {
        match width {
            Width::One => Self::One(vec![0; count].into()),
            Width::Two => Self::Two(vec![0; count].into()),
            Width::Four => Self::Four(vec![0; count].into()),
            Width::Eight => Self::Eight(vec![0; count].into()),
        }
    }

    fn width(&self) -> Width {
        match self {
            Self::One(_) => Width::One,
            Self::Two(_) => Width::Two,
            Self::Four(_) => Width::Four,
            Self::Eight(_) => Width::Eight,
        }
    }
}

#[derive(Debug)]
struct Chunk {
    heads: Box<[u64]>,
    cells: Cells,
}

/// The rows. Each has some words that always are wide, its head, and words of
/// the given kinds.
#[derive(Debug)]
pub(crate) struct Slab {
    heads: usize,
    /// How many words a row has besides its head.
    words: usize,
    /// Their kinds; none where all rows are wide.
    kinds: Box<[WordKind]>,
    chunks: Vec<Chunk>,
    /// Bytes of the chunks.
    bytes: usize,
}

impl Slab {
    /// No rows, whose words become as wide as they must.
    pub fn narrow(heads: usize, kinds: Vec<WordKind>) -> Self {
        Self { heads, words: kinds.len(), kinds: kinds.into(), chunks: Vec::new(), bytes: 0 }
    }

    /// No rows, whose words are wide.
    pub fn wide(heads: usize, words: usize) -> Self {
        Self { heads, words, kinds: Box::default(), chunks: Vec::new(), bytes: 0 }
    }

    fn first_width(&self) -> Width {
        if self.kinds.is_empty() { Width::Eight } else { Width::One }
    }

    fn chunk_bytes(&self, width: Width) -> usize {
        CHUNK * (self.heads * 8 + self.words * width.bytes())
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// Bytes by which row `len` grows the slab, while its words are small.
    pub fn growth(&self, len: usize) -> usize {
        if len < self.chunks.len() * CHUNK {
            return 0;
        }
        self.chunk_bytes(self.first_width()) + grown(self.chunks.len(), self.chunks.capacity(), 1) * size_of::<Chunk>()
    }

    /// Makes room for row `len`.
    pub fn reserve(&mut self, len: usize) {
        if len < self.chunks.len() * CHUNK {
            return;
        }
        let more = grown(self.chunks.len(), self.chunks.capacity(), 1);
        self.chunks.reserve_exact(self.chunks.capacity() - self.chunks.len() + more);
        let width = self.first_width();
        let cells = Cells::empty(width, CHUNK * self.words);
        self.chunks.push(Chunk { heads: vec![0; CHUNK * self.heads].into(), cells });
        self.bytes += self.chunk_bytes(width);
    }

    /// Drops the room for rows from `len` on.
    pub fn truncate(&mut self, len: usize) {
        for chunk in self.chunks.drain(len.div_ceil(CHUNK)..) {
            self.bytes -= CHUNK * (self.heads * 8 + self.words * chunk.cells.width().bytes());
        }
    }

    #[inline]
    pub fn head(&self, number: usize) -> &[u64] {
        let at = (number & (CHUNK - 1)) * self.heads;
        &self.chunks[number >> CHUNK_SHIFT].heads[at..at + self.heads]
    }

    #[inline]
    pub fn head_mut(&mut self, number: usize) -> &mut [u64] {
        let at = (number & (CHUNK - 1)) * self.heads;
        &mut self.chunks[number >> CHUNK_SHIFT].heads[at..at + self.heads]
    }

    /// The words of the chunk of a row, and where in it the row begins.
    #[inline]
    pub fn cells(&self, number: usize) -> (&Cells, usize) {
        (&self.chunks[number >> CHUNK_SHIFT].cells, (number & (CHUNK - 1)) * self.words)
    }

    /// The same, and the row's head.
    #[inline]
    pub fn row_mut(&mut self, number: usize) -> (&mut [u64], &mut Cells, usize) {
        let (heads, at) = ((number & (CHUNK - 1)) * self.heads, (number & (CHUNK - 1)) * self.words);
        let chunk = &mut self.chunks[number >> CHUNK_SHIFT];
        (&mut chunk.heads[heads..heads + self.heads], &mut chunk.cells, at)
    }

    /// Reads a word of each cache line of a short row.
    #[inline]
    pub fn touch(&self, number: usize) -> u64 {
        let (cells, at) = self.cells(number);
        let head = self.head(number)[0];
        by_width!(cells, cells => head ^ touch_lines(&cells[at..at + self.words]))
    }

    /// The words of a row in a slab that is wide.
    #[inline]
    pub fn wide_row(&self, number: usize) -> &[u64] {
        match self.cells(number) {
            (Cells::Eight(words), at) => &words[at..at + self.words],
            _ => unreachable!("the slab is wide"),
        }
    }

    /// As [`Self::wide_row`].
    #[inline]
    pub fn wide_row_mut(&mut self, number: usize) -> &mut [u64] {
        let words = self.words;
        match self.row_mut(number) {
            (_, Cells::Eight(cells), at) => &mut cells[at..at + words],
            _ => unreachable!("the slab is wide"),
        }
    }

    fn kind(&self, word: usize) -> WordKind {
        self.kinds.get(word).copied().unwrap_or(WordKind::Number)
    }

    /// Writes the words of a row to `out`.
    pub fn read(&self, number: usize, out: &mut Vec<u64>) {
        out.clear();
        let (cells, at) = self.cells(number);
        by_width!(cells, cells => {
            let words = cells[at..at + self.words].iter().enumerate();
            out.extend(words.map(|(word, cell)| cell.word(self.kind(word))));
        });
    }

    /// Sets the words of a row; its chunk becomes as wide as they need.
    pub fn write(&mut self, number: usize, words: &[u64]) {
        let widths = words.iter().enumerate().map(|(word, value)| Width::of(*value, self.kind(word)));
        self.widen(number, widths.max().unwrap_or(Width::One));
        let kinds = &self.kinds;
        let chunk = &mut self.chunks[number >> CHUNK_SHIFT];
        let at = (number & (CHUNK - 1)) * self.words;
        by_width!(&mut chunk.cells, cells => put(&mut cells[at..at + words.len()], words, kinds));
    }

    /// Empties a row.
    pub fn clear(&mut self, number: usize) {
        let words = self.words;
        let (head, cells, at) = self.row_mut(number);
        head.fill(0);
        by_width!(cells, cells => cells[at..at + words].fill(Default::default()));
    }

    /// Gives row `to` the words of row `from`.
    pub fn copy(&mut self, from: usize, to: usize) {
        let mut words = self.head(from).to_vec();
        self.head_mut(to).copy_from_slice(&words);
        self.read(from, &mut words);
        self.write(to, &words);
    }

    /// Bytes by which the chunk of a row grows to a width.
    pub fn widening(&self, number: usize, width: Width) -> usize {
        let held = self.chunks.get(number >> CHUNK_SHIFT).map_or(self.first_width(), |chunk| chunk.cells.width());
        CHUNK * self.words * width.bytes().saturating_sub(held.bytes())
    }

    /// Makes the chunk of a row at least so wide.
    #[inline]
    pub fn widen(&mut self, number: usize, width: Width) {
        if self.widening(number, width) > 0 {
            self.widen_chunk(number, width);
        }
    }

    #[cold]
    fn widen_chunk(&mut self, number: usize, width: Width) {
        self.bytes += self.widening(number, width);
        let mut wider = Cells::empty(width, CHUNK * self.words);
        let old = &self.chunks[number >> CHUNK_SHIFT].cells;
        let mut words = Vec::with_capacity(self.words);
        for row in 0..CHUNK {
            let at = row * self.words;
            words.clear();
            by_width!(old, cells => {
                let row = cells[at..at + self.words].iter().enumerate();
                words.extend(row.map(|(word, cell)| cell.word(self.kind(word))));
            });
            by_width!(&mut wider, cells => put(&mut cells[at..at + self.words], &words, &self.kinds));
        }
        self.chunks[number >> CHUNK_SHIFT].cells = wider;
    }
}

/// A word of each of the first cache lines.
#[inline]
fn touch_lines<C: Cell>(cells: &[C]) -> u64 {
    cells.chunks(64 / size_of::<C>()).take(8).fold(0, |sum, line| sum ^ line[0].number())
}

/// Puts words where they fit.
fn put<C: Cell>(cells: &mut [C], words: &[u64], kinds: &[WordKind]) {
    for (index, (cell, word)) in cells.iter_mut().zip(words).enumerate() {
        let kind = kinds.get(index).copied().unwrap_or(WordKind::Number);
        *cell = C::pack(*word, kind).expect("the chunk is wide enough");
    }
}

/// By how much a vector grows for `more` elements: an eighth at least, so that
/// little stands empty.
pub(crate) fn grown(len: usize, capacity: usize, more: usize) -> usize {
    if len + more <= capacity { 0 } else { (len + more - capacity).max(capacity / 8).max(64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_back_bit_for_bit_at_its_width_and_every_wider_one() {
        let numbers = [0, 1, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX];
        let doubles = [0.0, -0.0, 1.0, 255.0, 256.0, 65_536.0, 4_294_967_296.0, 0.5, -1.0, 1e300, f64::INFINITY];
        let doubles = doubles.into_iter().map(f64::to_bits).chain([f64::NAN.to_bits(), f64::NAN.to_bits() | 1]);
        let words = numbers.map(|word| (word, WordKind::Number)).into_iter();
        for (word, kind) in words.chain(doubles.map(|word| (word, WordKind::Double))) {
            let width = Width::of(word, kind);
            let back = [
                u8::pack(word, kind).map(|cell| cell.word(kind)),
                u16::pack(word, kind).map(|cell| cell.word(kind)),
                u32::pack(word, kind).map(|cell| cell.word(kind)),
                u64::pack(word, kind).map(|cell| cell.word(kind)),
            ];
            for (index, back) in back.into_iter().enumerate() {
                assert_eq!(back, (index >= width as usize).then_some(word), "{word:#x} {kind:?} {width:?}");
            }
        }
        assert_eq!(Width::of((-0.0f64).to_bits(), WordKind::Double), Width::Eight);
        assert_eq!(Width::of(200.0f64.to_bits(), WordKind::Double), Width::One);
    }
}
