// Bit planes without special instructions. Included inside the anonymous namespace of the instruction sets that lack them.

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

struct Bits {
  static void split(const Word* words, Index width, Word* planes) {
    Word square[64];
    std::memcpy(square, words, sizeof square);
    transpose(square);
    std::memcpy(planes, square, width * sizeof(Word));
  }

  static void join(const Word* planes, Index width, Word* words) {
    std::memset(words, 0, 64 * sizeof(Word));
    std::memcpy(words, planes, width * sizeof(Word));
    transpose(words);
  }
};
