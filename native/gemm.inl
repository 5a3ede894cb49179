// Blocked product over a tile kernel. Included inside the anonymous namespace of each instruction set, after its Tile:
//   Tile::kRows      most rows of a tile
//   Tile::kInPlace   whether the tile may read b with any row stride and any number of columns without over-reading
//   Tile::run(rows, columns, depth, a, lda, b, ldb, c, ldc, flip, ahead)
//                    c += a @ b, or c -= a @ b when flip is all ones, for at most kRows rows and 32 columns; meanwhile
//                    fetch ahead.lines cache lines from ahead.at on for every row of b
// When not in place, b is a panel: row stride 32, padded with zeros. It is of words, or of small signed integers (int16,
// int32), of which products stay what they are mod 2^64 and fewer bytes come from memory.

constexpr Index kDepth = 768;         // rows of b in a block: a panel of it is 192 KiB and stays in L2
constexpr Index kHeight = 192;        // rows of a in a block
constexpr Index kPad = 8;             // words between copied rows, so that they do not share cache sets
constexpr Index kFew = 12;            // up to this many rows, reading b once is what counts
constexpr Index kShallow = 64;        // rows of b in a block then: 16 KiB, in L1 for the second tile
constexpr Index kAhead = 4096;        // bytes; no processor-dependent choice here or above is a matter of more than a few percent
constexpr Index kLine = 64;           // bytes of a cache line
constexpr Index kSmallWords = 16384;  // a right side of 128 KiB is used where it lies

inline Index least(Index x, Index y) { return x < y ? x : y; }

void pack_panel(Index depth, Index columns, const Word* b, Index ldb, Word* panel) {
  if (columns == kPanel) {
    for (Index row = 0; row < depth; ++row) std::memcpy(panel + row * kPanel, b + row * ldb, kPanel * sizeof(Word));
    return;
  }
  for (Index row = 0; row < depth; ++row, b += ldb, panel += kPanel) {
    Index column = 0;
    for (; column < columns; ++column) panel[column] = b[column];
    for (; column < kPanel; ++column) panel[column] = 0;
  }
}

void pack(Index k, Index n, const Word* b, Word* panels) {
  for (Index column = 0; column < n; column += kPanel, panels += k * kPanel) {
    pack_panel(k, least(kPanel, n - column), b + column, n, panels);
  }
}

struct Rows {
  const Word* at;
  Index stride;
};

// The block of a that the tiles read: where it lies when few rows use it, else copied next to each other.
Rows gather_rows(Index rows, Index depth, const Word* a, Index lda) {
  if (rows <= kFew || lda <= kDepth) return {a, lda};
  const Index stride = depth + kPad;
  Word* copy = scratch(kSlotRows, kHeight * (kDepth + kPad));
  for (Index row = 0; row < rows; ++row) std::memcpy(copy + row * stride, a + row * lda, depth * sizeof(Word));
  return {copy, stride};
}

// All rows of the block against one panel. The panel that comes next is fetched meanwhile, by the first few tiles; where
// one tile is all there is, the panel itself is fetched some way ahead of its use.
template <class T>
void tile_rows(Index rows, Index columns, Index depth, Rows a, const T* b, Index ldb, Word* c, Index ldc, Word flip,
               const T* next) {
  constexpr int whole = kPanel * sizeof(T) / kLine;  // lines of a row of the panel
  const Index tiles = (rows + Tile::kRows - 1) / Tile::kRows;
  const int lines = next == nullptr ? 0 : tiles >= whole ? 1 : tiles >= 2 ? whole / 2 : whole;
  Ahead ahead = {reinterpret_cast<const char*>(tiles == 1 ? b + kAhead / static_cast<Index>(sizeof(T)) : next), lines};
  for (Index row = 0, tile = 0; row < rows; ++tile) {
    const Index step = (rows - row + tiles - tile - 1) / (tiles - tile);
    if (lines * tile >= whole) ahead.lines = 0;
    Tile::run(step, columns, depth, a.at + row * a.stride, a.stride, b, ldb, c + row * ldc, ldc, flip, ahead);
    ahead.at += lines * kLine * depth;
    row += step;
  }
}

// Few rows: b comes from memory once, so walk it in the order in which it lies.
template <class T>
void stream(Index m, Index k, Index n, const Word* a, const T* panels, Word* out, Word flip) {
  const Index deep = m <= Tile::kRows ? k : kShallow;
  for (Index column = 0; column < n; column += kPanel) {
    for (Index from = 0; from < k; from += deep) {
      const T* panel = panels + column * k + from * kPanel;
      const Index depth = least(deep, k - from);
      tile_rows(m, least(kPanel, n - column), depth, {a + from, k}, panel, kPanel, out + column, n, flip,
                panel + depth * kPanel);
    }
  }
}

template <class T>
void multiply(Index m, Index k, Index n, const Word* a, const T* panels, Word* out, bool negate) {
  const Word flip = negate ? ~Word{0} : 0;
  if (m <= kFew) return stream(m, k, n, a, panels, out, flip);
  for (Index top = 0; top < m; top += kHeight) {
    const Index rows = least(kHeight, m - top);
    for (Index from = 0; from < k; from += kDepth) {
      const Index depth = least(kDepth, k - from);
      const Rows block = gather_rows(rows, depth, a + top * k + from, k);
      for (Index column = 0; column < n; column += kPanel) {
        const T* panel = panels + column * k + from * kPanel;
        tile_rows(rows, least(kPanel, n - column), depth, block, panel, kPanel, out + top * n + column, n, flip,
                  panel + k * kPanel);
      }
    }
  }
}

// Every block of b is copied to a panel just before its use, unless the tile can read it in place and that is cheaper.
void gemm(Index m, Index k, Index n, const Word* a, const Word* b, Word* out) {
  const bool in_place = Tile::kInPlace && (m <= kFew || k * n <= kSmallWords);
  const Index deep = in_place && m <= kFew && k * n > kSmallWords ? 32 : kDepth;
  for (Index top = 0; top < m; top += kHeight) {
    const Index rows = least(kHeight, m - top);
    for (Index from = 0; from < k; from += deep) {
      const Index depth = least(deep, k - from);
      const Rows block = gather_rows(rows, depth, a + top * k + from, k);
      for (Index column = 0; column < n; column += kPanel) {
        const Index columns = least(kPanel, n - column);
        const Word* right = b + from * n + column;
        Index stride = n;
        if (!in_place) {
          Word* panel = scratch(kSlotPanel, kDepth * kPanel);
          pack_panel(depth, columns, right, n, panel);
          right = panel;
          stride = kPanel;
        }
        tile_rows(rows, columns, depth, block, right, stride, out + top * n + column, n, 0,
                  static_cast<const Word*>(nullptr));
      }
    }
  }
}
