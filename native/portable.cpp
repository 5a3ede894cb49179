// The kernels for any 64-bit processor: plain C++, no intrinsics.
#include <cstring>

#include "kernels.h"

namespace moiety {
namespace {

struct Tile {
  static constexpr Index kRows = 4;
  static constexpr bool kInPlace = false;
  static constexpr Index kColumns = 4;

  template <int R, class T>
  static void block(Index columns, Index depth, const Word* a, Index lda, const T* b, Index ldb, Word* c, Index ldc,
                    Word flip) {
    Word sum[R][kColumns] = {};
    for (Index k = 0; k < depth; ++k, b += ldb) {
      for (int r = 0; r < R; ++r) {
        for (Index j = 0; j < kColumns; ++j) sum[r][j] += a[r * lda + k] * static_cast<Word>(b[j]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (Index j = 0; j < columns; ++j) c[r * ldc + j] += (sum[r][j] ^ flip) - flip;
    }
  }

  template <class T>
  static void run(Index rows, Index columns, Index depth, const Word* a, Index lda, const T* b, Index ldb, Word* c,
                  Index ldc, Word flip, Ahead) {
    using Block = void (*)(Index, Index, const Word*, Index, const T*, Index, Word*, Index, Word);
    static constexpr Block blocks[kRows] = {block<1, T>, block<2, T>, block<3, T>, block<4, T>};
    for (Index j = 0; j < columns; j += kColumns) {
      const Index here = columns - j < kColumns ? columns - j : kColumns;
      blocks[rows - 1](here, depth, a, lda, b + j, ldb, c + j, ldc, flip);
    }
  }
};

void turn_long(Index size, const Octet* row, Word turn, Octet* out, Word* twice);

struct Sums {
  static constexpr Index kRows = 8;
  static constexpr Index kTables = 3;

  static void turn(Index size, const Octet* row, Word turn, Octet* out, Word* twice) {
    turn_long(size, row, turn, out, twice);
  }

  static void run(Index size, Index tables, const Octet* bits, const Word* table, Word* out) {
    for (Index t = 0; t < tables; ++t) {
      for (Index r = 0; r < kRows; ++r) {
        const Octet* row = bits + r * size / 8;
        const Word* cells = table + t * size;
        Word sum = 0;
        for (Index v = 0; v < size; ++v) sum += cells[v] & (Word{0} - ((row[v >> 3] >> (v & 7)) & 1u));
        out[t * kRows + r] = sum;
      }
    }
  }
};

#include "gemm.inl"
#include "tables.inl"
#include "transpose.inl"
#include "bits.inl"
#include "encode_plain.inl"
#include "encode.inl"
#include "words.inl"

}  // namespace

const Kernels kPortable = {
    "portable",  gemm,        pack,        multiply,    multiply,      multiply, table_sums, planes,   unplanes,
    shift_right, wrap_truncate, combine, cross_share, shift_share, round_shift, to_octets, from_octets, encode16, encode32, encode64,
    nullptr};

}  // namespace moiety
