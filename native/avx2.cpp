// The kernels for x86-64 with AVX2, which has no 64-bit multiplication.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace moiety {
namespace {

inline __m256i load(const Word* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline __m256i load(const std::int32_t* from) {
  return _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline __m256i load(const std::int16_t* from) {
  return _mm256_cvtepi16_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
inline void store(Word* to, __m256i value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }

// A product mod 2^64 is lo * lo + 2^32 (lo * hi + hi * lo). The two kinds of terms are summed apart, the second in 32-bit
// lanes, and joined once at the end: two multiplications for four products.
struct Tile {
  static constexpr Index kRows = 3;
  static constexpr bool kInPlace = false;
  static constexpr int kVectors = 2;
  static constexpr Index kColumns = 4 * kVectors;

  template <int R, class T>
  static void block(Index depth, const Word* a, Index lda, const T* b, Index ldb, Word* out) {
    __m256i low[R][kVectors], cross[R][kVectors];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVectors; ++v) low[r][v] = cross[r][v] = _mm256_setzero_si256();
    }
    for (Index k = 0; k < depth; ++k, b += ldb) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const __m256i right = load(b + 4 * v);
        const __m256i swapped = _mm256_shuffle_epi32(right, 0xB1);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          const __m256i left = _mm256_set1_epi64x(static_cast<long long>(a[r * lda + k]));
          low[r][v] = _mm256_add_epi64(low[r][v], _mm256_mul_epu32(left, right));
          cross[r][v] = _mm256_add_epi32(cross[r][v], _mm256_mullo_epi32(left, swapped));
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        const __m256i both = _mm256_add_epi32(cross[r][v], _mm256_srli_epi64(cross[r][v], 32));
        store(out + r * kColumns + 4 * v, _mm256_add_epi64(low[r][v], _mm256_slli_epi64(both, 32)));
      }
    }
  }

  template <class T>
  static void run(Index rows, Index columns, Index depth, const Word* a, Index lda, const T* b, Index ldb, Word* c,
                  Index ldc, Word flip, Ahead) {
    using Block = void (*)(Index, const Word*, Index, const T*, Index, Word*);
    static constexpr Block blocks[kRows] = {block<1, T>, block<2, T>, block<3, T>};
    Word sum[kRows * kColumns];
    for (Index j = 0; j < columns; j += kColumns) {
      blocks[rows - 1](depth, a, lda, b + j, ldb, sum);
      const Index here = columns - j < kColumns ? columns - j : kColumns;
      for (Index r = 0; r < rows; ++r) {
        for (Index i = 0; i < here; ++i) c[r * ldc + j + i] += (sum[r * kColumns + i] ^ flip) - flip;
      }
    }
  }
};

void turn_long(Index size, const Octet* row, Word turn, Octet* out, Word* twice);

struct Sums {
  static constexpr Index kRows = 4;
  static constexpr Index kTables = 3;

  static void turn(Index size, const Octet* row, Word turn, Octet* out, Word* twice) {
    turn_long(size, row, turn, out, twice);
  }

  // Four bits of a word reach the sign places of four lanes, and a comparison spreads them.
  template <int T>
  static void rows(Index size, const Octet* bits, const Word* table, Word* out) {
    const __m256i places = _mm256_set_epi64x(60, 61, 62, 63);
    const Index step = size < 64 ? size : 64;
    for (Index r = 0; r < kRows; ++r) {
      __m256i sum[T];
      for (int t = 0; t < T; ++t) sum[t] = _mm256_setzero_si256();
      for (Index v = 0; v < size; v += step) {
        Word word = 0;
        std::memcpy(&word, bits + (r * size + v) / 8, step / 8);
        for (Index i = 0; i < step; i += 4, word >>= 4) {
          const __m256i signs = _mm256_sllv_epi64(_mm256_set1_epi64x(static_cast<long long>(word)), places);
          const __m256i chosen = _mm256_cmpgt_epi64(_mm256_setzero_si256(), signs);
          for (int t = 0; t < T; ++t) {
            sum[t] = _mm256_add_epi64(sum[t], _mm256_and_si256(chosen, load(table + t * size + v + i)));
          }
        }
      }
      for (int t = 0; t < T; ++t) {
        Word lanes[4];
        store(lanes, sum[t]);
        out[t * kRows + r] = lanes[0] + lanes[1] + lanes[2] + lanes[3];
      }
    }
  }

  static void run(Index size, Index tables, const Octet* bits, const Word* table, Word* out) {
    if (tables == 1) rows<1>(size, bits, table, out);
    if (tables == 2) rows<2>(size, bits, table, out);
    if (tables == 3) rows<3>(size, bits, table, out);
  }
};

#include "gemm.inl"
#include "tables.inl"
#include "transpose.inl"
#include "bits.inl"
#include "encode_plain.inl"
#include "encode.inl"
#include "words.inl"
#include "points.inl"

}  // namespace

const Kernels kAvx2 = {
    "avx2",  gemm,        pack,        multiply,    multiply,      multiply, table_sums, planes,   unplanes,
    shift_right, wrap_truncate, combine, cross_share, shift_share, round_shift, to_octets, from_octets, encode16, encode32, encode64,
    point_sums};

}  // namespace moiety
