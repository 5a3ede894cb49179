// Bit planes and shifts. Included inside the anonymous namespace of each instruction set, after its Bits:
//   Bits::split(words, width, planes)   bit w of 64 words into planes[w], w < width
//   Bits::join(planes, width, words)    the inverse

void planes(Index count, Index width, const Word* words, Word* out) {
  const Index columns = (count + 63) / 64;
  Word column[64], block[64];
  for (Index c = 0; c < columns; ++c) {
    const Index here = least(64, count - 64 * c);
    const Word* from = words + 64 * c;
    if (here < 64) {
      std::memset(block, 0, sizeof block);
      std::memcpy(block, from, here * sizeof(Word));
      from = block;
    }
    Bits::split(from, width, column);
    for (Index w = 0; w < width; ++w) out[w * columns + c] = column[w];
  }
}

void unplanes(Index count, Index width, const Word* planes, Word* out) {
  const Index columns = (count + 63) / 64;
  Word column[64], block[64];
  for (Index c = 0; c < columns; ++c) {
    const Index here = least(64, count - 64 * c);
    for (Index w = 0; w < width; ++w) column[w] = planes[w * columns + c];
    Word* to = here < 64 ? block : out + 64 * c;
    Bits::join(column, width, to);
    if (here < 64) std::memcpy(out + 64 * c, block, here * sizeof(Word));
  }
}

void shift_right(Index count, const Word* words, int bits, Word* out) {
  for (Index i = 0; i < count; ++i) out[i] = words[i] >> bits;
}

void wrap_truncate(Index count, const Word* masked, const Word* low, const Word* wrap, int bits, bool lead, Word* out) {
  constexpr Word kLift = Word{1} << 62;
  const Word take = lead ? ~Word{0} : 0;
  const Word back = (kLift >> bits) & take;
  for (Index i = 0; i < count; ++i) {
    const Word lifted = masked[i] + kLift;
    const Word carried = wrap[i] & ((lifted >> 63) - 1);
    out[i] = ((lifted >> bits) & take) - back - low[i] + carried;
  }
}

// The 64 x 64 bit matrix, transposed in place by swapping ever smaller squares.
inline void transpose(Word* x) {
  Word mask = 0x00000000FFFFFFFFu;
  for (int step = 32; step != 0; step >>= 1, mask ^= mask << step) {
    for (int i = 0; i < 64; i = (i + step + 1) & ~step) {
      const Word swap = ((x[i] >> step) ^ x[i + step]) & mask;
      x[i] ^= swap << step;
      x[i + step] ^= swap;
    }
  }
}
