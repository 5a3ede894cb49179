// The kernels for x86-64 with AVX-512 (F, DQ, BW, VL): eight 64-bit products an instruction, and masks that take
// selector bits as they lie in memory.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace moiety {
namespace {

// Eight of the right side, of which only those of the mask may be read.
inline __m512i eight(__mmask8 mask, const Word* from) { return _mm512_maskz_loadu_epi64(mask, from); }
inline __m512i eight(__mmask8 mask, const std::int32_t* from) {
  return _mm512_cvtepi32_epi64(_mm256_maskz_loadu_epi32(mask, from));
}
inline __m512i eight(__mmask8 mask, const std::int16_t* from) { return _mm512_cvtepi16_epi64(_mm_maskz_loadu_epi16(mask, from)); }

// 6 rows by 4 vectors: 24 accumulators, 4 vectors of b and one broadcast fill the register file. The inner loops must be
// unrolled whole, and there is one epilogue only: a second one moves the accumulators to memory.
struct Tile {
  static constexpr Index kRows = 6;
  static constexpr bool kInPlace = true;

  template <int R, int V, int L, class T>
  static void block(__mmask8 last, Index depth, const Word* a, Index lda, const T* b, Index ldb, Word* c, Index ldc,
                    Word flip, const char* ahead) {
    __m512i sum[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_si512();
    }
    for (Index k = 0; k < depth; ++k, b += ldb) {
#pragma GCC unroll 4
      for (int l = 0; l < L; ++l) _mm_prefetch(ahead + 64 * l, _MM_HINT_T0);
      ahead += 64 * L;
      __m512i right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V - 1; ++v) right[v] = eight(0xFF, b + 8 * v);
      right[V - 1] = eight(last, b + 8 * (V - 1));
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m512i left = _mm512_set1_epi64(static_cast<long long>(a[r * lda + k]));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = _mm512_add_epi64(sum[r][v], _mm512_mullo_epi64(left, right[v]));
      }
    }
    const __m512i sign = _mm512_set1_epi64(static_cast<long long>(flip));
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const __mmask8 mask = v == V - 1 ? last : static_cast<__mmask8>(0xFF);
        Word* to = c + r * ldc + 8 * v;
        const __m512i signed_sum = _mm512_sub_epi64(_mm512_xor_si512(sum[r][v], sign), sign);
        _mm512_mask_storeu_epi64(to, mask, _mm512_add_epi64(_mm512_maskz_loadu_epi64(mask, to), signed_sum));
      }
    }
  }

  template <class T>
  using Block = void (*)(__mmask8, Index, const Word*, Index, const T*, Index, Word*, Index, Word, const char*);

  template <class T, int V, int L>
  static Block<T> rows(Index count) {
    static constexpr Block<T> blocks[kRows] = {block<1, V, L, T>, block<2, V, L, T>, block<3, V, L, T>,
                                               block<4, V, L, T>, block<5, V, L, T>, block<6, V, L, T>};
    return blocks[count - 1];
  }

  template <class T>
  static Block<T> pick(Index count, Index vectors, int lines) {
    if (vectors == 1) return rows<T, 1, 0>(count);
    if (vectors == 2) return rows<T, 2, 0>(count);
    if (vectors == 3) return rows<T, 3, 0>(count);
    if (lines == 1) return rows<T, 4, 1>(count);
    if (lines == 2) return rows<T, 4, 2>(count);
    if (lines == 4) return rows<T, 4, 4>(count);
    return rows<T, 4, 0>(count);
  }

  template <class T>
  static void run(Index count, Index columns, Index depth, const Word* a, Index lda, const T* b, Index ldb, Word* c,
                  Index ldc, Word flip, Ahead ahead) {
    const Index vectors = (columns + 7) / 8;
    const auto last = static_cast<__mmask8>(0xFF >> (8 * vectors - columns));
    pick<T>(count, vectors, ahead.lines)(last, depth, a, lda, b, ldb, c, ldc, flip, ahead.at);
  }
};

// The eight sums of the lanes of eight vectors.
inline __m512i lane_sums(const __m512i* x) {
  __m512i pair[4], four[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pair[i] = _mm512_add_epi64(_mm512_unpacklo_epi64(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_epi64(x[2 * i], x[2 * i + 1]));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    four[i] = _mm512_add_epi64(_mm512_shuffle_i64x2(pair[2 * i], pair[2 * i + 1], 0x88),
                               _mm512_shuffle_i64x2(pair[2 * i], pair[2 * i + 1], 0xDD));
  }
  return _mm512_add_epi64(_mm512_shuffle_i64x2(four[0], four[1], 0x88), _mm512_shuffle_i64x2(four[0], four[1], 0xDD));
}

void turn_long(Index size, const Octet* row, Word turn, Octet* out, Word* twice);

struct Sums {
  static constexpr Index kRows = 8;
  static constexpr Index kTables = 3;

  // A row of up to eight words fits a vector, whose lanes turn by whole words; a shift by 64 gives zero.
  static void turn(Index size, const Octet* row, Word turn, Octet* out, Word* twice) {
    if (size > 512) return turn_long(size, row, turn, out, twice);
    const auto lanes = static_cast<__mmask8>(0xFF >> (8 - size / 64));
    const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i most = _mm512_set1_epi64(size / 64 - 1);
    const __m512i from = _mm512_add_epi64(lane, _mm512_set1_epi64(static_cast<long long>(turn >> 6)));
    const __m512i next = _mm512_add_epi64(from, _mm512_set1_epi64(1));
    const __m512i words = _mm512_maskz_loadu_epi64(lanes, row);
    const __m512i low = _mm512_permutexvar_epi64(_mm512_and_si512(from, most), words);
    const __m512i high = _mm512_permutexvar_epi64(_mm512_and_si512(next, most), words);
    const __m512i right = _mm512_set1_epi64(static_cast<long long>(turn & 63));
    const __m512i left = _mm512_sub_epi64(_mm512_set1_epi64(64), right);
    const __m512i turned = _mm512_or_si512(_mm512_srlv_epi64(low, right), _mm512_sllv_epi64(high, left));
    _mm512_mask_storeu_epi64(out, lanes, turned);
  }

  template <int T>
  static void rows(Index size, const Octet* bits, const Word* table, Word* out) {
    __m512i sum[T][kRows];
#pragma GCC unroll 3
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
      for (Index r = 0; r < kRows; ++r) sum[t][r] = _mm512_setzero_si512();
    }
    const Index bytes = size / 8;
    for (Index v = 0; v < bytes; ++v) {
      __m512i cells[T];
#pragma GCC unroll 3
      for (int t = 0; t < T; ++t) cells[t] = _mm512_load_si512(table + t * size + 8 * v);
#pragma GCC unroll 8
      for (Index r = 0; r < kRows; ++r) {
        const __mmask8 chosen = _load_mask8(const_cast<__mmask8*>(bits + r * bytes + v));
#pragma GCC unroll 3
        for (int t = 0; t < T; ++t) sum[t][r] = _mm512_mask_add_epi64(sum[t][r], chosen, sum[t][r], cells[t]);
      }
    }
#pragma GCC unroll 3
    for (int t = 0; t < T; ++t) _mm512_storeu_si512(out + t * kRows, lane_sums(sum[t]));
  }

  static void run(Index size, Index tables, const Octet* bits, const Word* table, Word* out) {
    if (tables == 1) rows<1>(size, bits, table, out);
    if (tables == 2) rows<2>(size, bits, table, out);
    if (tables == 3) rows<3>(size, bits, table, out);
  }
};

// Byte t of 64 words makes one vector, whose sign bits are a plane; shifting it by one brings the next plane up.
struct Bits {
  static void split(const Word* words, Index width, Word* planes) {
    alignas(64) Octet bytes[64];
    for (Index low = 0; low < width; low += 8) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const __m512i eight = _mm512_srli_epi64(_mm512_loadu_si512(words + 8 * i), static_cast<unsigned>(low));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes + 8 * i), _mm512_cvtepi64_epi8(eight));
      }
      const __m512i column = _mm512_load_si512(bytes);
      const Index here = width - low < 8 ? width - low : 8;
      for (Index bit = 0; bit < here; ++bit) {
        planes[low + bit] = _mm512_movepi8_mask(_mm512_sll_epi16(column, _mm_cvtsi64_si128(7 - bit)));
      }
    }
  }

  static void join(const Word* planes, Index width, Word* words) {
    __m512i eight[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) eight[i] = _mm512_setzero_si512();
    alignas(64) Octet bytes[64];
    for (Index low = 0; low < width; low += 8) {
      const Index here = width - low < 8 ? width - low : 8;
      __m512i column = _mm512_setzero_si512();
      for (Index bit = 0; bit < here; ++bit) {
        const __m512i ones = _mm512_maskz_mov_epi8(planes[low + bit], _mm512_set1_epi8(static_cast<char>(1 << bit)));
        column = _mm512_or_si512(column, ones);
      }
      _mm512_store_si512(bytes, column);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const __m512i wide = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + 8 * i)));
        eight[i] = _mm512_or_si512(eight[i], _mm512_slli_epi64(wide, static_cast<unsigned>(low)));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) _mm512_storeu_si512(words + 8 * i, eight[i]);
  }
};

// Eight values at a time; both conversions round to nearest even, and powers of two scale exactly.
struct Encode {
  static __m512i words(__m256 values, __m256 scale, __mmask8 fits) {
    return _mm512_maskz_cvtps_epi64(fits, _mm256_mul_ps(values, scale));
  }
  static __m512i words(__m512d values, __m512d scale, __mmask8 fits) {
    return _mm512_maskz_cvtpd_epi64(fits, _mm512_mul_pd(values, scale));
  }
  static __mmask8 below(__m256 values, __m256 limit) {
    return _mm256_cmp_ps_mask(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), values), limit, _CMP_LT_OQ);
  }
  static __mmask8 below(__m512d values, __m512d limit) {
    return _mm512_cmp_pd_mask(_mm512_abs_pd(values), limit, _CMP_LT_OQ);
  }
  static __m256 load(const float* values, __mmask8 here) { return _mm256_maskz_loadu_ps(here, values); }
  static __m512d load(const double* values, __mmask8 here) { return _mm512_maskz_loadu_pd(here, values); }
  static __m256 all(float value) { return _mm256_set1_ps(value); }
  static __m512d all(double value) { return _mm512_set1_pd(value); }

  template <class T>
  static Index row(Index count, const T* values, int fraction, const Word* also, Word* out) {
    const auto scale = all(static_cast<T>(Word{1} << fraction)), limit = all(static_cast<T>(Word{1} << (62 - fraction)));
    Index fitting = 0;
    for (Index i = 0; i < count; i += 8) {
      const auto here = static_cast<__mmask8>(count - i < 8 ? 0xFF >> (8 - (count - i)) : 0xFF);
      const auto eight = load(values + i, here);
      const __mmask8 fits = below(eight, limit);
      fitting += __builtin_popcount(fits & here);
      const __m512i sum = _mm512_add_epi64(_mm512_maskz_loadu_epi64(here, out + i), _mm512_maskz_loadu_epi64(here, also + i));
      _mm512_mask_storeu_epi64(out + i, here, _mm512_add_epi64(sum, words(eight, scale, fits)));
    }
    return count - fitting;
  }
};

#include "gemm.inl"
#include "tables.inl"
#include "bits.inl"
#include "encode.inl"
#include "words.inl"
#include "points.inl"

}  // namespace

const Kernels kAvx512 = {
    "avx512",  gemm,        pack,        multiply,    multiply,      multiply, table_sums, planes,   unplanes,
    shift_right, wrap_truncate, combine, cross_share, shift_share, round_shift, to_octets, from_octets, encode16, encode32, encode64,
    point_sums};

}  // namespace moiety
