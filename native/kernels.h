// The kernels of Z_2^64 as a table of functions, one table per instruction set. Plain pointers and sizes; the callers in
// moiety/ring have checked every shape. All matrices are row-major.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moiety {

using Word = std::uint64_t;
using Octet = std::uint8_t;
using Index = std::ptrdiff_t;

constexpr Index kPanel = 32;  // columns of a packed panel

// What a product fetches into the cache while it runs: so many cache lines, from `at` on, for every row of its right side.
struct Ahead {
  const char* at;
  int lines;
};

struct Kernels {
  const char* isa;
  // out (m, n) += or -= a (m, k) @ b (k, n)
  void (*gemm)(Index m, Index k, Index n, const Word* a, const Word* b, Word* out);
  // (k, n) into zero-padded panels (ceil(n / 32), k, 32)
  void (*pack)(Index k, Index n, const Word* b, Word* panels);
  // out (m, n) += or -= a (m, k) @ the packed matrix
  void (*multiply)(Index m, Index k, Index n, const Word* a, const Word* panels, Word* out, bool negate);
  // the same with a packed matrix of small signed integers
  void (*multiply16)(Index m, Index k, Index n, const Word* a, const std::int16_t* panels, Word* out, bool negate);
  void (*multiply32)(Index m, Index k, Index n, const Word* a, const std::int32_t* panels, Word* out, bool negate);
  // out[t, i] = sum of tables[t][(index[i] - j) mod size] over the set bits j of row i; size is a power of two >= 8
  void (*table_sums)(Index rows, Index size, Index tables, const Octet* selectors, const Word* index, const Word* table,
                     Word* out);
  void (*planes)(Index count, Index width, const Word* words, Word* out);
  void (*unplanes)(Index count, Index width, const Word* planes, Word* out);
  void (*shift_right)(Index count, const Word* words, int bits, Word* out);
  void (*wrap_truncate)(Index count, const Word* masked, const Word* low, const Word* wrap, int bits, bool lead,
                        Word* out);
  void (*combine)(Index count, const Word* a, const Word* b, bool subtract, int bits, Word* out);
  void (*cross_share)(Index count, const Word* mx, const Word* lx, const Word* my, const Word* ly, const Word* dealt, int up,
                      bool lead, Word* out);
  void (*shift_share)(Index count, const Word* words, int by, int bits, bool lead, Word* out);
  void (*round_shift)(Index count, const Word* words, int by, int bits, Word* out);
  // words mod 2^bits as ceil(bits / 8) octets each, by columns (moiety/ring/wire.py), and back
  void (*to_octets)(Index count, const Word* words, int bits, Octet* out);
  void (*from_octets)(Index count, const Octet* octets, int bits, Word* out);
  // out (rows, columns; stride words a row) += also + round(gain[row] * values * 2^fraction), a gain of null is 1;
  // returns how many do not fit. 16: bfloat16
  Index (*encode16)(Index rows, Index columns, const std::uint16_t* values, Index down, Index across, const float* gain,
                    int fraction, const Word* also, Word* out, Index stride);
  Index (*encode32)(Index rows, Index columns, const float* values, Index down, Index across, const float* gain,
                    int fraction, const Word* also, Word* out, Index stride);
  Index (*encode64)(Index rows, Index columns, const double* values, Index down, Index across, const float* gain,
                    int fraction, const Word* also, Word* out, Index stride);
  // out[t, i] = sum of a party's values of point function i, `parts` words each, with the cells of a table turned by
  // index[i]; null where there is no AES
  void (*point_sums)(Index rows, Index size, Index parts, Index tables, const Octet* key, const Word* roots,
                     const Word* steps, const Word* last, const Word* index, const Word* local, const Word* table, bool lead,
                     Word* out);
};

extern const Kernels kPortable;
#ifdef MOIETY_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

// A buffer of this thread, aligned to a page and kept between calls; valid until the next call with the same slot.
// It lives outside the per-instruction-set files, whose inline code must not be shared between them.
enum Slot { kSlotRows, kSlotPanel, kSlotTables, kSlotBits, kSlots };
Word* scratch(Slot slot, std::size_t words);

}  // namespace moiety
